//! The framing of a records section, read as its bytes come: lengths, deltas, counts; keys, values and header bytes are passed over.
//!
//! Promises to report a record only if its lengths agree with each other, to stop at the first fault, and to keep nothing of
//! the section: a record may begin in one piece of it and end in another. Allocates nothing and decides no rule of the log.

use super::batch::NO_TIMESTAMP;
use super::record::RecordError;
use super::varint;

/// What a rule may look at in one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Offset from the base offset of the batch.
    pub(super) offset_delta: i32,
    /// Milliseconds from the base timestamp of the batch.
    pub(super) timestamp_delta: i64,
    /// Whether the key is not null.
    pub(super) has_key: bool,
}

/// What a record looks like that no rule has a say in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// The base timestamp of the batch.
    pub(super) base_timestamp: i64,
    /// The least timestamp nobody objects to.
    pub(super) timestamp_min: i64,
    /// The greatest timestamp nobody objects to.
    pub(super) timestamp_max: i64,
    /// Whether there must be a key.
    pub(super) key: bool,
}

/// The varint that is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Length,
    TimestampDelta,
    OffsetDelta,
    KeyLength,
    ValueLength,
    HeaderCount,
    HeaderKeyLength,
    HeaderValueLength,
}

/// How far the walk through one section has come.
#[derive(Debug)]
pub(super) struct RecordWalk {
    record_count: i32,
    expected: Expected,
    index: i32,
    max_timestamp: i64,
    field: Field,
    /// Bytes to pass over before `field`.
    skip: usize,
    /// The bits of a varint whose end has not come.
    partial: u64,
    partial_bytes: u32,
    /// Bytes of the current record after those in `skip`.
    left: usize,
    headers_left: i32,
    shape: Shape,
}

impl RecordWalk {
    /// A walk through a section that declares `record_count` records.
    pub(super) fn new(record_count: i32, expected: Expected) -> RecordWalk {
        RecordWalk {
            record_count,
            expected,
            index: 0,
            max_timestamp: NO_TIMESTAMP,
            field: Field::Length,
            skip: 0,
            partial: 0,
            partial_bytes: 0,
            left: 0,
            headers_left: 0,
            shape: Shape {
                offset_delta: 0,
                timestamp_delta: 0,
                has_key: false,
            },
        }
    }

    /// Reads the next piece of the section; `visit` gets the position and the shape of records whose framing ends in it.
    ///
    /// It gets every one that is not as expected or not at its place, and may get others.
    pub(super) fn feed<E: From<RecordError>>(
        &mut self,
        mut piece: &[u8],
        visit: &mut impl FnMut(i32, Shape) -> Result<(), E>,
    ) -> Result<(), E> {
        while !piece.is_empty() {
            if self.between_records() {
                piece = self.whole_records(piece, visit)?;
                if piece.is_empty() {
                    break;
                }
                if self.index == self.record_count {
                    return Err(RecordError::TrailingBytes(piece.len()).into());
                }
            }
            piece = self.step(piece, visit)?;
        }
        Ok(())
    }

    /// The greatest timestamp, if everything that was declared has come.
    pub(super) fn finish(&self) -> Result<i64, RecordError> {
        if self.between_records() && self.index == self.record_count {
            return Ok(self.max_timestamp);
        }
        Err(self.malformed("the batch ends before its last record"))
    }

    fn between_records(&self) -> bool {
        self.field == Field::Length && self.skip == 0 && self.partial_bytes == 0
    }

    fn malformed(&self, what: &'static str) -> RecordError {
        let index = self.index;
        RecordError::Malformed { index, what }
    }

