//! One leader, its followers and an in-memory log.

use super::*;

#[derive(Default)]
struct MemoryLog {
    end: i64,
    /// Of what is at the end, so many records wait for a flush.
    unflushed: i64,
    high_watermark: i64,
    epochs: Vec<(i32, i64)>,
    is_full: bool,
}

#[derive(Debug)]
struct NoRoom;

impl ReplicaLog for MemoryLog {
    type Error = NoRoom;

    fn log_start_offset(&self) -> i64 {
        0
    }
    fn log_end_offset(&self) -> i64 {
        self.end
    }
    fn durable_end_offset(&self) -> i64 {
        self.end - self.unflushed
    }
    fn high_watermark(&self) -> i64 {
        self.high_watermark
    }
    fn set_high_watermark(&mut self, offset: i64) {
        self.high_watermark = offset;
    }
    fn latest_epoch(&self) -> Option<i32> {
        self.epochs.last().map(|entry| entry.0)
    }
    fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        let at = self.epochs.iter().rposition(|entry| entry.0 <= epoch)?;
        let end = self.epochs.get(at + 1).map_or(self.end, |next| next.1);
        Some((self.epochs[at].0, end))
    }
    fn assign_epoch(&mut self, epoch: i32) -> Result<(), Self::Error> {
        if self.is_full {
            return Err(NoRoom);
        }
        self.epochs.push((epoch, self.end));
        Ok(())
    }
    fn truncate_to(&mut self, _now: Now, offset: i64) -> Result<(), Self::Error> {
        self.end = offset;
        self.epochs.retain(|entry| entry.1 < offset);
        Ok(())
    }
    fn truncate_fully_and_start_at(&mut self, _now: Now, offset: i64) -> Result<(), Self::Error> {
        self.end = offset;
        Ok(())
    }
}

const LAG_MAX_MS: u64 = 30_000;

fn at(ms: u64) -> Now {
    Now::new(ms, 0)
}

fn image(leader: NodeId, isr: &[NodeId], leader_epoch: i32, partition_epoch: i32) -> Arc<PartitionImage> {
    Arc::new(PartitionImage {
        replicas: vec![1, 2, 3],
        isr: isr.to_vec(),
        leader,
        leader_epoch,
        partition_epoch,
        ..Default::default()
    })
}

fn leader(min_insync_replicas: usize) -> Partition<MemoryLog> {
    let settings = PartitionSettings {
        replica_lag_time_max_ms: LAG_MAX_MS,
        min_insync_replicas,
    };
    let mut partition = Partition::new(TopicPartition::new("t", 0), 1, settings, MemoryLog::default());
    let change = partition.apply_image(at(0), &image(1, &[1, 2, 3], 0, 0)).unwrap();
    assert_eq!(change, RoleChange::BecameLeader);
    partition
}

fn append(partition: &mut Partition<MemoryLog>, ms: u64, records: i64) -> bool {
    partition.log_mut().end += records;
    partition.appended(at(ms))
}

fn fetch(partition: &mut Partition<MemoryLog>, ms: u64, replica: NodeId, offset: i64) -> FetchProgress {
    let fetch = FollowerFetch {
        replica,
        broker_epoch: 7,
        fetch_offset: offset,
        log_start_offset: 0,
    };
    partition.follower_fetched(at(ms), fetch).unwrap()
}

#[test]
fn the_high_watermark_waits_for_every_in_sync_replica() {
    let mut partition = leader(2);
    assert!(!append(&mut partition, 1, 10));
    assert!(!fetch(&mut partition, 2, 2, 10).high_watermark_moved);
    assert!(fetch(&mut partition, 3, 3, 10).high_watermark_moved);
    assert_eq!(partition.log().high_watermark, 10);
    assert_eq!(partition.check_committed(0, 10), Ok(true));
    assert_eq!(partition.check_committed(0, 11), Ok(false));
    assert_eq!(
        partition.check_committed(1, 10),
        Err(ErrorCode::NotLeaderOrFollower)
    );
}

