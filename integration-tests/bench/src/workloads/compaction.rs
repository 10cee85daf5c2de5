//! A compacted topic: keys updated again and again, the time until one record of each is left, and a consumer that checks
//! what compaction promises meanwhile.
//!
//! Whoever reads from the start to the end sees offsets rise, no key go back to an older value, and of every key the last.

use anyhow::{Context, Result, bail, ensure};
use odradek_common::records::batch;
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::record::records;

use crate::admin::{self, Admin, NewTopic};
use crate::clock::{self, Nanos, SECOND};
use crate::metric::{Figures, Metric};
use crate::proc;
use crate::protocol::fetch::{self, FetchSettings, FetchTemplate};
use crate::protocol::produce;
use crate::scale::Scale;
use crate::systems::Cluster;
use crate::workloads::{topics, warm_up};

/// Segments are small, so that all but the last can be cleaned; a late record closes the last.
const CONFIGS: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("segment.bytes", "16777216"),
    ("segment.ms", "1000"),
];
/// Records of one batch.
const RECORDS_PER_BATCH: u32 = 1000;
/// Bytes of a value; the first are the number of the update.
const VALUE_BYTES: usize = 100;
/// The timestamp of the updates.
const TIMESTAMP_MS: i64 = 1_760_000_000_000;
/// How much later each record is that closes a segment.
const LATER_MS: i64 = 10_000;
/// Compaction takes no longer.
const LIMIT: Nanos = 600 * SECOND;
/// Keys of a small run.
const LEAST_KEYS: u64 = 5_000;
/// How the reader fetches.
const FETCH: FetchSettings = FetchSettings {
    min_bytes: 1,
    max_wait_ms: 500,
    partition_max_bytes: 4 << 20,
    read_committed: false,
};

/// Updates `keys` keys so many times, and waits until one record of each is left.
///
/// # Errors
/// A promise of compaction was broken, or it takes minutes.
pub fn run(cluster: &Cluster, row: &str, keys: u64, updates: u32, scale: &Scale) -> Result<Figures> {
    let keys = u32::try_from(scale.count(keys, LEAST_KEYS)).context("keys are numbered in 32 bits")?;
    warm_up::repeat(cluster, scale, || turn(cluster, row, keys, 1).map(drop))?;
    turn(cluster, row, keys, updates)
}

fn turn(cluster: &Cluster, row: &str, keys: u32, updates: u32) -> Result<Figures> {
    let name = topics::unique_name(row);
    let topic = NewTopic {
        name: &name,
        partitions: 1,
        replicas: 1,
        configs: CONFIGS,
    };
    admin::create_ready(&cluster.addresses(), &topic)?;
    let mut log = Log {
        connection: Admin::open(cluster.address())?,
        topic: &name,
        keys,
        end: 0,
    };
    let cpu_before = proc::total_cpu_seconds(&cluster.pids())?;
    let began = clock::now();
    for update in 0..updates {
        log.update_all(update)?;
    }
    let written = clock::now();
    log.wait_compacted(updates - 1)?;
    let ended = clock::now();
    let cpu = proc::total_cpu_seconds(&cluster.pids())? - cpu_before;
    topics::delete(cluster, &name)?;
    let mut figures = Figures::default();
    figures.set(Metric::Wall, clock::milliseconds_between(began, ended));
    figures.set(Metric::Settling, clock::milliseconds_between(written, ended));
    figures.set(Metric::CpuTime, cpu * 1e3);
    Ok(figures)
}

/// The compacted partition.
struct Log<'a> {
    connection: Admin,
    topic: &'a str,
    /// Keys below this are updated; the key of this number closes segments.
    keys: u32,
    /// The offset after the last record.
    end: i64,
}

/// What a reader found between the start and the end.
struct Found {
    /// Records of updated keys.
    records: u64,
    /// The last update of each key.
    last: Vec<Option<u32>>,
}

