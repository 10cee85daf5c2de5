//! Random histories, passes and crashes against a model: what was ever appended, and what is known of the passes.

use std::collections::BTreeMap;

use odradek_broker_core::producer_state::BATCHES_RETAINED;
use odradek_common::records::control::{EndTransactionMarker, TransactionResult};
use odradek_common::records::record::Header;
use proptest::prelude::*;

use super::*;

const RETENTION_MS: i64 = 100;
/// Its batches are in transactions; the others' are not.
const TRANSACTIONAL: i64 = 9;

/// What happens to the log.
#[derive(Clone, Debug)]
enum Step {
    /// A batch of these keys, with or without values, by a producer or nobody.
    Append {
        producer: Option<i64>,
        keys: Vec<(u8, bool)>,
        codec: u8,
    },
    /// The open transaction ends.
    End { commit: bool },
    /// A pass with a table of so many keys after so much time; the process dies before that swap, if there are so many.
    Pass {
        keys: usize,
        after_ms: i64,
        dies_before: Option<usize>,
    },
    /// The process dies.
    Kill,
    /// What the index has is flushed, with or without a checkpoint.
    Flush { checkpoint: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let append = (
        prop_oneof![
            Just(None),
            Just(Some(7)),
            Just(Some(8)),
            Just(Some(TRANSACTIONAL))
        ],
        prop::collection::vec((0..6_u8, prop::bool::weighted(0.7)), 1..4),
        0..5_u8,
    );
    let append = append.prop_map(|(producer, keys, codec)| Step::Append {
        producer,
        keys,
        codec,
    });
    let pass = (
        prop_oneof![Just(3_usize), Just(1_000)],
        0..150_i64,
        prop::option::weighted(0.3, 0..3_usize),
    );
    let pass = pass.prop_map(|(keys, after_ms, dies_before)| Step::Pass {
        keys,
        after_ms,
        dies_before,
    });
    let step = prop_oneof![
        24 => append,
        3 => any::<bool>().prop_map(|commit| Step::End { commit }),
        3 => pass,
        1 => Just(Step::Kill),
        1 => any::<bool>().prop_map(|checkpoint| Step::Flush { checkpoint }),
    ];
    prop::collection::vec(step, 20..120)
}

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq)]
struct Appended {
    timestamp: i64,
    key: u8,
    value: Option<String>,
    producer: Option<i64>,
}

struct World {
    fixture: Fixture,
    now: Now,
    appended: BTreeMap<i64, Appended>,
    /// First and marker offset of aborted transactions.
    aborted: Vec<(i64, i64)>,
    open_since: Option<i64>,
    sequences: BTreeMap<i64, i32>,
    last_batches: BTreeMap<i64, (Bytes, i64)>,
    /// When a pass first covered a tombstone.
    covered_ms: BTreeMap<i64, i64>,
}

impl World {
    fn new() -> Self {
        Self {
            fixture: Fixture::with(compacted(RETENTION_MS)),
            now: NOW,
            appended: BTreeMap::new(),
            aborted: Vec::new(),
            open_since: None,
            sequences: BTreeMap::new(),
            last_batches: BTreeMap::new(),
            covered_ms: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append {
                producer,
                keys,
                codec,
            } => self.append(*producer, keys, *codec),
            Step::End { commit } => self.end(*commit),
            Step::Pass {
                keys,
                after_ms,
                dies_before,
            } => self.pass(*keys, *after_ms, *dies_before),
            Step::Kill => self.reopen(self.fixture.kill()),
            Step::Flush { checkpoint } => {
                if *checkpoint {
                    self.fixture.log.checkpoint(self.now).unwrap();
                }
                self.fixture.directory.flush_index().unwrap();
            }
        }
    }

    fn reopen(&mut self, fixture: Fixture) {
        let end = self.fixture.log.log_end_offset();
        self.fixture = fixture;
        assert_eq!(self.fixture.log.log_end_offset(), end);
        self.fixture.log.set_high_watermark(end);
    }

