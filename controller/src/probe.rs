//! Dialling a node whose connection closed: a refusal is proof that its process is gone, silence is none.

use std::io::ErrorKind;
use std::time::Duration;

use odradek_common::ids::NodeId;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::node::command::Command;

const DIAL: Duration = Duration::from_secs(1);
/// A process that ends closes its sockets one after another: so often is it dialled again.
const REDIALS: usize = 10;
const PAUSE: Duration = Duration::from_millis(30);

/// What came of dialling an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialled {
    /// Nobody listens there.
    Refused,
    /// Somebody took the connection and kept it, or nothing can be said.
    Alive,
    /// The connection was reset: the listener is on its way down, or somebody is in the way.
    Closing,
}

/// Dials once; a connection that lasts as long as `lasting` is alive.
pub(crate) async fn dial(address: &str, lasting: Duration) -> Dialled {
    match tokio::time::timeout(DIAL, TcpStream::connect(address)).await {
        Ok(Ok(mut stream)) => {
            let mut byte = [0];
            let closed = tokio::time::timeout(lasting, stream.read(&mut byte)).await;
            if closed.is_ok() {
                Dialled::Closing
            } else {
                Dialled::Alive
            }
        }
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Dialled::Refused,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => Dialled::Closing,
        // An address that does not resolve or does not answer says nothing about the process.
        Ok(Err(_)) | Err(_) => Dialled::Alive,
    }
}

/// Dials every listener of a broker and reports. A listener for clients elsewhere may refuse controllers and yet be alive, so
/// only a broker that refuses on all of them is gone.
pub(crate) async fn broker(
    commands: mpsc::Sender<Command>,
    broker: NodeId,
    broker_epoch: i64,
    addresses: Vec<String>,
) {
    let mut refused = !addresses.is_empty();
    for address in &addresses {
        if !refuses(address).await {
            refused = false;
            break;
        }
    }
    let probed = Command::Probed {
        broker,
        broker_epoch,
        refused,
    };
    let _stopped = commands.send(probed).await;
}

async fn refuses(address: &str) -> bool {
    for _ in 0..REDIALS {
        match dial(address, PAUSE).await {
            Dialled::Refused => return true,
            Dialled::Alive => return false,
            Dialled::Closing => tokio::time::sleep(PAUSE).await,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_port_tells_whether_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        assert_eq!(dial(&address, PAUSE).await, Dialled::Alive);
        let closing = async {
            let accepted = listener.accept().await.expect("a connection");
            drop(accepted);
            let (second, _) = listener.accept().await.expect("another");
            drop(second);
        };
        let (_, dialled) = tokio::join!(closing, dial(&address, Duration::from_secs(5)));
        assert_eq!(dialled, Dialled::Closing);
        drop(listener);
        assert_eq!(dial(&address, PAUSE).await, Dialled::Refused);
    }
}