    /// Passes every record that lies whole in `piece` and returns what is left.
    fn whole_records<'a, E: From<RecordError>>(
        &mut self,
        mut piece: &'a [u8],
        visit: &mut impl FnMut(i32, Shape) -> Result<(), E>,
    ) -> Result<&'a [u8], E> {
        loop {
            piece = self.expected_records(piece);
            if self.index == self.record_count {
                return Ok(piece);
            }
            let mut after = piece;
            let Some(length) = varint::read_length(&mut after) else {
                return Ok(piece);
            };
            let Some((body, rest)) = after.split_at_checked(length) else {
                return Ok(piece);
            };
            let shape = shape_of(body).map_err(|what| self.malformed(what))?;
            self.end_record(shape, visit)?;
            piece = rest;
        }
    }

    /// Passes records as long as they are plain and expected, which nearly all are, and returns what is left.
    ///
    /// All state of the loop is local, so that it stays in registers.
    #[inline(never)]
    fn expected_records<'a>(&mut self, mut piece: &'a [u8]) -> &'a [u8] {
        let expected = self.expected;
        let (mut index, mut max_timestamp) = (self.index, self.max_timestamp);
        while index < self.record_count {
            let Some((shape, size_bytes)) = plain_record(piece) else {
                break;
            };
            let timestamp = expected.base_timestamp.wrapping_add(shape.timestamp_delta);
            let in_range = expected.timestamp_min <= timestamp && timestamp <= expected.timestamp_max;
            let has_key = shape.has_key || !expected.key;
            if shape.offset_delta != index || !in_range || !has_key {
                break;
            }
            max_timestamp = max_timestamp.max(timestamp);
            index += 1;
            piece = &piece[size_bytes..];
        }
        (self.index, self.max_timestamp) = (index, max_timestamp);
        piece
    }

    fn end_record<E>(
        &mut self,
        shape: Shape,
        visit: &mut impl FnMut(i32, Shape) -> Result<(), E>,
    ) -> Result<(), E> {
        visit(self.index, shape)?;
        let timestamp = self.expected.base_timestamp.wrapping_add(shape.timestamp_delta);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.index += 1;
        Ok(())
    }

    /// Passes over bytes, or reads bytes of one varint; `piece` is not empty.
    fn step<'a, E: From<RecordError>>(
        &mut self,
        piece: &'a [u8],
        visit: &mut impl FnMut(i32, Shape) -> Result<(), E>,
    ) -> Result<&'a [u8], E> {
        if self.skip > 0 {
            let passed = self.skip.min(piece.len());
            self.skip -= passed;
            return Ok(&piece[passed..]);
        }
        let (byte, rest) = (piece[0], &piece[1..]);
        if self.field != Field::Length {
            let left = self.left.checked_sub(1);
            self.left = left.ok_or_else(|| self.malformed(PAST_THE_END))?;
        }
        let (part, at) = (u64::from(byte & 0x7f), self.partial_bytes);
        let bytes_max = if self.field == Field::TimestampDelta {
            10
        } else {
            5
        };
        if at == bytes_max || (at == 9 && part > 1) {
            return Err(self.malformed("a varint is too long").into());
        }
        self.partial |= part << (7 * at);
        self.partial_bytes += 1;
        if byte & 0x80 == 0 {
            let raw = std::mem::take(&mut self.partial);
            self.partial_bytes = 0;
            let ended = self.field(raw).map_err(|what| self.malformed(what))?;
            if ended {
                self.end_record(self.shape, visit)?;
            }
        }
        Ok(rest)
    }

    /// Takes the value of the current field and turns to the next one; whether the record has no further field.
    fn field(&mut self, raw: u64) -> Result<bool, &'static str> {
        let value = varint::unzigzag(raw);
        if self.field == Field::TimestampDelta {
            self.shape.timestamp_delta = value;
            self.field = Field::OffsetDelta;
            return Ok(false);
        }
        let value = i32::try_from(value).map_err(|_| "a varint passes 32 bits")?;
        match self.field {
            Field::Length => {
                self.left = usize::try_from(value).map_err(|_| NEGATIVE_LENGTH)?;
                self.pass(1)?;
                self.field = Field::TimestampDelta;
            }
            Field::TimestampDelta => unreachable!("read above, because it has 64 bits"),
            Field::OffsetDelta => {
                self.shape.offset_delta = value;
                self.field = Field::KeyLength;
            }
            Field::KeyLength => {
                self.shape.has_key = value >= 0;
                self.pass(value.max(0) as usize)?;
                self.field = Field::ValueLength;
            }
            Field::ValueLength => {
                self.pass(value.max(0) as usize)?;
                self.field = Field::HeaderCount;
            }
            Field::HeaderCount => {
                let count = usize::try_from(value).map_err(|_| NEGATIVE_HEADERS)?;
                if count > self.left {
                    return Err(TOO_MANY_HEADERS);
                }
                self.headers_left = value;
                return self.next_header();
            }
            Field::HeaderKeyLength => {
                self.pass(usize::try_from(value).map_err(|_| NULL_HEADER_KEY)?)?;
                self.field = Field::HeaderValueLength;
            }
            Field::HeaderValueLength => {
                self.pass(value.max(0) as usize)?;
                self.headers_left -= 1;
                return self.next_header();
            }
        }
        Ok(false)
    }

    fn next_header(&mut self) -> Result<bool, &'static str> {
        if self.headers_left > 0 {
            self.field = Field::HeaderKeyLength;
            return Ok(false);
        }
        if self.left > 0 {
            return Err(BYTES_LEFT);
        }
        self.field = Field::Length;
        Ok(true)
    }

    fn pass(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.left = self.left.checked_sub(bytes).ok_or(PAST_THE_END)?;
        self.skip = bytes;
        Ok(())
    }
}

