//! What ends a healing, and how fast it goes. The other replica is a function.

use std::os::unix::fs::FileExt;
use std::time::Instant;

use odradek_broker_log::directory::{LogDirectory, LogDirectoryOptions};
use odradek_common::records::builder::BatchBuilder;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::super::{BACKOFF_MAX, BACKOFF_MIN, Backoff, Occasion};
use super::*;
use crate::background::Stop;
use crate::cleaner::cleaning::Failure;
use crate::data_directory::DataDirectory;
use crate::fixtures::LoneBroker;

const BATCHES: i64 = 10;
const LEADER: NodeId = 2;

fn batch(base_offset: i64) -> Bytes {
    let mut builder = BatchBuilder::new(base_offset);
    builder.append(1_700_000_000_000, None, Some(b"value"), &[]);
    builder.build()
}

/// A broker with one replica, whose first segment is sealed and damaged.
struct Damaged {
    folder: TempDir,
    rounds: Rounds,
    replica: Arc<Replica>,
}

impl Damaged {
    fn new() -> Self {
        let damaged = Self::unseen();
        let (rounds, replica) = (&damaged.rounds, &damaged.replica);
        let segment = replica.with(|p| p.log().sealed_segment_from(0)).unwrap();
        let found = rounds.check(replica, &segment, Occasion::Pass);
        assert!(found.unwrap().is_some());
        damaged
    }

    /// Nobody knows of the damage.
    fn unseen() -> Self {
        let folder = TempDir::new().unwrap();
        let mut lone = LoneBroker::at(&folder.path().join("a"));
        lone.create("t", LEADER);
        let replica = lone.broker.replicas.get("t", 0).unwrap();
        let path = replica.with(|p| {
            let log = p.log_mut();
            for offset in 0..BATCHES {
                log.append_as_follower(clock::now(), &batch(offset), 0).unwrap();
            }
            log.roll(clock::now()).unwrap();
            log.set_high_watermark(BATCHES);
            log.sealed_segment_from(0).unwrap().path().to_owned()
        });
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"damage", 70).unwrap();
        let rounds = Rounds {
            broker: lone.broker,
            runtime: tokio::runtime::Handle::current(),
            stop: Arc::new(Stop::default()),
            throttle: Mutex::default(),
            backoffs: Mutex::default(),
        };
        Self {
            folder,
            rounds,
            replica,
        }
    }

    fn is_damaged(&self) -> bool {
        self.replica.with(|p| p.log().damaged_segments()) > 0
    }

    fn scrub_at(&self, bytes_per_second: i64) {
        let mut config = (**self.rounds.broker.config.load()).clone();
        config.odradek.scrub_bytes_per_second = bytes_per_second;
        self.rounds.broker.config.store(Arc::new(config));
    }

    /// Heals from a peer that answers each request with one batch, after `before` was done; also says how many it has answered.
    async fn heal(&self, mut before: impl FnMut(i64)) -> (Result<Range<i64>, HealingError>, i64) {
        let mut requests = 0;
        let healed = self.rounds.replace(&self.replica, async |offset| {
            requests += 1;
            before(offset);
            Ok(Fetched {
                records: batch(offset),
                high_watermark: BATCHES,
            })
        });
        let healed = healed.await;
        (healed, requests)
    }
}

#[tokio::test]
async fn what_a_peer_sends_piece_by_piece_is_put_in_place() {
    // Also after the checks were switched off.
    for bytes_per_second in [1 << 30, 0] {
        let damaged = Damaged::new();
        damaged.scrub_at(bytes_per_second);
        let (healed, requests) = damaged.heal(|_| ()).await;
        assert_eq!((healed.unwrap(), requests), (0..BATCHES, BATCHES));
        assert!(!damaged.is_damaged());
    }
}

#[tokio::test]
async fn what_compaction_finds_corrupt_is_checked_at_once_and_compacted_once_it_is_healed() {
    for bytes_per_second in [1 << 30, 0] {
        let damaged = Damaged::unseen();
        damaged.scrub_at(bytes_per_second);
        let (rounds, replica) = (&damaged.rounds, &damaged.replica);
        let cleaning = &rounds.broker.cleaning;
        let before = Some(Instant::now());
        let mut healed = before;
        // The active segment is none that can be checked, and of another one nobody knows.
        for base_offset in [BATCHES, BATCHES + 1] {
            cleaning.suspect(replica, base_offset);
            rounds.check_suspects(&mut healed);
        }
        assert!(!damaged.is_damaged() && healed == before);
        cleaning.note_failure(replica, Instant::now());
        cleaning.suspect(replica, 0);
        rounds.check_suspects(&mut healed);
        assert!(damaged.is_damaged() && healed.is_none(), "{bytes_per_second}");
        assert!(cleaning.take_suspects().is_empty());
        let (replaced, _) = damaged.heal(|_| ()).await;
        replaced.unwrap();
        assert!(cleaning.is_uncleanable(replica));
        let next = cleaning.note_failure(replica, Instant::now());
        assert!(matches!(next, Failure::First { .. }), "it did not wait: {next:?}");
    }
}

