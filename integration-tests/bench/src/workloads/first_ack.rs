//! How long until a node takes records: asked again and again, by a client that does not wait between two attempts longer
//! than a millisecond.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::admin::{Admin, NewTopic};
use crate::batches::BatchShape;
use crate::clock::{self, Nanos, SECOND};
use crate::protocol::produce;
use crate::systems::Cluster;

/// Nothing takes longer.
const LIMIT: Nanos = 300 * SECOND;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(1);
/// What is produced.
const SHAPE: BatchShape = BatchShape::plain(1, 100);

/// Waits until each of these partitions has acknowledged one record; when the last one did.
///
/// # Errors
/// A node ended, or it takes minutes.
pub fn wait(cluster: &mut Cluster, topic: &str, partitions: &[i32]) -> Result<Nanos> {
    let limit = clock::now() + LIMIT;
    let mut left = partitions;
    loop {
        let reason = match produce_each(cluster.address(), topic, &mut left) {
            Ok(()) => return Ok(clock::now()),
            Err(reason) => reason,
        };
        if clock::now() > limit {
            bail!("no record is taken after {} s: {reason:#}", LIMIT / SECOND);
        }
        cluster.check_alive(1)?;
        std::thread::sleep(PAUSE);
    }
}

/// Produces to the partitions in turn; `left` is what has not been acknowledged.
fn produce_each(address: SocketAddr, topic: &str, left: &mut &[i32]) -> Result<()> {
    let mut connection = Admin::open(address)?;
    while let Some((partition, rest)) = left.split_first() {
        let request = produce::request(topic, *partition, 1, &SHAPE.build(1))?;
        let answer = produce::acknowledgement(&connection.exchange(&request)?)?;
        if answer.error_code != 0 {
            bail!("error {}", answer.error_code);
        }
        *left = rest;
    }
    Ok(())
}

/// Waits until the node creates a topic.
///
/// # Errors
/// A node ended, or it takes minutes.
pub fn create_topic(cluster: &mut Cluster, topic: &NewTopic<'_>) -> Result<()> {
    let limit = clock::now() + LIMIT;
    loop {
        let address = cluster.address();
        let created =
            Admin::open(address).and_then(|mut admin| admin.create_topics(std::slice::from_ref(topic)));
        let Err(reason) = created else { return Ok(()) };
        if clock::now() > limit {
            bail!("no topic is created after {} s: {reason:#}", LIMIT / SECOND);
        }
        cluster.check_alive(1)?;
        std::thread::sleep(PAUSE);
    }
}