const PAST_THE_END: &str = "a field passes the end of the record";
const NEGATIVE_LENGTH: &str = "its length is negative";
const NEGATIVE_HEADERS: &str = "its header count is negative";
const TOO_MANY_HEADERS: &str = "its header count passes the end of the record";
const NULL_HEADER_KEY: &str = "a header key is null";
const BYTES_LEFT: &str = "bytes are left after its headers";

/// The shape and the size of the record at the start of `piece`, if it has no headers, no long varint and no fault, and
/// the piece goes on for some bytes after it. `None` says nothing about the record: [`shape_of`] decides then.
///
/// Three loads of eight bytes serve all its varints, so that 100-byte records cost a few nanoseconds each.
#[inline(always)]
fn plain_record(piece: &[u8]) -> Option<(Shape, usize)> {
    let word = varint::word(piece, 0)?;
    let (length, length_bytes) = varint::short(word)?;
    // One byte of attributes, which mean nothing.
    let (timestamp_delta, timestamp_bytes) = varint::short(word >> (8 * (length_bytes + 1)))?;
    let at = length_bytes + 1 + timestamp_bytes;

    let word = varint::word(piece, at)?;
    let (offset_delta, offset_bytes) = varint::short(word)?;
    let (key, key_bytes) = varint::short(word >> (8 * offset_bytes))?;
    let at = at + offset_bytes + key_bytes + key.max(0) as usize;

    let (value, value_bytes) = varint::short(varint::word(piece, at)?)?;
    let at = at + value_bytes + value.max(0) as usize;

    let size_bytes = length_bytes + usize::try_from(length).ok()?;
    let no_headers = at + 1 == size_bytes && *piece.get(at)? == 0;
    let shape = Shape {
        offset_delta,
        timestamp_delta: i64::from(timestamp_delta),
        has_key: key >= 0,
    };
    no_headers.then_some((shape, size_bytes))
}

/// The shape of the record whose bytes after the length are `body`.
#[cold]
fn shape_of(body: &[u8]) -> Result<Shape, &'static str> {
    // One byte of attributes, which mean nothing.
    let mut rest = body.get(1..).ok_or(PAST_THE_END)?;
    let timestamp_delta = varint::read_i64(&mut rest).ok_or(NO_VARINT)?;
    let offset_delta = varint::read_i32(&mut rest).ok_or(NO_VARINT)?;
    let has_key = pass_nullable(&mut rest)?;
    pass_nullable(&mut rest)?;
    pass_headers(rest)?;
    Ok(Shape {
        offset_delta,
        timestamp_delta,
        has_key,
    })
}

const NO_VARINT: &str = "a field is no varint";

/// Passes over a length and as many bytes; whether it was not null.
fn pass_nullable(rest: &mut &[u8]) -> Result<bool, &'static str> {
    let length = varint::read_i32(rest).ok_or(NO_VARINT)?;
    if length < 0 {
        return Ok(false);
    }
    *rest = rest.get(length as usize..).ok_or(PAST_THE_END)?;
    Ok(true)
}

fn pass_headers(mut rest: &[u8]) -> Result<(), &'static str> {
    let count = varint::read_i32(&mut rest).ok_or(NO_VARINT)?;
    if usize::try_from(count).map_err(|_| NEGATIVE_HEADERS)? > rest.len() {
        return Err(TOO_MANY_HEADERS);
    }
    for _ in 0..count {
        if !pass_nullable(&mut rest)? {
            return Err(NULL_HEADER_KEY);
        }
        pass_nullable(&mut rest)?;
    }
    if !rest.is_empty() {
        return Err(BYTES_LEFT);
    }
    Ok(())
}
