//! What a JVM needs before it is measured: hot code that is compiled.
//!
//! It gets the very load, on data that is removed again. What is measured afterwards begins for every system in the same way: a
//! new topic, a disk that has settled, the same seconds of load before the window. Otherwise a window would lie after the kernel has
//! begun to write the load back for the one, and before that for the other.

use anyhow::Result;

use crate::clock;
use crate::scale::Scale;
use crate::systems::Cluster;

/// Gives a JVM some seconds of work, which is told for how long; others need none.
///
/// # Errors
/// The work failed.
pub fn once(cluster: &Cluster, scale: &Scale, work: impl FnOnce(f64) -> Result<()>) -> Result<()> {
    match scale.jvm_warm_seconds_of(cluster.system(), cluster.nodes()) {
        Some(seconds) => work(seconds),
        None => Ok(()),
    }
}

/// Gives a JVM short work again and again, until it has had enough; others need none.
///
/// # Errors
/// The work failed.
pub fn repeat(cluster: &Cluster, scale: &Scale, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    once(cluster, scale, |seconds| {
        let until = clock::now() + clock::seconds(seconds);
        while clock::now() < until {
            work()?;
        }
        Ok(())
    })
}
