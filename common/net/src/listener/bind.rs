//! Opening a listening socket, with errors that say what to do.
//!
//! Does not accept; a bound socket already queues clients, up to the backlog.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// Why a listener cannot be opened.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody listens there already.
    #[error(
        "listener {listener}: address {address} is already in use; stop the process that listens there, or choose another port in `listeners`"
    )]
    AddressInUse {
        /// The listener's name.
        listener: String,
        /// The address asked for.
        address: String,
    },
    /// No interface of this machine has the address.
    #[error(
        "listener {listener}: address {address} belongs to no interface of this machine; put a local address into `listeners` and the public one into `advertised.listeners`"
    )]
    NotLocal {
        /// The listener's name.
        listener: String,
        /// The address asked for.
        address: String,
    },
    /// The port needs a privilege.
    #[error(
        "listener {listener}: no permission to listen on {address}; choose a port of 1024 or above in `listeners`"
    )]
    Permission {
        /// The listener's name.
        listener: String,
        /// The address asked for.
        address: String,
    },
    /// The host name means nothing here.
    #[error("listener {listener}: cannot resolve host {host}; correct it in `listeners`")]
    Resolve {
        /// The listener's name.
        listener: String,
        /// The host asked for.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Anything else.
    #[error("listener {listener}: cannot listen on {address}")]
    Other {
        /// The listener's name.
        listener: String,
        /// The address asked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Opens a socket on the first of the host's addresses that works; an empty host means all interfaces.
pub(super) fn bind(listener: &str, host: &str, port: u16, backlog: i32) -> Result<TcpListener, BindError> {
    let mut failure = None;
    for address in addresses(listener, host, port)? {
        match open(address, backlog) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = Some((address, error)),
        }
    }
    match failure {
        Some((address, error)) => Err(explain(listener, address, error)),
        None => Err(BindError::Resolve {
            listener: listener.to_owned(),
            host: host.to_owned(),
            source: io::Error::new(ErrorKind::NotFound, "the name has no address"),
        }),
    }
}

fn addresses(listener: &str, host: &str, port: u16) -> Result<Vec<SocketAddr>, BindError> {
    if host.is_empty() {
        // All interfaces: dual stack where the kernel has IPv6, else IPv4.
        return Ok(vec![
            (Ipv6Addr::UNSPECIFIED, port).into(),
            (Ipv4Addr::UNSPECIFIED, port).into(),
        ]);
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'))
        .unwrap_or(host);
    let resolved = (bare, port)
        .to_socket_addrs()
        .map_err(|source| BindError::Resolve {
            listener: listener.to_owned(),
            host: host.to_owned(),
            source,
        })?;
    Ok(resolved.collect())
}

fn open(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != Ipv6Addr::UNSPECIFIED)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog.max(1))?;
    Ok(socket.into())
}

fn explain(listener: &str, address: SocketAddr, source: io::Error) -> BindError {
    let listener = listener.to_owned();
    let address = address.to_string();
    if source.kind() == ErrorKind::AddrInUse {
        return BindError::AddressInUse { listener, address };
    }
    if source.kind() == ErrorKind::AddrNotAvailable {
        return BindError::NotLocal { listener, address };
    }
    if source.kind() == ErrorKind::PermissionDenied {
        return BindError::Permission { listener, address };
    }
    BindError::Other {
        listener,
        address,
        source,
    }
}
