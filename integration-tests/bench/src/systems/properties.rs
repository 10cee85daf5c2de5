//! The server.properties of a node: the same lines for Odradek and for Apache Kafka.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::systems::{Shape, System};

/// Client listener, controller listener, metrics.
pub const PORTS_PER_NODE: usize = 3;

/// The properties file of a node.
pub fn file(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("node-{number}.properties"))
}

/// `log.dirs` of a node.
pub fn log_dir(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("data-{number}"))
}

/// Writes the properties of all nodes. The first ports are the client listeners, by node.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, shape: &Shape, ports: &[u16]) -> Result<()> {
    for number in 1..=shape.nodes {
        let path = file(folder, number);
        fs::write(&path, lines(folder, shape, ports, number).join("\n") + "\n")
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn lines(folder: &Path, shape: &Shape, ports: &[u16], number: usize) -> Vec<String> {
    let nodes = shape.nodes;
    let (client, controller, metrics) = (
        ports[number - 1],
        ports[nodes + number - 1],
        ports[2 * nodes + number - 1],
    );
    let voters: Vec<String> = (1..=nodes)
        .map(|node| format!("{node}@127.0.0.1:{}", ports[nodes + node - 1]))
        .collect();
    let mut lines = vec![
        "process.roles=broker,controller".to_owned(),
        format!("node.id={number}"),
        format!("controller.quorum.voters={}", voters.join(",")),
        format!("listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}"),
        format!("advertised.listeners=PLAINTEXT://127.0.0.1:{client}"),
        "controller.listener.names=CONTROLLER".to_owned(),
        "inter.broker.listener.name=PLAINTEXT".to_owned(),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
        format!("log.dirs={}", log_dir(folder, number).display()),
        format!("default.replication.factor={nodes}"),
        format!("offsets.topic.replication.factor={nodes}"),
        format!("transaction.state.log.replication.factor={nodes}"),
        format!("transaction.state.log.min.isr={}", nodes.min(2)),
    ];
    match shape.system {
        System::Odradek => lines.push(format!("odradek.metrics.listener=127.0.0.1:{metrics}")),
        System::KafkaTuned => lines.extend(tuned()),
        System::Kafka | System::Floor => {}
    }
    lines.extend(shape.overrides.iter().cloned());
    lines
}

/// Socket buffers that the kernel sizes, room for whoever connects, a fetcher for each core, and no pauses where a single client waits:
/// before the end of the last transaction is looked for again, and before the metadata log is written.
fn tuned() -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    vec![
        format!("num.replica.fetchers={cores}"),
        "socket.send.buffer.bytes=-1".to_owned(),
        "socket.receive.buffer.bytes=-1".to_owned(),
        "replica.socket.receive.buffer.bytes=-1".to_owned(),
        "socket.listen.backlog.size=4096".to_owned(),
        "queued.max.requests=1000".to_owned(),
        "add.partitions.to.txn.retry.backoff.ms=1".to_owned(),
        "controller.quorum.append.linger.ms=0".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_three_names_all_voters_and_its_own_ports() {
        let shape = Shape {
            system: System::Odradek,
            nodes: 3,
            overrides: vec!["a=b".to_owned()],
            awaits_each_removal: true,
        };
        let ports = [1, 2, 3, 11, 12, 13, 21, 22, 23];
        let lines = lines(Path::new("/data"), &shape, &ports, 2);
        for wanted in [
            "controller.quorum.voters=1@127.0.0.1:11,2@127.0.0.1:12,3@127.0.0.1:13",
            "listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:12",
            "odradek.metrics.listener=127.0.0.1:22",
            "log.dirs=/data/data-2",
            "transaction.state.log.min.isr=2",
            "a=b",
        ] {
            assert!(
                lines.iter().any(|line| line == wanted),
                "{wanted} is missing from {lines:?}"
            );
        }
    }
}
