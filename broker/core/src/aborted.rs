//! The aborted transactions of one partition's log: what a read_committed consumer must skip.
//!
//! Owns the ordered list and its queries. Persisting the entries is the log's work.

/// One aborted transaction, as the abort marker closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// The producer whose records are void.
    pub producer_id: i64,
    /// The transaction's first record.
    pub first_offset: i64,
    /// The abort marker.
    pub last_offset: i64,
    /// The last stable offset once the marker was there: no transaction aborted later begins below it.
    pub last_stable_offset: i64,
}

const ENTRY_SIZE_BYTES: usize = 32;

impl AbortedTransaction {
    /// The entry as 32 bytes, big endian.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_SIZE_BYTES] {
        let mut bytes = [0; ENTRY_SIZE_BYTES];
        bytes[..8].copy_from_slice(&self.producer_id.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.first_offset.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.last_offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.last_stable_offset.to_be_bytes());
        bytes
    }

    /// Reads what [`AbortedTransaction::encode`] wrote; None if the length differs.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ENTRY_SIZE_BYTES] = bytes.try_into().ok()?;
        let field =
            |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("the slice has 8 bytes"));
        Some(Self {
            producer_id: field(0),
            first_offset: field(8),
            last_offset: field(16),
            last_stable_offset: field(24),
        })
    }
}

/// The aborted transactions of a log, in the order of their markers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AbortedTransactions {
    entries: Vec<AbortedTransaction>,
}

impl AbortedTransactions {
    /// No aborted transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a transaction whose marker is the newest.
    pub fn push(&mut self, transaction: AbortedTransaction) {
        let newest = self.entries.last().map_or(-1, |last| last.last_offset);
        // Invariant: markers are appended in offset order, so the list can be searched.
        assert!(
            transaction.last_offset > newest,
            "abort marker {} after {newest}",
            transaction.last_offset
        );
        self.entries.push(transaction);
    }

    /// The transactions that a fetch of `[from, to)` must name, sorted by first offset.
    #[must_use]
    pub fn query(&self, from: i64, to: i64) -> Vec<AbortedTransaction> {
        let begin = self.entries.partition_point(|entry| entry.last_offset < from);
        let mut found = Vec::new();
        for entry in &self.entries[begin..] {
            if entry.first_offset < to {
                found.push(*entry);
            }
            if entry.last_stable_offset >= to {
                break;
            }
        }
        found.sort_by_key(|entry| entry.first_offset);
        found
    }

    /// Drops transactions whose marker is at or after `offset`; returns the offsets of those markers.
    pub fn truncate_from_end(&mut self, offset: i64) -> Vec<i64> {
        let keep = self.entries.partition_point(|entry| entry.last_offset < offset);
        self.entries
            .split_off(keep)
            .iter()
            .map(|entry| entry.last_offset)
            .collect()
    }

    /// Drops transactions whose marker is below `offset`; returns the offsets of those markers.
    pub fn truncate_from_start(&mut self, offset: i64) -> Vec<i64> {
        let dropped = self.entries.partition_point(|entry| entry.last_offset < offset);
        self.entries
            .drain(..dropped)
            .map(|entry| entry.last_offset)
            .collect()
    }

    /// Drops the transactions of these markers: none of their records is left.
    pub fn forget(&mut self, markers: &[i64]) {
        let mut markers = markers.to_vec();
        markers.sort_unstable();
        self.entries
            .retain(|entry| markers.binary_search(&entry.last_offset).is_err());
    }

    /// Puts these, in the order of their markers, in the place of all transactions whose marker is below `offset`, as are theirs.
    pub fn replace_below(&mut self, offset: i64, transactions: Vec<AbortedTransaction>) {
        let from = self.entries.partition_point(|entry| entry.last_offset < offset);
        let later = self.entries.split_off(from);
        self.entries.clear();
        for transaction in transactions.into_iter().chain(later) {
            self.push(transaction);
        }
    }

    /// All transactions, in the order of their markers.
    #[must_use]
    pub fn entries(&self) -> &[AbortedTransaction] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aborted(producer_id: i64, first: i64, last: i64, stable: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id,
            first_offset: first,
            last_offset: last,
            last_stable_offset: stable,
        }
    }

    fn three() -> AbortedTransactions {
        let mut list = AbortedTransactions::new();
        list.push(aborted(2, 10, 20, 5));
        list.push(aborted(1, 5, 30, 31));
        list.push(aborted(3, 40, 50, 51));
        list
    }

    #[test]
    fn a_query_names_what_overlaps_sorted_by_first_offset() {
        let ids = |from, to| {
            three()
                .query(from, to)
                .iter()
                .map(|found| found.producer_id)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(0, 100), [1, 2, 3]);
        assert_eq!(
            ids(0, 40),
            [1, 2],
            "a transaction that begins at the upper bound is not in the range"
        );
        assert_eq!(
            ids(0, 8),
            [1],
            "the earlier marker does not hide the longer transaction"
        );
        assert_eq!(ids(21, 41), [1, 3]);
        assert_eq!(ids(50, 60), [3], "the marker itself belongs to the transaction");
        assert_eq!(ids(51, 60), [0i64; 0]);
    }

    #[test]
    fn truncation_from_both_ends() {
        let mut list = three();
        assert_eq!(list.truncate_from_end(30), [30, 50]);
        assert_eq!(list.entries().len(), 1);
        let mut list = three();
        assert_eq!(list.truncate_from_start(30), [20]);
        assert_eq!(list.entries().len(), 2);
    }

    #[test]
    fn what_has_no_records_left_is_forgotten() {
        let mut list = three();
        list.forget(&[30, 99]);
        assert_eq!(list.entries().len(), 2);
        assert!(list.query(0, 40).iter().all(|found| found.producer_id == 2));
    }

    #[test]
    fn what_lies_below_an_offset_is_replaced() {
        let mut list = three();
        list.replace_below(50, vec![aborted(9, 1, 2, 3), aborted(9, 7, 8, 9)]);
        let markers: Vec<i64> = list.entries().iter().map(|entry| entry.last_offset).collect();
        assert_eq!(markers, [2, 8, 50]);
        list.replace_below(51, Vec::new());
        assert_eq!(list.entries(), []);
    }

    #[test]
    fn bytes_read_back() {
        let entry = aborted(7, 1, 2, 3);
        assert_eq!(AbortedTransaction::decode(&entry.encode()), Some(entry));
        assert_eq!(AbortedTransaction::decode(&entry.encode()[1..]), None);
    }
}