#[test]
fn a_leader_that_stays_answers_for_what_it_appended_in_an_earlier_epoch() {
    let mut partition = leader(2);
    append(&mut partition, 1, 10);
    // Replica 3 left in a reassignment: the same leader, in a new epoch.
    partition.apply_image(at(2), &image(1, &[1, 2], 1, 1)).unwrap();
    assert_eq!(partition.check_committed(0, 10), Ok(false));
    assert_eq!(partition.check_durable(0, 10), Ok(true));
    append(&mut partition, 3, 5);
    // What came after it was appended in the new epoch, by whomever.
    assert_eq!(
        partition.check_committed(0, 11),
        Err(ErrorCode::NotLeaderOrFollower)
    );
    fetch(&mut partition, 4, 2, 10);
    assert_eq!(partition.check_committed(0, 10), Ok(true));
    partition.apply_image(at(5), &image(2, &[1, 2], 2, 2)).unwrap();
    assert_eq!(
        partition.check_committed(0, 10),
        Err(ErrorCode::NotLeaderOrFollower)
    );
}

#[test]
fn a_leader_knows_since_when_it_has_led_without_a_break() {
    let mut partition = leader(2);
    partition.apply_image(at(1), &image(1, &[1, 2], 3, 1)).unwrap();
    assert_eq!(partition.led_since(), Some(0), "it has stayed");
    partition.apply_image(at(2), &image(2, &[1, 2], 4, 2)).unwrap();
    assert_eq!(partition.led_since(), None);
    partition.apply_image(at(3), &image(1, &[1, 2], 5, 3)).unwrap();
    assert_eq!(partition.led_since(), Some(5));
}

#[test]
fn a_follower_of_a_partition_at_rest_lags_from_the_first_append_on() {
    let mut partition = leader(2);
    append(&mut partition, 1, 10);
    for replica in [2, 3] {
        fetch(&mut partition, 2, replica, 10);
    }
    // Nothing happens for a long time: nobody asks the followers.
    let later = 10 * LAG_MAX_MS;
    append(&mut partition, later, 1);
    append(&mut partition, later + 100, 1);
    assert_eq!(partition.propose_shrink(at(later + LAG_MAX_MS)), None);
    fetch(&mut partition, later + LAG_MAX_MS, 3, 12);
    let proposal = partition.propose_shrink(at(later + LAG_MAX_MS + 1)).unwrap();
    assert_eq!(proposal.isr, [(1, -1), (3, 7)]);
}

#[test]
fn of_its_own_log_the_leader_counts_what_is_flushed() {
    let mut partition = leader(2);
    partition.log_mut().unflushed = 10;
    append(&mut partition, 1, 10);
    fetch(&mut partition, 2, 2, 10);
    assert!(!fetch(&mut partition, 3, 3, 10).high_watermark_moved);
    assert_eq!(partition.check_durable(0, 10), Ok(false));
    partition.log_mut().unflushed = 4;
    assert!(partition.appended(at(4)));
    assert_eq!(partition.log().high_watermark, 6);
    partition.log_mut().unflushed = 0;
    assert!(partition.appended(at(5)));
    assert_eq!(partition.check_durable(0, 10), Ok(true));
    assert_eq!(partition.check_committed(0, 10), Ok(true));
    assert_eq!(
        partition.check_durable(1, 10),
        Err(ErrorCode::NotLeaderOrFollower)
    );
}