impl Log<'_> {
    fn update_all(&mut self, update: u32) -> Result<()> {
        let mut key = 0;
        while key < self.keys {
            let next = (key + RECORDS_PER_BATCH).min(self.keys);
            self.produce(key..next, update, TIMESTAMP_MS)?;
            key = next;
        }
        Ok(())
    }

    fn produce(&mut self, keys: std::ops::Range<u32>, update: u32, timestamp_ms: i64) -> Result<()> {
        let mut builder = BatchBuilder::new(0);
        let mut value = [b'v'; VALUE_BYTES];
        value[..4].copy_from_slice(&update.to_be_bytes());
        let count = i64::from(keys.end - keys.start);
        for key in keys {
            builder.append(timestamp_ms, Some(&key.to_be_bytes()), Some(&value), &[]);
        }
        let request = produce::request(self.topic, 0, 1, &builder.build())?;
        let answer = produce::acknowledgement(&self.connection.exchange(&request)?)?;
        ensure!(
            answer.error_code == 0,
            "an update was refused with error {}",
            answer.error_code
        );
        self.end = answer.base_offset + count;
        Ok(())
    }

    /// Closes segments and reads from the start, until one record of every key is left.
    fn wait_compacted(&mut self, last_update: u32) -> Result<()> {
        let limit = clock::now() + LIMIT;
        for round in 1.. {
            let closing = self.keys..self.keys + 1;
            self.produce(closing, 0, TIMESTAMP_MS + round * LATER_MS)?;
            let found = self.read_all()?;
            let lost = found.last.iter().position(|last| *last != Some(last_update));
            if let Some(key) = lost {
                bail!(
                    "key {key} ends with {:?} instead of update {last_update}",
                    found.last[key]
                );
            }
            if found.records == u64::from(self.keys) {
                return Ok(());
            }
            if clock::now() > limit {
                bail!(
                    "{} records of {} keys are left after minutes",
                    found.records,
                    self.keys
                );
            }
        }
        Ok(())
    }

    fn read_all(&mut self) -> Result<Found> {
        let mut template = FetchTemplate::new(self.topic, &[0], FETCH)?;
        let mut found = Found {
            records: 0,
            last: vec![None; self.keys as usize],
        };
        let mut position = 0;
        let mut requests = 0;
        while position < self.end {
            template.set_offset(0, position);
            requests += 1;
            let frame = self.connection.exchange(template.stamped(requests))?;
            fetch::for_each_partition(&frame, |fetched| {
                ensure!(
                    fetched.error_code == 0,
                    "a fetch was refused with error {}",
                    fetched.error_code
                );
                position = found.take(fetched.records, position)?;
                Ok(())
            })?;
        }
        Ok(found)
    }
}

impl Found {
    /// Takes fetched batches from `position` on; the position after them.
    fn take(&mut self, fetched: &[u8], mut position: i64) -> Result<i64> {
        for batch in batch::batches(fetched) {
            let (header, bytes) = batch?;
            for record in records(&header, batch::records_section(bytes)) {
                let record = record?;
                // A batch may begin below the offset that was asked for.
                if record.offset < position {
                    continue;
                }
                position = record.offset + 1;
                self.take_record(record.key, record.value)?;
            }
            position = position.max(header.next_offset());
        }
        Ok(position)
    }

    fn take_record(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<()> {
        let number = |bytes: Option<&[u8]>| Some(u32::from_be_bytes(*bytes?.first_chunk::<4>()?));
        let (Some(key), Some(update)) = (number(key), number(value)) else {
            bail!("a record has another key or value than it was written with");
        };
        let Some(last) = self.last.get_mut(key as usize) else {
            // The key that closes segments.
            return Ok(());
        };
        ensure!(
            last.is_none_or(|last| last < update),
            "key {key} goes from update {last:?} to {update}"
        );
        *last = Some(update);
        self.records += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base_offset: i64, updates: &[(u32, u32)]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(base_offset);
        for (key, update) in updates {
            builder.append(0, Some(&key.to_be_bytes()), Some(&update.to_be_bytes()), &[]);
        }
        builder.build().to_vec()
    }

    fn found(keys: usize) -> Found {
        Found {
            records: 0,
            last: vec![None; keys],
        }
    }

    #[test]
    fn the_last_update_of_each_key_is_found_and_others_keys_do_not_count() {
        let mut found = found(2);
        let bytes = [batch(0, &[(0, 1), (1, 1)]), batch(7, &[(0, 4), (2, 9)])].concat();
        assert_eq!(found.take(&bytes, 0).unwrap(), 9);
        assert_eq!((found.records, found.last), (3, vec![Some(4), Some(1)]));
    }

    #[test]
    fn a_key_that_goes_back_is_an_error() {
        let error = found(1).take(&batch(0, &[(0, 5), (0, 3)]), 0).unwrap_err();
        assert!(error.to_string().contains("goes from"), "{error}");
    }

    #[test]
    fn records_below_the_position_were_read_before() {
        let mut found = found(2);
        assert_eq!(found.take(&batch(0, &[(0, 1), (1, 1)]), 1).unwrap(), 2);
        assert_eq!(found.records, 1);
    }
}
