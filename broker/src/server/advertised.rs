//! The addresses that clients are told: completed, and dialled once so that a wrong one is found at boot.

use std::sync::Arc;
use std::time::Duration;

use odradek_config::ServerConfig;
use odradek_config::listener::Listener;
use odradek_net::listener::BoundListener;
use odradek_net::pool::join_address;
use slog::Logger;
use tokio::net::TcpStream;

const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// The advertised listeners, with the machine's name where the host is empty and the bound port where it was 0.
pub(super) fn complete(config: &ServerConfig, served: &[(String, u16)]) -> Vec<Listener> {
    let complete = |listener: &Listener| {
        let mut listener = listener.clone();
        if listener.host.is_empty() {
            let name = rustix::system::uname();
            listener.host = name.nodename().to_str().unwrap_or("localhost").to_owned();
        }
        if listener.port == 0
            && let Some((_, port)) = served.iter().find(|(name, _)| *name == listener.name)
        {
            listener.port = *port;
        }
        listener
    };
    config.listeners.advertised.iter().map(complete).collect()
}

/// The bound ports by listener name.
pub(super) fn ports(bound: &[(String, BoundListener)]) -> Vec<(String, u16)> {
    let port = |(name, bound): &(String, BoundListener)| (name.clone(), bound.local_addr().port());
    bound.iter().map(port).collect()
}

/// The line that a wrong advertised address comes from.
fn line_to_change(config: &ServerConfig) -> String {
    let (advertised, listeners) = (config.origin("advertised.listeners"), config.origin("listeners"));
    match (advertised, listeners) {
        (Some(origin), _) => format!("advertised.listeners ({origin})"),
        (None, Some(origin)) => {
            format!("advertised.listeners, which is not set and follows listeners ({origin})")
        }
        (None, None) => "advertised.listeners".to_owned(),
    }
}

/// Dials each address and names those that cannot be reached, with the line to change.
pub(super) async fn check(listeners: Vec<Listener>, config: Arc<ServerConfig>, log: Logger) {
    for listener in listeners {
        let address = join_address(&listener.host, listener.port);
        let problem = match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", DIAL_TIMEOUT.as_secs()),
        };
        slog::warn!(log, "clients and other nodes are told an address that cannot be reached from this machine";
            "change" => line_to_change(&config), "listener" => &listener.name, "address" => address, "problem" => problem);
    }
}
