//! Which leader epoch began at which offset of one partition's log.
//!
//! Owns the ordered list of (epoch, start offset) and answers where an epoch ends, which is what followers and consumers
//! compare after a change of leader (KIP-101, KIP-279, KIP-320). Persisting the list is the log's work.

/// The start of one leader epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEntry {
    /// The leader's epoch.
    pub epoch: i32,
    /// The offset of the first record of that epoch, or the log end offset when the leader was elected.
    pub start_offset: i64,
}

/// The leader epochs of a log: epochs and start offsets both strictly ascend, except that an epoch without records may
/// share no offset with its successor (the successor replaces it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: Vec<EpochEntry>,
}

impl LeaderEpochs {
    /// No epoch yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that `epoch` begins at `start_offset`; true if the list changed and must be persisted.
    ///
    /// Entries that contradict the new one (a larger epoch, or a start at or after this one) are dropped, so the list
    /// stays ascending whatever a previous incarnation of the log left behind; an epoch that has begun keeps its start.
    pub fn assign(&mut self, epoch: i32, start_offset: i64) -> bool {
        assert!(
            epoch >= 0 && start_offset >= 0,
            "epoch {epoch} at offset {start_offset} is no leader epoch"
        );
        if let Some(latest) = self.entries.last()
            && latest.epoch == epoch
            && start_offset >= latest.start_offset
        {
            return false;
        }
        let count_before = self.entries.len();
        while let Some(last) = self.entries.last()
            && (last.epoch > epoch || last.start_offset >= start_offset)
        {
            self.entries.pop();
        }
        // A follower that led in vain, without a record of its own, goes on with the epoch it had before.
        if self.latest_epoch() == Some(epoch) {
            return self.entries.len() < count_before;
        }
        self.entries.push(EpochEntry { epoch, start_offset });
        true
    }

    /// The newest epoch.
    #[must_use]
    pub fn latest(&self) -> Option<EpochEntry> {
        self.entries.last().copied()
    }

    /// The newest epoch's number.
    #[must_use]
    pub fn latest_epoch(&self) -> Option<i32> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// All epochs, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    /// The largest epoch at or below `epoch`, and where it ends, `log_end_offset` being the end of the newest.
    ///
    /// None when the answer is "undefined": no epoch is known, or `epoch` is above the newest. An epoch older than
    /// every entry ends where the oldest entry begins, and keeps its own number (KIP-279).
    #[must_use]
    pub fn end_offset_for(&self, epoch: i32, log_end_offset: i64) -> Option<(i32, i64)> {
        if epoch < 0 {
            return None;
        }
        let latest = self.entries.last()?;
        if latest.epoch == epoch {
            return Some((epoch, log_end_offset));
        }
        let higher = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let end_offset = self.entries.get(higher)?.start_offset;
        let floor = higher
            .checked_sub(1)
            .map_or(epoch, |index| self.entries[index].epoch);
        Some((floor, end_offset))
    }

    /// The epoch in which the record at `offset` was written; None below the oldest entry.
    #[must_use]
    pub fn epoch_for_offset(&self, offset: i64) -> Option<i32> {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        after.checked_sub(1).map(|index| self.entries[index].epoch)
    }

    /// Drops epochs that begin at or after `offset`, also when `offset` is the log's end (KAFKA-10706); true if changed.
    pub fn truncate_from_end(&mut self, offset: i64) -> bool {
        let keep = self.entries.partition_point(|entry| entry.start_offset < offset);
        let changed = keep < self.entries.len();
        self.entries.truncate(keep);
        changed
    }

    /// Drops epochs that end at or before `offset` and lets the one that contains it begin there; true if changed.
    pub fn truncate_from_start(&mut self, offset: i64) -> bool {
        let begun = self.entries.partition_point(|entry| entry.start_offset <= offset);
        if begun == 0 || (begun == 1 && self.entries[0].start_offset == offset) {
            return false;
        }
        self.entries.drain(..begun - 1);
        self.entries[0].start_offset = offset;
        true
    }

    /// Forgets every epoch.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// The list as bytes: per entry the epoch (4) and the start offset (8), big endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * ENTRY_SIZE_BYTES);
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.epoch.to_be_bytes());
            bytes.extend_from_slice(&entry.start_offset.to_be_bytes());
        }
        bytes
    }

    /// Reads what [`LeaderEpochs::encode`] wrote; None if the bytes are not that.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(ENTRY_SIZE_BYTES) {
            return None;
        }
        let mut epochs = Self::new();
        for entry in bytes.chunks_exact(ENTRY_SIZE_BYTES) {
            let epoch = i32::from_be_bytes(entry[..4].try_into().ok()?);
            let start_offset = i64::from_be_bytes(entry[4..].try_into().ok()?);
            let ascends = epochs
                .latest()
                .is_none_or(|last| last.epoch < epoch && last.start_offset < start_offset);
            if epoch < 0 || start_offset < 0 || !ascends {
                return None;
            }
            epochs.entries.push(EpochEntry { epoch, start_offset });
        }
        Some(epochs)
    }
}

