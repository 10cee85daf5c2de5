//! A Fetch response as bytes, made by hand so that records are never copied: between the bytes stand parts of segment files.
//!
//! Promises what kafka-protocol's encoder would write, byte for byte. Records of a few kilobytes are read to where they belong,
//! because a system call costs more than their copy; all others, and those that would have to be waited for, are left to the
//! connection.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use odradek_broker_log::read::LogSlice;
use odradek_common::ids::NodeId;
use odradek_net::budget::{Lease, MemoryBudget};
use odradek_net::residency::read_resident;
use odradek_net::sendfile::FileRange;
use odradek_net::service::{ResponseFrame, Segment};
use uuid::Uuid;

use super::{DIVERGING_SINCE, FOLLOWER_READS_SINCE, LEADER_HINTS_SINCE, TOPIC_IDS_SINCE};

/// Records of up to so many bytes are copied into the response (docs/performance.md, "Fetch").
pub(super) const INLINE_RECORDS_BYTES_MAX: usize = 8 << 10;
/// Records that one response has copies of.
const INLINE_RESPONSE_BYTES_MAX: usize = 64 << 10;
/// First version with a session and an error of its own.
const SESSIONS_SINCE: i16 = 7;
/// First version with `log_start_offset`.
const LOG_START_SINCE: i16 = 5;
/// First version with compact lengths and tagged fields.
const FLEXIBLE_SINCE: i16 = 12;
/// Bytes of a partition without its records and aborted transactions, at most.
const PARTITION_BYTES_MAX: usize = 96;
/// Bytes of a response without its topics, at most.
const HEAD_BYTES_MAX: usize = 32;

/// One partition's part of a response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) topic: Option<Arc<str>>,
    pub(super) topic_id: Uuid,
    pub(super) partition: i32,
    pub(super) error_code: i16,
    pub(super) high_watermark: i64,
    pub(super) last_stable_offset: i64,
    pub(super) log_start_offset: i64,
    /// Epoch and end offset where the follower's log leaves this one.
    pub(super) diverging: Option<(i32, i64)>,
    /// Leader and epoch, for a client that asked the wrong broker.
    pub(super) leader: Option<(NodeId, i32)>,
    /// Producer ids and first offsets.
    pub(super) aborted: Option<Vec<(i64, i64)>>,
    pub(super) preferred_read_replica: NodeId,
    pub(super) records: Option<LogSlice>,
}

/// Where a leader is to be found.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) node_id: NodeId,
    pub(super) host: String,
    pub(super) port: i32,
    pub(super) rack: Option<String>,
}

/// A whole response.
#[derive(Debug)]
pub(super) struct FetchAnswer {
    pub(super) error_code: i16,
    pub(super) session_id: i32,
    /// Those of one topic one after another.
    pub(super) answers: Vec<Answer>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// The frame. `memory` bounds the records that all frames together hold copies of.
pub(super) fn encode(
    version: i16,
    correlation_id: i32,
    response: &FetchAnswer,
    memory: &MemoryBudget,
) -> ResponseFrame {
    let mut writer = Writer::new(version, response, memory);
    writer.bytes.put_i32(correlation_id);
    writer.tagged_fields(0);
    // throttle_time_ms
    writer.bytes.put_i32(0);
    if version >= SESSIONS_SINCE {
        writer.bytes.put_i16(response.error_code);
        writer.bytes.put_i32(response.session_id);
    }
    let is_same_topic = |a: &Answer, b: &Answer| a.topic_id == b.topic_id && a.topic == b.topic;
    let topics = response.answers.chunk_by(is_same_topic);
    writer.array(topics.clone().count());
    for topic in topics {
        writer.topic(topic);
    }
    if version >= LEADER_HINTS_SINCE && !response.endpoints.is_empty() {
        writer.tagged_fields(1);
        writer.endpoints(&response.endpoints);
    } else {
        writer.tagged_fields(0);
    }
    writer.finish()
}

/// Bytes so far, and what stands between them.
struct Writer {
    version: i16,
    is_flexible: bool,
    bytes: BytesMut,
    segments: Vec<Segment>,
    /// Over the records that are copied, or may still be.
    lease: Option<Lease>,
    inline_left: usize,
    /// Records in the buffer.
    copied: usize,
}

impl Writer {
    fn new(version: i16, response: &FetchAnswer, memory: &MemoryBudget) -> Self {
        let (mut inline, mut rest) = (0, HEAD_BYTES_MAX);
        for answer in &response.answers {
            let size = answer.records.as_ref().map_or(0, |slice| slice.size_bytes);
            if size <= INLINE_RECORDS_BYTES_MAX {
                inline += size;
            }
            rest += PARTITION_BYTES_MAX + answer.topic.as_ref().map_or(0, |topic| topic.len());
        }
        let inline = inline.min(INLINE_RESPONSE_BYTES_MAX);
        let lease = memory.try_lease(inline);
        let inline_left = lease.as_ref().map_or(0, |_| inline);
        Self {
            version,
            is_flexible: version >= FLEXIBLE_SINCE,
            bytes: BytesMut::with_capacity(rest + inline_left),
            segments: Vec::with_capacity(1),
            lease,
            inline_left,
            copied: 0,
        }
    }

    fn topic(&mut self, answers: &[Answer]) {
        let first = &answers[0];
        if self.version >= TOPIC_IDS_SINCE {
            self.bytes.put_slice(first.topic_id.as_bytes());
        } else {
            self.string(first.topic.as_deref().unwrap_or_default());
        }
        self.array(answers.len());
        for answer in answers {
            self.partition(answer);
        }
        self.tagged_fields(0);
    }

