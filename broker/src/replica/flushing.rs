//! Flushes of a replica's log, planned and completed under its lock for the group commit and the checkpoints.

use std::sync::atomic::Ordering;

use odradek_broker_log::error::LogError;
use odradek_broker_log::flush::FlushPlan;
use odradek_common::time::Now;

use super::{Replica, Wake, wake};
use crate::data_directory::DataDirectory;

impl Replica {
    /// Plans a flush, by a round of this directory, of what was appended since the last one. None if there is nothing; a
    /// replica that has moved away takes its share in the next round where it lives.
    ///
    /// # Errors
    /// A segment cannot be opened.
    pub fn flush_plan(&self, now: Now, directory: &DataDirectory) -> Result<Option<FlushPlan>, LogError> {
        self.flush_queued.store(false, Ordering::Release);
        let mut state = self.state.lock();
        if !std::ptr::eq(&**self.directory.load(), directory) {
            drop(state);
            self.queue_flush();
            return Ok(None);
        }
        let plan = state.partition.log_mut().flush_plan(now)?;
        if plan.is_none() {
            state.partition.appended(now);
            wake(state, Wake::WhoeverSees);
        }
        Ok(plan)
    }

    /// A planned flush was done: whoever waited for it is told.
    ///
    /// # Errors
    /// The checkpoint that belongs to it cannot be written down.
    pub fn complete_flush(&self, now: Now, plan: FlushPlan) -> Result<(), LogError> {
        let mut state = self.state.lock();
        let outcome = state.partition.log_mut().complete_flush(plan);
        state.partition.appended(now);
        let log = state.partition.log();
        let unflushed = log.durable_end_offset() < log.log_end_offset();
        wake(state, Wake::WhoeverSees);
        if unflushed {
            self.queue_flush();
        }
        outcome
    }

    /// Asks for a share in the next round of flushes.
    pub(crate) fn queue_flush(&self) {
        if !self.flush_queued.swap(true, Ordering::AcqRel)
            && let Some(me) = self.me.upgrade()
        {
            self.directory.load().flushes.add(me);
        }
    }
}
