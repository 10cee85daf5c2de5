//! The records of a run and the check of what a group of two received. Knows no Kafka client.

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub const PARTITIONS: i32 = 3;
pub const REPLICATION: i32 = 3;

pub fn key(i: usize) -> String {
    format!("key-{}", i % 97)
}

pub fn value(i: usize) -> String {
    format!("{i:06} {}", "odradek ".repeat(10))
}

/// Offset, key and value of a received record.
pub type Row = (i64, Vec<u8>, Vec<u8>);

/// Received records, in the order of receipt for each partition.
#[derive(Default)]
pub struct Ledger {
    rows: BTreeMap<i32, Vec<Row>>,
    members: BTreeMap<i32, BTreeSet<usize>>,
}

impl Ledger {
    pub fn add(&mut self, member: usize, partition: i32, row: Row) {
        self.rows.entry(partition).or_default().push(row);
        self.members.entry(partition).or_default().insert(member);
    }

    pub fn count(&self) -> usize {
        self.rows.values().map(Vec::len).sum()
    }

    /// The first difference from: every record once, in order, where its acknowledgement said, each partition by one
    /// of two members.
    pub fn verify(&self, count: usize, acked: &HashMap<usize, (i32, i64)>) -> Result<(), String> {
        let mut seen: HashMap<usize, (i32, i64)> = HashMap::new();
        for (partition, rows) in &self.rows {
            let mut last = None;
            for (receipt, (offset, record_key, record_value)) in rows.iter().enumerate() {
                let at = format!("partition {partition} offset {offset}");
                if *offset != receipt as i64 {
                    return Err(format!("{at}: receipt {receipt}"));
                }
                let i = number(record_key, record_value).ok_or_else(|| format!("{at}: a damaged record"))?;
                if last.is_some_and(|last| i <= last) {
                    return Err(format!("{at}: record {i} came after {last:?}"));
                }
                last = Some(i);
                if let Some(before) = seen.insert(i, (*partition, *offset)) {
                    return Err(format!("{at}: record {i} was already at {before:?}"));
                }
            }
        }
        for i in 0..count {
            if seen.get(&i).is_none() || seen.get(&i) != acked.get(&i) {
                return Err(format!(
                    "record {i}: acknowledged at {:?}, found at {:?}",
                    acked.get(&i),
                    seen.get(&i)
                ));
            }
        }
        let readers: BTreeSet<_> = self.members.values().flatten().collect();
        if seen.len() != count || readers.len() != 2 || self.members.values().any(|m| m.len() != 1) {
            return Err(format!(
                "{} records of {count}, members by partition {:?}",
                seen.len(),
                self.members
            ));
        }
        Ok(())
    }
}

fn number(record_key: &[u8], record_value: &[u8]) -> Option<usize> {
    let i: usize = std::str::from_utf8(record_value.get(..6)?).ok()?.parse().ok()?;
    (record_key == key(i).as_bytes() && record_value == value(i).as_bytes()).then_some(i)
}