    fn append(&mut self, producer: Option<i64>, keys: &[(u8, bool)], codec: u8) {
        let codec = Compression::from_id(codec.into()).unwrap();
        let mut builder = BatchBuilder::new(0).compression(codec, None);
        if let Some(id) = producer {
            let sequence = self.sequences.entry(id).or_insert(0);
            builder = builder.producer(id, 0, *sequence);
            *sequence += i32::try_from(keys.len()).unwrap();
            if id == TRANSACTIONAL {
                builder = builder.transactional();
            }
        }
        let first = self.fixture.log.log_end_offset();
        for ((key, has_value), offset) in keys.iter().zip(first..) {
            let record = Appended {
                timestamp: NOW.wall_ms + offset % 7,
                key: *key,
                value: has_value.then(|| format!("value {offset}")),
                producer,
            };
            let headers = [Header {
                key: b"offset",
                value: Some(&offset.to_be_bytes()),
            }];
            builder.append(
                record.timestamp,
                Some(&[*key]),
                record.value.as_deref().map(str::as_bytes),
                &headers,
            );
            self.appended.insert(offset, record);
        }
        let batch = builder.build();
        let info = self.fixture.append_batch(1, batch.clone());
        assert_eq!((info.first_offset, info.duplicate), (first, false));
        if let Some(id) = producer {
            self.last_batches.insert(id, (batch, first));
            if id == TRANSACTIONAL {
                self.open_since.get_or_insert(first);
            }
        }
    }

    fn end(&mut self, commit: bool) {
        let Some(first) = self.open_since.take() else {
            return;
        };
        let marker = EndTransactionMarker {
            result: if commit {
                TransactionResult::Commit
            } else {
                TransactionResult::Abort
            },
            coordinator_epoch: 0,
        };
        let info = self
            .fixture
            .append_batch(1, marker.to_batch(NOW.wall_ms, TRANSACTIONAL, 0));
        if !commit {
            self.aborted.push((first, info.first_offset));
        }
    }

    fn pass(&mut self, keys: usize, after_ms: i64, dies_before: Option<usize>) {
        self.now = self.now.plus_ms(after_ms.try_into().unwrap());
        let Some(plan) = self.fixture.log.compaction_plan(self.now).unwrap() else {
            return;
        };
        let memory = PassMemory {
            dedupe_bytes: keys * 24,
            ..PassMemory::default()
        };
        let mut swaps = 0;
        let mut killed = None;
        let fixture = &mut self.fixture;
        let outcome = plan.run(memory, &mut |_| Go::On, &mut |cleaned| {
            if dies_before == Some(swaps) {
                killed = Some(fixture.kill());
                return Ok(false);
            }
            swaps += 1;
            fixture.log.replace_segments(cleaned)
        });
        match (outcome.unwrap(), killed) {
            (None, Some(killed)) => self.reopen(killed),
            (Some(compacted), None) => {
                self.fixture.log.complete_compaction(compacted).unwrap();
            }
            (outcome, killed) => panic!("{} {}", outcome.is_some(), killed.is_some()),
        }
        // Also a pass that did not come to its end may have set the horizon.
        let until = self.fixture.log.active_segment_base_offset();
        for (offset, _) in self.appended.range(..until) {
            self.covered_ms.entry(*offset).or_insert(self.now.wall_ms);
        }
    }

    fn is_aborted(&self, offset: i64) -> bool {
        self.appended[&offset].producer == Some(TRANSACTIONAL)
            && self
                .aborted
                .iter()
                .any(|(first, marker)| (first..marker).contains(&&offset))
    }