    fn partition(&mut self, answer: &Answer) {
        self.bytes.put_i32(answer.partition);
        self.bytes.put_i16(answer.error_code);
        self.bytes.put_i64(answer.high_watermark);
        self.bytes.put_i64(answer.last_stable_offset);
        if self.version >= LOG_START_SINCE {
            self.bytes.put_i64(answer.log_start_offset);
        }
        match &answer.aborted {
            None if self.is_flexible => self.bytes.put_u8(0),
            None => self.bytes.put_i32(-1),
            Some(aborted) => {
                self.array(aborted.len());
                for (producer_id, first_offset) in aborted {
                    self.bytes.put_i64(*producer_id);
                    self.bytes.put_i64(*first_offset);
                    self.tagged_fields(0);
                }
            }
        }
        if self.version >= FOLLOWER_READS_SINCE {
            self.bytes.put_i32(answer.preferred_read_replica);
        }
        self.records(answer.records.as_ref());
        self.partition_hints(answer);
    }

    fn partition_hints(&mut self, answer: &Answer) {
        if self.version < DIVERGING_SINCE {
            return;
        }
        let count = usize::from(answer.diverging.is_some()) + usize::from(answer.leader.is_some());
        self.tagged_fields(count);
        if let Some((epoch, end_offset)) = answer.diverging {
            self.bytes.put_slice(&[0, 13]);
            self.bytes.put_i32(epoch);
            self.bytes.put_i64(end_offset);
            self.tagged_fields(0);
        }
        if let Some((leader, epoch)) = answer.leader {
            self.bytes.put_slice(&[1, 9]);
            self.bytes.put_i32(leader);
            self.bytes.put_i32(epoch);
            self.tagged_fields(0);
        }
    }

    fn records(&mut self, slice: Option<&LogSlice>) {
        let size_bytes = slice.map_or(0, |slice| slice.size_bytes);
        if self.is_flexible {
            self.varint(size_bytes + 1);
        } else {
            self.bytes.put_i32(length(size_bytes));
        }
        let Some((slice, file)) = slice.and_then(|slice| Some((slice, slice.file.as_ref()?))) else {
            return;
        };
        if self.copy_records(slice, file) {
            return;
        }
        let range = FileRange {
            file: file.clone(),
            position: slice.position,
            length: size_bytes,
        };
        self.cut();
        self.segments.push(Segment::File(range));
    }

    /// True if the records are in the buffer now.
    fn copy_records(&mut self, slice: &LogSlice, file: &std::fs::File) -> bool {
        if slice.size_bytes > INLINE_RECORDS_BYTES_MAX.min(self.inline_left) {
            return false;
        }
        let start = self.bytes.len();
        self.bytes.put_bytes(0, slice.size_bytes);
        // What cannot be read now is left to the connection, which waits for it or fails with it.
        let read = read_resident(file, &mut self.bytes[start..], slice.position);
        if read.is_ok_and(|bytes| bytes == slice.size_bytes) {
            self.inline_left -= slice.size_bytes;
            self.copied += slice.size_bytes;
            return true;
        }
        self.bytes.truncate(start);
        false
    }

    fn endpoints(&mut self, endpoints: &[Endpoint]) {
        let mut inner = Writer {
            version: self.version,
            is_flexible: true,
            bytes: BytesMut::new(),
            segments: Vec::new(),
            lease: None,
            inline_left: 0,
            copied: 0,
        };
        inner.array(endpoints.len());
        for endpoint in endpoints {
            inner.bytes.put_i32(endpoint.node_id);
            inner.string(&endpoint.host);
            inner.bytes.put_i32(endpoint.port);
            match &endpoint.rack {
                Some(rack) => inner.string(rack),
                None => inner.bytes.put_u8(0),
            }
            inner.tagged_fields(0);
        }
        self.bytes.put_u8(0);
        self.varint(inner.bytes.len());
        self.bytes.put_slice(&inner.bytes);
    }

    fn string(&mut self, text: &str) {
        if self.is_flexible {
            self.varint(text.len() + 1);
        } else {
            let length = i16::try_from(text.len()).expect("topic names have at most 249 bytes");
            self.bytes.put_i16(length);
        }
        self.bytes.put_slice(text.as_bytes());
    }

    fn array(&mut self, count: usize) {
        if self.is_flexible {
            self.varint(count + 1);
        } else {
            self.bytes.put_i32(length(count));
        }
    }

    fn tagged_fields(&mut self, count: usize) {
        if self.is_flexible {
            self.varint(count);
        }
    }

    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.bytes.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
    }

    /// What is in the buffer becomes a segment.
    fn cut(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let bytes = self.bytes.split().freeze();
        let copied = std::mem::take(&mut self.copied);
        let bytes = match &mut self.lease {
            Some(lease) if copied > 0 => Bytes::from_owner(Held {
                bytes,
                _lease: lease.split(copied),
            }),
            Some(_) | None => bytes,
        };
        self.segments.push(bytes.into());
    }

    fn finish(mut self) -> ResponseFrame {
        self.cut();
        ResponseFrame::new(self.segments)
    }
}

/// Bytes that count against a budget for as long as they live.
struct Held {
    bytes: Bytes,
    _lease: Lease,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn length(size: usize) -> i32 {
    i32::try_from(size).expect("a response is far below 2 GiB")
}

#[cfg(test)]
mod tests;
