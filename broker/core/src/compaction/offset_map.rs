//! The last offset of every key, in 24 bytes per key whatever its length.
//!
//! Open addressing in one allocation whose size the caller decides; a key is known by 128 bits of hash under random seeds,
//! so that two keys never meet, by chance or by intent. Entries are kept near their place (Robin Hood), so that a full table
//! is not slow. What it holds never shrinks: a pass makes a new one.

use std::hash::{BuildHasher, RandomState};

/// Memory of one entry: 16 bytes of hash and the offset.
pub const ENTRY_SIZE_BYTES: usize = 24;

/// Both halves of the hash, and the offset plus one; all zero where nothing is.
type Entry = [u64; 3];

/// The map.
pub struct OffsetMap {
    hashers: [RandomState; 2],
    entries: Vec<Entry>,
    used: usize,
    used_max: usize,
}

impl OffsetMap {
    /// A map of `slots` entries that says it is full once the share `load_factor` of them is used.
    #[must_use]
    pub fn new(slots: usize, load_factor: f64) -> Self {
        // One entry always stays free: that is where searches end.
        let slots = slots.max(2);
        let used_max = (slots as f64 * load_factor) as usize;
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            entries: vec![[0; 3]; slots],
            used: 0,
            used_max: used_max.clamp(1, slots - 1),
        }
    }

    /// The slots that hold `keys` keys at that load factor.
    #[must_use]
    pub fn slots_for(keys: usize, load_factor: f64) -> usize {
        (keys as f64 / load_factor).ceil() as usize + 2
    }

    /// Notes the offset of a key. False, and nothing is noted, if the key is new and there is no room for it.
    pub fn put(&mut self, key: &[u8], offset: i64) -> bool {
        let [high, low] = self.hash(key);
        let mut carried: Entry = [high, low, offset as u64 + 1];
        let mut slot = self.home(high);
        let mut distance = 0;
        loop {
            let found = self.entries[slot];
            if found[2] == 0 {
                break;
            }
            if found[0] == high && found[1] == low {
                self.entries[slot][2] = carried[2];
                return true;
            }
            if self.distance(found[0], slot) < distance {
                break;
            }
            slot = self.after(slot);
            distance += 1;
        }
        if self.used >= self.used_max {
            return false;
        }
        self.used += 1;
        // The key takes this slot; who stood here moves on to where the next one is nearer to its place.
        while self.entries[slot][2] != 0 {
            let found = self.entries[slot];
            let found_distance = self.distance(found[0], slot);
            if found_distance < distance {
                self.entries[slot] = carried;
                carried = found;
                distance = found_distance;
            }
            slot = self.after(slot);
            distance += 1;
        }
        self.entries[slot] = carried;
        true
    }

    /// The last offset of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<i64> {
        let [high, low] = self.hash(key);
        let mut slot = self.home(high);
        let mut distance = 0;
        loop {
            let found = self.entries[slot];
            if found[2] == 0 {
                return None;
            }
            if found[0] == high && found[1] == low {
                return Some((found[2] - 1) as i64);
            }
            if self.distance(found[0], slot) < distance {
                return None;
            }
            slot = self.after(slot);
            distance += 1;
        }
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.entries.len()
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        [self.hashers[0].hash_one(key), self.hashers[1].hash_one(key)]
    }

    /// Where a key belongs.
    fn home(&self, high: u64) -> usize {
        ((u128::from(high) * self.entries.len() as u128) >> 64) as usize
    }

    /// How far the entry in `slot` is from its place.
    fn distance(&self, high: u64, slot: usize) -> usize {
        let home = self.home(high);
        if slot >= home {
            slot - home
        } else {
            slot + self.entries.len() - home
        }
    }

    fn after(&self, slot: usize) -> usize {
        if slot + 1 == self.entries.len() {
            0
        } else {
            slot + 1
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_last_offset_counts_at_every_load() {
        for load_factor in [0.1, 0.5, 0.9, 1.0] {
            let mut map = OffsetMap::new(1_000, load_factor);
            let mut expected = HashMap::new();
            for offset in 0..10_000_i64 {
                let key = format!("key-{}", (offset * 7_919) % 977).into_bytes();
                let is_known = expected.contains_key(&key);
                let fits = map.put(&key, offset);
                assert_eq!(fits, is_known || expected.len() < map.used_max, "{offset}");
                if fits {
                    expected.insert(key, offset);
                }
            }
            assert_eq!(map.len(), expected.len());
            assert!(map.len() <= (1_000.0 * load_factor) as usize);
            for number in 0..977 {
                let key = format!("key-{number}").into_bytes();
                assert_eq!(
                    map.get(&key),
                    expected.get(&key).copied(),
                    "{load_factor} {number}"
                );
            }
            assert_eq!(map.get(b"another"), None);
        }
    }

    #[test]
    fn a_map_for_so_many_keys_takes_so_many() {
        for keys in [1, 2, 10, 1_000] {
            let mut map = OffsetMap::new(OffsetMap::slots_for(keys, 0.9), 0.9);
            assert!((0..keys).all(|key| map.put(&key.to_be_bytes(), key as i64)));
        }
        let mut smallest = OffsetMap::new(0, 0.0);
        assert!(smallest.put(b"a", 0) && !smallest.put(b"b", 1) && smallest.put(b"a", 2));
        assert_eq!(smallest.get(b"a"), Some(2));
    }

    #[test]
    fn an_entry_has_24_bytes() {
        assert_eq!(size_of::<Entry>(), ENTRY_SIZE_BYTES);
    }
}
