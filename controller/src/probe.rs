//! Dialling a broker whose connection closed: a refusal is proof that its process is gone, silence is none.

use std::io::ErrorKind;
use std::time::Duration;

use odradek_common::ids::NodeId;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::node::command::Command;

const DIAL: Duration = Duration::from_secs(1);

/// Dials every listener and reports. A listener for clients elsewhere may refuse controllers and yet be alive, so only a
/// broker that refuses on all of them is gone.
pub(crate) async fn dial(
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
    matches!(
        tokio::time::timeout(DIAL, TcpStream::connect(address)).await,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused
    )
}
