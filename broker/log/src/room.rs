//! Room on the disk of a log directory: producers are refused while there is still some left for what has to go on.
//!
//! Retention, deletions, the index and a metadata log on the same disk need a little room themselves. A disk that is full
//! to the last block refuses them as well, and then nothing ever becomes free.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::directory::{DirectoryShared, LogDirectory};
use crate::disk::Space;
use crate::error::LogError;

/// So much is appended at most until the disk is asked again how much room it has.
const UNASKED_BYTES_MAX: i64 = 8 << 20;

/// Room is ample for what is taken in advance if there is so many times as much.
const AMPLE_FACTOR: u64 = 64;

/// There is room for what small segments take in advance where this is ample: the zeros of 60,000 would find place (`pages.rs`).
const SMALL_ROOM_BYTES: u64 = 64 << 20;

/// The reserve is at most one part of so many of the disk.
const RESERVED_PART_MAX: u64 = 20;

/// What may be appended before the disk is asked again.
#[derive(Debug, Default)]
pub(crate) struct Room {
    unasked_bytes: AtomicI64,
    /// What was wanted when the disk was last asked, if it had not so much.
    refused_bytes: AtomicI64,
    /// Whether there was ample room for small segments then.
    is_ample: AtomicBool,
}

/// The room of a log directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryRoom {
    /// That of its file system.
    pub space: Space,
    /// Whether an append as large as the last one that was refused would be refused now, or any at all.
    pub is_full: bool,
}

impl LogDirectory {
    /// The room there is now; None if the file system does not say.
    #[must_use]
    pub fn room(&self) -> Option<DirectoryRoom> {
        self.shared.look_at_room()
    }
}

#[cfg(test)]
impl Room {
    /// The next append asks the disk.
    pub(crate) fn forget(&self) {
        self.unasked_bytes.store(0, Ordering::Relaxed);
    }
}

impl DirectoryShared {
    /// Refuses an append of so many bytes that would leave less than the reserve.
    ///
    /// # Errors
    /// [`LogError::NoRoom`]; the next append asks the disk again.
    pub(crate) fn take_room(&self, size_bytes: u64) -> Result<(), LogError> {
        let wanted = i64::try_from(size_bytes).unwrap_or(i64::MAX);
        let unasked = &self.room.unasked_bytes;
        if unasked.fetch_sub(wanted, Ordering::Relaxed) >= wanted {
            return Ok(());
        }
        // A file system that does not say refuses by itself.
        let Ok(space) = self.options.disk.space(&self.path) else {
            return Ok(());
        };
        let free = i64::try_from(space.free_bytes).unwrap_or(i64::MAX);
        let reserve = i64::try_from(self.reserve_bytes(space)).unwrap_or(i64::MAX);
        let spare = free.saturating_sub(reserve).saturating_sub(wanted);
        unasked.store(spare.clamp(0, UNASKED_BYTES_MAX), Ordering::Relaxed);
        let ample = i64::try_from(SMALL_ROOM_BYTES.saturating_mul(AMPLE_FACTOR)).unwrap_or(i64::MAX);
        self.room.is_ample.store(spare >= ample, Ordering::Relaxed);
        let refused = if spare < 0 { wanted } else { 0 };
        self.room.refused_bytes.store(refused, Ordering::Relaxed);
        if spare >= 0 {
            return Ok(());
        }
        Err(self.no_room(space))
    }

    /// Refuses what is going to take so many bytes if that would leave less than the reserve. Takes nothing.
    ///
    /// # Errors
    /// [`LogError::NoRoom`].
    pub(crate) fn check_room(&self, size_bytes: u64) -> Result<(), LogError> {
        match self.options.disk.space(&self.path) {
            Ok(space) if space.free_bytes.saturating_sub(self.reserve_bytes(space)) < size_bytes => {
                Err(self.no_room(space))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn no_room(&self, space: Space) -> LogError {
        let (free, reserve) = (space.free_bytes, self.reserve_bytes(space));
        LogError::NoRoom {
            path: self.path.clone(),
            detail: format!(
                "{free} bytes are free, and {reserve} are kept so (odradek.log.dir.reserve.bytes)"
            ),
        }
    }

    /// Whether so many bytes may be taken in advance, by this log and by many others, and nobody will miss them.
    pub(crate) fn has_ample_room(&self, size_bytes: u64) -> bool {
        let space = self.options.disk.space(&self.path);
        space.is_ok_and(|space| {
            let spare = space.free_bytes.saturating_sub(self.reserve_bytes(space));
            spare / AMPLE_FACTOR >= size_bytes
        })
    }

    /// The same for what thousands of small segments take together, by what was known when an append last asked.
    pub(crate) fn had_ample_room(&self) -> bool {
        self.room.is_ample.load(Ordering::Relaxed)
    }

    fn look_at_room(&self) -> Option<DirectoryRoom> {
        let space = self.options.disk.space(&self.path).ok()?;
        let spare = space.free_bytes.saturating_sub(self.reserve_bytes(space));
        let refused = self.room.refused_bytes.load(Ordering::Relaxed);
        let wanted = u64::try_from(refused).unwrap_or(0).max(1);
        Some(DirectoryRoom {
            space,
            is_full: spare < wanted,
        })
    }

    /// Whether the last append was refused and would be now, or any would.
    pub(crate) fn is_short_of_room(&self) -> bool {
        self.look_at_room().is_some_and(|room| room.is_full)
    }

    /// A small disk is not kept free as a whole.
    fn reserve_bytes(&self, space: Space) -> u64 {
        self.options
            .reserve_bytes
            .min(space.total_bytes / RESERVED_PART_MAX)
    }
}
