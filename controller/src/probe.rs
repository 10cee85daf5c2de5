//! Dialling a broker whose connection closed: a refusal is proof that its process is gone, silence is none.

use std::io::ErrorKind;
use std::time::Duration;

use odradek_common::ids::NodeId;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::node::command::Command;

const DIAL: Duration = Duration::from_secs(1);

/// Dials and reports.
pub(crate) async fn dial(commands: mpsc::Sender<Command>, broker: NodeId, broker_epoch: i64, address: String) {
    let refused = matches!(
        tokio::time::timeout(DIAL, TcpStream::connect(&address)).await,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused
    );
    let _stopped = commands.send(Command::Probed { broker, broker_epoch, refused }).await;
}