    /// Every record that can be read, by offset; checks that each is as it was appended.
    fn readable(&self) -> Vec<i64> {
        let mut offsets = Vec::new();
        let log = &self.fixture.log;
        let mut next = log.log_start_offset();
        loop {
            let slice = log.read_plan(next, 1 << 20, i64::MAX, MinOneBatch::Yes).unwrap();
            let bytes = slice.read().unwrap();
            if bytes.is_empty() {
                return offsets;
            }
            for batch in batches(&bytes) {
                let (header, batch) = batch.unwrap();
                let (_, section) = decoded_section(batch, 1 << 20).unwrap();
                for record in records(&header, &section).filter(|_| !header.is_control()) {
                    let record = record.unwrap();
                    let original = &self.appended[&record.offset];
                    assert_eq!(record.timestamp, original.timestamp);
                    assert_eq!(record.key, Some(&[original.key][..]));
                    assert_eq!(record.value, original.value.as_deref().map(str::as_bytes));
                    let header = record.headers.iter().next().unwrap();
                    assert_eq!(header.value, Some(&record.offset.to_be_bytes()[..]));
                    assert!(offsets.last() < Some(&record.offset));
                    offsets.push(record.offset);
                }
                let greatest = header.max_timestamp;
                assert!(records(&header, &section).all(|record| record.unwrap().timestamp <= greatest));
                next = header.next_offset();
            }
        }
    }

    fn check(&self) {
        let readable = self.readable();
        let is_readable = |offset: i64| readable.binary_search(&offset).is_ok();
        let cleaned = self.fixture.log.cleaner_offset();
        for key in 0..6 {
            let committed: Vec<i64> = self
                .appended
                .iter()
                .filter(|(offset, record)| record.key == key && !self.is_aborted(**offset))
                .map(|(offset, _)| *offset)
                .collect();
            let Some((last, earlier)) = committed.split_last() else {
                continue;
            };
            if !is_readable(*last) {
                assert_eq!(self.appended[last].value, None, "the last value of {key} is gone");
                let covered_ms = self.covered_ms.get(last).copied().unwrap_or(i64::MAX);
                assert!(
                    self.now.wall_ms >= covered_ms.saturating_add(RETENTION_MS),
                    "tombstone {last} went early"
                );
                let visible = earlier.iter().find(|offset| is_readable(**offset));
                assert_eq!(visible, None, "{key} was deleted and is back");
            }
            // What is compacted holds no record that is hidden by another one in it.
            let compacted: Vec<&i64> = committed.iter().filter(|offset| **offset < cleaned).collect();
            let hidden = compacted.split_last().map_or(&[][..], |(_, hidden)| hidden);
            assert!(
                hidden.iter().all(|offset| !is_readable(**offset)),
                "{key}: {hidden:?}"
            );
        }
        let named = self.fixture.log.aborted_transactions(0, i64::MAX);
        for offset in self.appended.keys().filter(|offset| self.is_aborted(**offset)) {
            assert!(
                *offset >= cleaned || !is_readable(*offset),
                "{offset} was aborted"
            );
            if is_readable(*offset) {
                assert!(
                    named
                        .iter()
                        .any(|entry| (entry.first_offset..entry.last_offset).contains(offset))
                );
            }
        }
    }

    /// Producers are known, from the index and from the log alone.
    fn check_producers(mut self) {
        for rebuilt in [false, true] {
            let end = self.fixture.log.log_end_offset();
            let open_since = self.open_since;
            if rebuilt {
                self.fixture = self.fixture.damage(|folder| {
                    fs::remove_dir_all(folder.with_file_name("odradek-index")).unwrap();
                });
                assert_eq!(self.fixture.log.log_end_offset(), end);
                self.fixture.log.set_high_watermark(end);
                self.check();
            }
            assert_eq!(
                self.fixture.log.last_stable_offset(),
                open_since.unwrap_or(end).min(end)
            );
            for (id, (batch, first_offset)) in &self.last_batches {
                let known = self.fixture.log.producers().get(*id).unwrap();
                assert!(known.batches.len() <= BATCHES_RETAINED);
                assert_eq!(known.last_sequence() + 1, self.sequences[id]);
                let info = self.fixture.append_batch(1, batch.clone());
                assert_eq!((info.duplicate, info.first_offset), (true, *first_offset));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_compacted_log_is_what_the_model_says(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.step(&Step::Kill);
        world.check();
        world.check_producers();
    }
}