const ENTRY_SIZE_BYTES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::new();
        for &(epoch, start_offset) in entries {
            epochs.assign(epoch, start_offset);
        }
        epochs
    }

    fn end(epochs: &LeaderEpochs, epoch: i32, log_end_offset: i64) -> Option<(i32, i64)> {
        epochs.end_offset_for(epoch, log_end_offset)
    }

    #[test]
    fn the_newest_epoch_ends_at_the_log_end() {
        let epochs = epochs(&[(2, 6), (3, 9)]);
        assert_eq!(end(&epochs, 3, 12), Some((3, 12)));
        assert_eq!(end(&epochs, 2, 12), Some((2, 9)));
    }

    #[test]
    fn an_unknown_epoch_between_two_answers_with_the_lower_one() {
        let epochs = epochs(&[(2, 6), (5, 9), (8, 20)]);
        assert_eq!(end(&epochs, 4, 30), Some((2, 9)));
        assert_eq!(end(&epochs, 7, 30), Some((5, 20)));
    }

    #[test]
    fn outside_the_known_range() {
        let epochs = epochs(&[(2, 6), (5, 9)]);
        assert_eq!(
            end(&epochs, 1, 30),
            Some((1, 6)),
            "older than all: ends where the oldest begins"
        );
        assert_eq!(end(&epochs, 6, 30), None, "newer than all: undefined");
        assert_eq!(end(&epochs, -1, 30), None);
        assert_eq!(end(&LeaderEpochs::new(), 0, 30), None);
    }

    #[test]
    fn an_epoch_that_goes_on_after_a_vain_leadership_keeps_its_start() {
        // Simulation, seed 2794: the epoch seemed to begin at 68, and a follower that had to truncate below never learned it.
        let mut epochs = epochs(&[(1, 0), (3, 68)]);
        assert!(
            epochs.assign(1, 68),
            "records of epoch 1 again, from a leader that never heard of epoch 3"
        );
        assert_eq!(
            epochs.entries(),
            [EpochEntry {
                epoch: 1,
                start_offset: 0
            }]
        );
    }

    #[test]
    fn an_epoch_without_records_is_replaced_by_its_successor() {
        // KAFKA-7415: the epoch is noted on becoming leader, before any append.
        let mut epochs = epochs(&[(1, 0), (2, 10)]);
        assert!(epochs.assign(3, 10));
        assert_eq!(
            epochs.entries(),
            [
                EpochEntry {
                    epoch: 1,
                    start_offset: 0
                },
                EpochEntry {
                    epoch: 3,
                    start_offset: 10
                }
            ]
        );
        assert!(!epochs.assign(3, 15), "the epoch has begun already");
    }

    #[test]
    fn a_contradicting_assignment_drops_later_entries() {
        let mut epochs = epochs(&[(1, 0), (2, 10), (3, 20)]);
        assert!(epochs.assign(2, 15));
        assert_eq!(
            epochs.entries().last(),
            Some(&EpochEntry {
                epoch: 2,
                start_offset: 10
            })
        );
        assert_eq!(epochs.entries().len(), 2);
    }

    #[test]
    fn truncation_at_the_log_end_drops_an_empty_epoch() {
        // KAFKA-10706: otherwise the follower truncates for ever.
        let mut epochs = epochs(&[(1, 0), (2, 10)]);
        assert!(epochs.truncate_from_end(10));
        assert_eq!(epochs.latest_epoch(), Some(1));
        assert!(!epochs.truncate_from_end(10));
    }

    #[test]
    fn truncation_at_the_start_keeps_the_epoch_in_force() {
        let mut epochs = epochs(&[(1, 0), (2, 10), (3, 20)]);
        assert!(epochs.truncate_from_start(15));
        assert_eq!(
            epochs.entries(),
            [
                EpochEntry {
                    epoch: 2,
                    start_offset: 15
                },
                EpochEntry {
                    epoch: 3,
                    start_offset: 20
                }
            ]
        );
        assert_eq!(epochs.epoch_for_offset(14), None);
        assert_eq!(epochs.epoch_for_offset(15), Some(2));
        assert_eq!(epochs.epoch_for_offset(99), Some(3));
        assert!(!epochs.truncate_from_start(15));
        assert!(!epochs.truncate_from_start(3));
    }

    #[test]
    fn bytes_read_back() {
        let written = epochs(&[(1, 0), (2, 10), (7, 20)]);
        assert_eq!(LeaderEpochs::decode(&written.encode()), Some(written.clone()));
        assert_eq!(LeaderEpochs::decode(&written.encode()[1..]), None);
        let mut swapped = written.encode();
        swapped.rotate_left(ENTRY_SIZE_BYTES);
        assert_eq!(LeaderEpochs::decode(&swapped), None);
    }
}
