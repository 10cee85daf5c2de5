//! What compaction shows at a scrape; Kafka's metrics of LogCleaner and LogCleanerManager.

use std::sync::Arc;

use crate::broker::Broker;
use crate::clock;
use crate::data_directory::DataDirectory;
use crate::metrics::catalogue as names;
use crate::metrics::scrape::Exporter;

/// Writes the samples.
pub fn export(exporter: &mut Exporter, broker: &Broker) {
    let snapshot = broker.cleaning.snapshot();
    let mut one = |name, value| exporter.sample(name, &[], value);
    one(names::CLEANER_MAX_DIRTY, 100.0 * snapshot.max_dirty_ratio);
    one(names::CLEANER_RECOPY, 100.0 * snapshot.recopied);
    one(names::CLEANER_MAX_TIME, snapshot.max_elapsed.as_secs_f64());
    one(names::CLEANER_MAX_BUFFER, 100.0 * snapshot.max_table_used);
    one(names::CLEANER_MAX_DELAY, snapshot.max_delay_ms as f64 / 1000.0);
    one(
        names::CLEANER_SINCE_LAST_RUN,
        snapshot.since_last_run.as_secs_f64(),
    );
    one(names::CLEANER_DEAD_THREADS, snapshot.dead_threads as f64);
    let directories = broker.replicas.directories();
    // Partitions and bytes, by log directory.
    let mut uncleanable = vec![(0_u64, 0_u64); directories.len()];
    for replica in broker.replicas.all().iter() {
        let is_here = |directory: &Arc<DataDirectory>| Arc::ptr_eq(directory, &replica.directory());
        if let Some(at) = directories.iter().position(is_here)
            && broker.cleaning.is_uncleanable(replica)
        {
            let dirtiness = super::cleaning::dirtiness(replica, clock::now());
            let here = &mut uncleanable[at];
            here.0 += 1;
            here.1 += dirtiness.map_or(0, |dirtiness| dirtiness.dirty_bytes);
        }
    }
    let mut each = |name, value: fn(&(u64, u64)) -> u64| {
        for (directory, here) in directories.iter().zip(&uncleanable) {
            let path = directory.path().display().to_string();
            exporter.sample(name, &[("log_dir", &path)], value(here) as f64);
        }
    };
    each(names::CLEANER_UNCLEANABLE_PARTITIONS, |here| here.0);
    each(names::CLEANER_UNCLEANABLE_BYTES, |here| here.1);
}