#[tokio::test]
async fn a_suspicion_that_is_not_confirmed_changes_nothing() {
    let damaged = Damaged::new();
    damaged.heal(|_| ()).await.0.unwrap();
    let (rounds, replica) = (&damaged.rounds, &damaged.replica);
    rounds.broker.cleaning.suspect(replica, 0);
    let before = Some(Instant::now());
    let mut healed = before;
    rounds.check_suspects(&mut healed);
    assert!(!damaged.is_damaged() && healed == before);
}

#[tokio::test]
async fn a_stop_ends_a_healing_after_the_request_under_way() {
    let damaged = Damaged::new();
    let (healed, requests) = damaged
        .heal(|offset| {
            if offset == 3 {
                damaged.rounds.stop.set();
            }
        })
        .await;
    assert!(matches!(healed, Err(HealingError::Stopped)), "{healed:?}");
    assert_eq!(requests, 4);
    assert!(damaged.is_damaged());
}

#[tokio::test]
async fn a_log_that_is_cut_or_closed_meanwhile_is_fetched_no_further() {
    let damaged = Damaged::new();
    let replica = &damaged.replica;
    let (healed, requests) = damaged
        .heal(|_| {
            let cut = replica.with(|p| p.log_mut().truncate_to(clock::now(), 5));
            cut.unwrap();
        })
        .await;
    assert!(matches!(healed, Err(HealingError::Overtaken)), "{healed:?}");
    assert_eq!(requests, 1);
    let damaged = Damaged::new();
    let (healed, requests) = damaged.heal(|_| damaged.replica.close()).await;
    assert!(matches!(healed, Err(HealingError::Stopped)), "{healed:?}");
    assert_eq!(requests, 1);
}

#[tokio::test]
async fn what_is_fetched_is_paid_for_like_what_is_checked() {
    let damaged = Damaged::new();
    damaged.scrub_at(1);
    let (asked, first) = std::sync::mpsc::channel();
    let stop = damaged.rounds.stop.clone();
    let stopper = std::thread::spawn(move || {
        first.recv().unwrap();
        // Without a pause all would have been fetched long before.
        std::thread::sleep(Duration::from_millis(300));
        stop.set();
    });
    let (healed, requests) = damaged.heal(|_| asked.send(()).unwrap_or(())).await;
    assert!(matches!(healed, Err(HealingError::Stopped)), "{healed:?}");
    assert_eq!(requests, 1);
    stopper.join().unwrap();
}

#[tokio::test]
async fn a_replica_that_moves_is_not_healed_and_a_move_ends_a_healing() {
    let damaged = Damaged::new();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let path = damaged.folder.path().join("b");
    let logs = LogDirectory::open(&path, LogDirectoryOptions::default(), log).unwrap();
    let elsewhere = Arc::new(DataDirectory::new(uuid::Uuid::from_u128(2), logs));
    let (healed, requests) = damaged
        .heal(|_| {
            damaged.replica.begin_move(&elsewhere, clock::now()).unwrap();
        })
        .await;
    assert!(matches!(healed, Err(HealingError::Overtaken)), "{healed:?}");
    assert_eq!(requests, 1);
    let (healed, requests) = damaged.heal(|_| ()).await;
    assert!(matches!(healed, Err(HealingError::Overtaken)), "{healed:?}");
    assert_eq!(requests, 0);
    let here = damaged.replica.directory();
    damaged.replica.begin_move(&here, clock::now()).unwrap();
    let (healed, _) = damaged.heal(|_| ()).await;
    assert_eq!(healed.unwrap(), 0..BATCHES, "once it does not move any more");
}

#[tokio::test]
async fn a_log_that_could_not_be_healed_is_left_alone_for_longer_each_time() {
    let Damaged {
        rounds,
        replica,
        folder: _folder,
    } = Damaged::new();
    let backoff = || rounds.backoffs.lock().values().next().copied();
    let attempt = |before, outcome| {
        rounds.backoffs.lock().clear();
        let mut made = false;
        rounds.heal_unless(&replica, before, |_| {
            made = true;
            outcome
        });
        made
    };
    assert!(attempt(None, Attempt::Failed));
    let first = backoff().unwrap();
    assert_eq!(first.pause, BACKOFF_MIN);
    assert!(!attempt(Some(first), Attempt::Failed));
    assert_eq!(backoff().unwrap().since, first.since, "it goes on");
    let is_over = |backoff: Backoff| Backoff {
        since: backoff.since.checked_sub(backoff.pause).unwrap(),
        ..backoff
    };
    assert!(attempt(Some(is_over(first)), Attempt::Failed));
    let second = backoff().unwrap();
    assert_eq!(second.pause, 2 * BACKOFF_MIN);
    assert!(attempt(Some(is_over(second)), Attempt::Healed));
    assert!(backoff().is_none(), "another segment may be healed at once");
    let longest = Backoff {
        pause: BACKOFF_MAX,
        ..first
    };
    assert_eq!(Backoff::after(Some(longest), first.since).pause, BACKOFF_MAX);
}