#[test]
fn a_lagging_follower_leaves_the_isr_and_returns() {
    let mut partition = leader(2);
    append(&mut partition, 1, 10);
    fetch(&mut partition, 2, 2, 10);
    assert_eq!(partition.propose_shrink(at(LAG_MAX_MS)), None);
    fetch(&mut partition, LAG_MAX_MS, 2, 10);
    let proposal = partition.propose_shrink(at(LAG_MAX_MS + 1)).unwrap();
    assert_eq!(proposal.isr, [(1, -1), (2, 7)]);
    assert!(proposal.shrinks);
    // Until the controller has recorded it, the old ISR counts.
    assert_eq!(partition.log().high_watermark, 0);
    partition
        .apply_image(at(LAG_MAX_MS + 2), &image(1, &[1, 2], 0, 1))
        .unwrap();
    assert_eq!(partition.log().high_watermark, 10);

    assert!(!fetch(&mut partition, LAG_MAX_MS + 3, 3, 4).may_expand);
    assert!(fetch(&mut partition, LAG_MAX_MS + 4, 3, 10).may_expand);
    assert_eq!(partition.propose_expansion(|_, _| false), None);
    let proposal = partition.propose_expansion(|_, epoch| epoch == 7).unwrap();
    assert_eq!(
        proposal.isr.iter().map(|member| member.0).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    // The proposed member already holds the high watermark back.
    append(&mut partition, LAG_MAX_MS + 5, 5);
    fetch(&mut partition, LAG_MAX_MS + 6, 2, 15);
    assert_eq!(partition.log().high_watermark, 10);
}

#[test]
fn nobody_waits_for_a_broker_that_has_left() {
    let mut partition = leader(2);
    fetch(&mut partition, 1, 3, 0);
    append(&mut partition, 2, 10);
    fetch(&mut partition, 3, 2, 10);
    // Right after a fetch broker 3 dies, or its disk: the controller takes it out of the ISR.
    partition.apply_image(at(4), &image(1, &[1, 2], 0, 1)).unwrap();
    assert_eq!(partition.log().high_watermark, 10);
    // It is back: the high watermark waits for it again, so that it can catch up under load.
    fetch(&mut partition, 5, 3, 10);
    append(&mut partition, 6, 5);
    fetch(&mut partition, 7, 2, 15);
    assert_eq!(partition.log().high_watermark, 10);
    assert!(partition.followers_changed(at(8), |replica| replica != 3));
    assert_eq!(partition.log().high_watermark, 15);
    assert!(!partition.followers_changed(at(9), |_| true));
    append(&mut partition, 10, 5);
    fetch(&mut partition, 11, 3, 15);
    fetch(&mut partition, 12, 2, 20);
    assert_eq!(partition.log().high_watermark, 15);
}

#[test]
fn who_was_taken_out_of_the_isr_is_proposed_only_after_it_has_fetched_again() {
    let mut partition = leader(1);
    append(&mut partition, 1, 10);
    for replica in [2, 3] {
        fetch(&mut partition, 2, replica, 10);
    }
    // The disk of broker 3 fails, and broker 2 restarts.
    partition.apply_image(at(3), &image(1, &[1, 2], 0, 1)).unwrap();
    partition.apply_image(at(4), &image(1, &[1], 0, 2)).unwrap();
    assert!(fetch(&mut partition, 5, 2, 10).may_expand);
    let members = |partition: &mut Partition<MemoryLog>| {
        let proposal = partition.propose_expansion(|_, _| true).unwrap();
        proposal.isr.iter().map(|member| member.0).collect::<Vec<_>>()
    };
    assert_eq!(members(&mut partition), [1, 2]);
    partition.proposal_refused(at(6), 2);
    assert!(fetch(&mut partition, 7, 3, 10).may_expand);
    assert_eq!(members(&mut partition), [1, 2, 3]);
}

#[test]
fn time_alone_ends_the_wait_for_a_follower_outside_the_isr() {
    let mut partition = leader(1);
    partition.apply_image(at(1), &image(1, &[1], 0, 1)).unwrap();
    fetch(&mut partition, 2, 3, 0);
    assert!(!append(&mut partition, 3, 10));
    assert!(!partition.advance_high_watermark(at(3 + LAG_MAX_MS)));
    assert!(partition.advance_high_watermark(at(4 + LAG_MAX_MS)));
    assert_eq!(partition.log().high_watermark, 10);
}

#[test]
fn a_lower_min_insync_replicas_lets_records_become_committed() {
    let mut partition = leader(2);
    partition.apply_image(at(1), &image(1, &[1], 0, 1)).unwrap();
    assert!(!append(&mut partition, 2, 10));
    let settings = PartitionSettings {
        min_insync_replicas: 1,
        ..partition.settings()
    };
    assert!(partition.set_settings(at(3), settings));
    assert_eq!(partition.log().high_watermark, 10);
}

#[test]
fn an_election_that_the_log_could_not_record_is_taken_over_when_it_comes_again() {
    let mut partition = leader(1);
    append(&mut partition, 1, 10);
    partition.apply_image(at(2), &image(2, &[2, 3], 1, 1)).unwrap();
    partition.log_mut().is_full = true;
    let elected = image(1, &[1, 2], 2, 2);
    assert!(partition.apply_image(at(3), &elected).is_err());
    assert_eq!(partition.leader_to_follow(), Some(2));
    partition.log_mut().is_full = false;
    let change = partition.apply_image(at(4), &elected).unwrap();
    assert_eq!(change, RoleChange::BecameLeader);
    assert_eq!(partition.log().epochs, [(0, 0), (2, 10)]);
}

#[test]
fn a_refused_proposal_leaves_the_committed_isr() {
    let mut partition = leader(1);
    append(&mut partition, 1, 10);
    fetch(&mut partition, LAG_MAX_MS + 1, 2, 10);
    assert!(partition.propose_shrink(at(LAG_MAX_MS + 2)).is_some());
    assert!(partition.propose_shrink(at(LAG_MAX_MS + 3)).is_none());
    partition.proposal_refused(at(LAG_MAX_MS + 4), 0);
    assert!(partition.propose_shrink(at(LAG_MAX_MS + 5)).is_some());
}

#[test]
fn nothing_is_committed_below_min_insync_replicas() {
    let mut partition = leader(2);
    partition.apply_image(at(1), &image(1, &[1], 0, 1)).unwrap();
    assert!(!append(&mut partition, 2, 10));
    assert_eq!(partition.log().high_watermark, 0);
    assert_eq!(
        partition.check_min_isr().unwrap_err().code,
        ErrorCode::NotEnoughReplicas
    );
}

#[test]
fn a_deposed_leader_truncates_to_where_the_logs_part() {
    let mut partition = leader(1);
    append(&mut partition, 1, 10);
    partition.apply_image(at(2), &image(2, &[2, 3], 1, 1)).unwrap();
    assert_eq!(partition.leader_to_follow(), Some(2));
    // The new leader's epoch 0 ended at 7.
    assert_eq!(partition.truncate_to_leader(at(3), 0, 7).unwrap(), 7);
    assert_eq!(partition.log().end, 7);
}

#[test]
fn the_leader_names_the_diverging_epoch() {
    let mut partition = leader(1);
    append(&mut partition, 1, 10);
    partition.apply_image(at(2), &image(1, &[1, 2, 3], 2, 1)).unwrap();
    append(&mut partition, 3, 5);
    assert_eq!(partition.diverging_epoch(10, 0), None);
    assert_eq!(partition.diverging_epoch(12, 0), Some((0, 10)));
    assert_eq!(partition.diverging_epoch(12, 1), Some((0, 10)));
    assert_eq!(partition.diverging_epoch(15, 2), None);
    assert_eq!(partition.diverging_epoch(16, 2), Some((2, 15)));
}

#[test]
fn epochs_fence_callers() {
    let mut partition = leader(1);
    partition.apply_image(at(1), &image(1, &[1, 2, 3], 3, 1)).unwrap();
    assert_eq!(partition.check_leader(-1), Ok(()));
    assert_eq!(partition.check_leader(2), Err(ErrorCode::FencedLeaderEpoch));
    assert_eq!(partition.check_leader(4), Err(ErrorCode::UnknownLeaderEpoch));
    // An image that was overtaken changes nothing.
    assert_eq!(
        partition.apply_image(at(2), &image(2, &[2], 2, 0)).unwrap(),
        RoleChange::Unchanged
    );
    assert!(partition.is_leader());
}

#[test]
fn history_read_again_after_a_restart_does_not_rewrite_epochs() {
    // Simulation, seed 2: a restarted node led once more in its first epoch, and forgot where the later ones began.
    let mut log = MemoryLog {
        end: 20,
        ..MemoryLog::default()
    };
    log.epochs = vec![(0, 0), (3, 12)];
    let settings = PartitionSettings {
        replica_lag_time_max_ms: LAG_MAX_MS,
        min_insync_replicas: 1,
    };
    let mut partition = Partition::new(TopicPartition::new("t", 0), 1, settings, log);
    assert_eq!(
        partition.apply_image(at(1), &image(1, &[1, 2, 3], 0, 0)).unwrap(),
        RoleChange::BecameIdle
    );
    assert_eq!(partition.log().epochs, [(0, 0), (3, 12)]);
    assert_eq!(
        partition.apply_image(at(2), &image(1, &[1, 2], 3, 4)).unwrap(),
        RoleChange::BecameLeader
    );
}

#[test]
fn the_same_image_again_leaves_an_open_proposal_open() {
    let mut partition = leader(1);
    append(&mut partition, 1, 10);
    assert!(partition.propose_shrink(at(LAG_MAX_MS + 2)).is_some());
    partition
        .apply_image(at(LAG_MAX_MS + 3), &image(1, &[1, 2, 3], 0, 0))
        .unwrap();
    assert!(partition.pending_proposal().is_some());
}

#[test]
fn a_member_that_is_only_proposed_does_not_lift_the_isr_to_its_minimum() {
    // Simulation, seed 2263: the controller refused the member, and the next leader did not have what it had let commit.
    let mut partition = leader(2);
    partition.apply_image(at(1), &image(1, &[1], 0, 1)).unwrap();
    append(&mut partition, 2, 10);
    assert!(fetch(&mut partition, 3, 2, 10).may_expand);
    assert!(partition.propose_expansion(|replica, _| replica == 2).is_some());
    fetch(&mut partition, 4, 2, 10);
    assert_eq!(partition.log().high_watermark, 0);
    partition.apply_image(at(5), &image(1, &[1, 2], 0, 2)).unwrap();
    assert_eq!(partition.log().high_watermark, 10);
}

#[test]
fn a_late_answer_does_not_truncate_a_leader() {
    let mut partition = leader(1);
    append(&mut partition, 1, 10);
    assert_eq!(partition.truncate_to_leader(at(2), 0, 7).unwrap(), 10);
    assert_eq!(partition.log().end, 10);
    partition.apply_image(at(3), &image(2, &[2, 3], 1, 1)).unwrap();
    assert!(partition.follows(2, 1) && !partition.follows(2, 0) && !partition.follows(3, 1));
}

#[test]
fn a_proposal_sent_again_names_the_incarnation_that_had_caught_up() {
    // The broker restarted without its last records while the first answer was open: under its new epoch it would join.
    let mut partition = leader(1);
    partition.apply_image(at(1), &image(1, &[1], 0, 1)).unwrap();
    append(&mut partition, 2, 10);
    fetch(&mut partition, 3, 2, 10);
    let proposal = partition.propose_expansion(|_, _| true).unwrap();
    assert_eq!(proposal.isr, [(1, -1), (2, 7)]);
    let restarted = FollowerFetch {
        replica: 2,
        broker_epoch: 8,
        fetch_offset: 4,
        log_start_offset: 0,
    };
    partition.follower_fetched(at(4), restarted).unwrap();
    assert_eq!(partition.pending_proposal(), Some(proposal));
}

#[test]
fn a_fetch_of_an_earlier_incarnation_tells_nothing() {
    let mut partition = leader(1);
    append(&mut partition, 1, 10);
    let of = |broker_epoch, fetch_offset| FollowerFetch {
        replica: 2,
        broker_epoch,
        fetch_offset,
        log_start_offset: 0,
    };
    partition.follower_fetched(at(2), of(8, 4)).unwrap();
    fetch(&mut partition, 3, 3, 10);
    assert_eq!(
        partition.follower_fetched(at(4), of(7, 10)),
        Err(ErrorCode::NotLeaderOrFollower)
    );
    assert_eq!(partition.log().high_watermark, 4);
}

#[test]
fn a_fetch_beyond_the_end_of_the_log_tells_nothing() {
    let mut partition = leader(1);
    partition.apply_image(at(1), &image(1, &[1], 0, 1)).unwrap();
    append(&mut partition, 2, 10);
    assert_eq!(fetch(&mut partition, 3, 2, 50), FetchProgress::default());
    append(&mut partition, 4, 20);
    assert_eq!(partition.propose_expansion(|_, _| true), None);
}
