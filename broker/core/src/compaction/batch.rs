//! What stays of one batch.

use odradek_common::records::batch::{BatchHeader, NO_TIMESTAMP};
use odradek_common::records::builder::{BatchBuilder, append_filtered};
use odradek_common::records::control::ControlRecordType;
use odradek_common::records::record::{Record, RecordError, decoded_section_in, records};

use super::{BatchCleaner, Left, SECTION_SIZE_BYTES_MAX};

/// Memory that serves one batch after the other.
#[derive(Default)]
pub(super) struct Buffers {
    /// The decompressed records of the batch.
    pub(super) scratch: Vec<u8>,
    /// The records that stay, as they were encoded.
    section: Vec<u8>,
}

/// The type of a control batch's record; None if the batch is empty or the record cannot be read.
pub(super) fn marker_type(
    header: &BatchHeader,
    batch: &[u8],
    scratch: &mut Vec<u8>,
) -> Result<Option<ControlRecordType>, RecordError> {
    let section = decoded_section_in(batch, SECTION_SIZE_BYTES_MAX, scratch)?;
    let Some(record) = records(header, section).next() else {
        return Ok(None);
    };
    let key = record?.key.unwrap_or_default();
    Ok(Some(
        ControlRecordType::decode_key(key).unwrap_or(ControlRecordType::Unknown(-1)),
    ))
}

impl BatchCleaner<'_> {
    /// A marker stays; once its transaction has no batch left it gets the time at which it may go.
    pub(super) fn keep_marker(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        is_void: bool,
        out: &mut Vec<u8>,
    ) -> Result<Left, RecordError> {
        let needs_horizon = is_void && header.delete_horizon_ms().is_none() && header.record_count > 0;
        if !needs_horizon {
            return Ok(self.keep_whole(header));
        }
        let section = decoded_section_in(batch, SECTION_SIZE_BYTES_MAX, &mut self.buffers.scratch)?;
        rewrite(header, section, self.rules.horizon_ms(), |_| true, out)?;
        self.tally.records_kept += u64::try_from(header.record_count).unwrap_or(0);
        Ok(Left::Rewritten)
    }

    /// Of a data batch stays what is the last of its key, unless it is a tombstone whose time `is_over`.
    pub(super) fn filter(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        is_over: bool,
        out: &mut Vec<u8>,
    ) -> Result<Left, RecordError> {
        let (keys, rules) = (self.keys, self.rules);
        let stays = |record: &Record<'_>| {
            if record.offset >= rules.mapped_until {
                return true;
            }
            let Some(key) = record.key else { return false };
            (record.value.is_some() || !is_over) && keys.get(key).is_none_or(|last| last <= record.offset)
        };
        let section = decoded_section_in(batch, SECTION_SIZE_BYTES_MAX, &mut self.buffers.scratch)?;
        let kept = &mut self.buffers.section;
        kept.clear();
        let mut count = 0;
        let mut max_timestamp = NO_TIMESTAMP;
        let mut has_tombstones = false;
        let mut all = records(header, section);
        loop {
            let before = all.rest();
            let Some(record) = all.next() else { break };
            let record = record?;
            if stays(&record) {
                count += 1;
                max_timestamp = max_timestamp.max(record.timestamp);
                has_tombstones |= record.value.is_none();
                kept.extend_from_slice(&before[..before.len() - all.rest().len()]);
            } else if record.key.is_none() {
                self.tally.records_without_key += 1;
            }
        }
        self.tally.records_kept += u64::try_from(count).unwrap_or(0);
        if count == 0 {
            return Ok(Left::Nothing);
        }
        // KIP-534: the time from which on the tombstones may go takes the place of the base timestamp.
        if has_tombstones && header.delete_horizon_ms().is_none() {
            rewrite(header, section, rules.horizon_ms(), stays, out)?;
            return Ok(Left::Rewritten);
        }
        if count == header.record_count {
            return Ok(Left::Whole);
        }
        append_filtered(out, header, count, max_timestamp, kept)?;
        Ok(Left::Rewritten)
    }
}

impl super::Rules {
    fn horizon_ms(&self) -> i64 {
        self.now_ms.saturating_add(self.delete_retention_ms)
    }
}

/// Encodes the records anew that stay, with a delete horizon.
fn rewrite(
    header: &BatchHeader,
    section: &[u8],
    horizon_ms: i64,
    stays: impl Fn(&Record<'_>) -> bool,
    out: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let mut builder = BatchBuilder::like(header)
        .compression(header.compression()?, None)
        .delete_horizon(horizon_ms);
    for record in records(header, section) {
        let record = record?;
        if stays(&record) {
            builder.append_record(&record);
        }
    }
    out.extend_from_slice(&builder.build());
    Ok(())
}
