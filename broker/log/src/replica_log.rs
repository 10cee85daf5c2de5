//! The log as a replica's state machine sees it.

use odradek_broker_core::partition::ReplicaLog;
use odradek_common::time::Now;

use crate::error::LogError;
use crate::log::Log;

impl ReplicaLog for Log {
    type Error = LogError;

    fn log_start_offset(&self) -> i64 {
        Log::log_start_offset(self)
    }

    fn log_end_offset(&self) -> i64 {
        Log::log_end_offset(self)
    }

    fn durable_end_offset(&self) -> i64 {
        Log::durable_end_offset(self)
    }

    fn high_watermark(&self) -> i64 {
        Log::high_watermark(self)
    }

    fn set_high_watermark(&mut self, offset: i64) {
        Log::set_high_watermark(self, offset);
    }

    fn latest_epoch(&self) -> Option<i32> {
        self.epochs().latest_epoch()
    }

    fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        self.epochs().end_offset_for(epoch, Log::log_end_offset(self))
    }

    fn assign_epoch(&mut self, epoch: i32) -> Result<(), LogError> {
        Log::assign_epoch(self, epoch)
    }

    fn truncate_to(&mut self, now: Now, offset: i64) -> Result<(), LogError> {
        Log::truncate_to(self, now, offset).map(|_| ())
    }

    fn truncate_fully_and_start_at(&mut self, now: Now, offset: i64) -> Result<(), LogError> {
        Log::truncate_fully_and_start_at(self, now, offset)
    }
}
