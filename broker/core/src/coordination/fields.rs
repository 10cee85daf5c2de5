//! The primitive types of Kafka's coordinator records, read with checks.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It ends too early or holds an impossible length.
    #[error("the record is cut short or holds an impossible length")]
    Malformed,
    /// Its value is of a version that this release does not know.
    #[error("the value has version {0}, which this release does not know")]
    UnknownVersion(i16),
}

pub(crate) fn put_string(out: &mut BytesMut, text: &StrBytes) {
    out.put_i16(i16::try_from(text.len()).expect("strings came through fields of at most 32767 bytes"));
    out.put_slice(text.as_bytes());
}

pub(crate) fn put_nullable_string(out: &mut BytesMut, text: Option<&StrBytes>) {
    match text {
        Some(text) => put_string(out, text),
        None => out.put_i16(-1),
    }
}

/// Reads Kafka's primitive types, checked.
pub(crate) struct Reader {
    bytes: Bytes,
    /// Lengths are varints plus one, structs end with tagged fields.
    flexible: bool,
}

impl Reader {
    /// Begins in the form without varints.
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self {
            bytes,
            flexible: false,
        }
    }

    fn need(&self, size: usize) -> Result<(), RecordError> {
        if self.bytes.remaining() < size {
            Err(RecordError::Malformed)
        } else {
            Ok(())
        }
    }

    pub(crate) fn i8(&mut self) -> Result<i8, RecordError> {
        self.need(1)?;
        Ok(self.bytes.get_i8())
    }

    pub(crate) fn i16(&mut self) -> Result<i16, RecordError> {
        self.need(2)?;
        Ok(self.bytes.get_i16())
    }

    pub(crate) fn i32(&mut self) -> Result<i32, RecordError> {
        self.need(4)?;
        Ok(self.bytes.get_i32())
    }

    pub(crate) fn i64(&mut self) -> Result<i64, RecordError> {
        self.need(8)?;
        Ok(self.bytes.get_i64())
    }

    pub(crate) fn unsigned_varint(&mut self) -> Result<u32, RecordError> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            self.need(1)?;
            let byte = self.bytes.get_u8();
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RecordError::Malformed)
    }

    /// The version in front of a value; what follows is read in the form of that version.
    pub(crate) fn value_version(&mut self, highest: i16, flexible_since: i16) -> Result<i16, RecordError> {
        let version = self.i16()?;
        if !(0..=highest).contains(&version) {
            return Err(RecordError::UnknownVersion(version));
        }
        self.flexible = version >= flexible_since;
        Ok(version)
    }

    /// A length in the form of the version; `None` is null.
    pub(crate) fn length(
        &mut self,
        fixed: fn(&mut Self) -> Result<i64, RecordError>,
    ) -> Result<Option<usize>, RecordError> {
        let length = if self.flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else {
            fixed(self)?
        };
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| RecordError::Malformed)?;
        self.need(length)?;
        Ok(Some(length))
    }

    pub(crate) fn nullable_string(&mut self) -> Result<Option<StrBytes>, RecordError> {
        let Some(length) = self.length(|reader| reader.i16().map(i64::from))? else {
            return Ok(None);
        };
        StrBytes::from_utf8(self.bytes.split_to(length))
            .map(Some)
            .map_err(|_| RecordError::Malformed)
    }

    pub(crate) fn string(&mut self) -> Result<StrBytes, RecordError> {
        self.nullable_string()?.ok_or(RecordError::Malformed)
    }

    pub(crate) fn byte_string(&mut self) -> Result<Bytes, RecordError> {
        let length = self.length(|reader| reader.i32().map(i64::from))?;
        Ok(self.bytes.split_to(length.ok_or(RecordError::Malformed)?))
    }

    pub(crate) fn array_length(&mut self) -> Result<usize, RecordError> {
        self.nullable_array_length()?.ok_or(RecordError::Malformed)
    }

    /// `None` is a null array.
    pub(crate) fn nullable_array_length(&mut self) -> Result<Option<usize>, RecordError> {
        self.length(|reader| reader.i32().map(i64::from))
    }

    pub(crate) fn skip_tagged_fields(&mut self) -> Result<(), RecordError> {
        self.tagged_fields(|_, _| Ok(()))
    }

    /// Hands out every tagged field with its tag; there are none outside of flexible versions.
    pub(crate) fn tagged_fields(
        &mut self,
        mut take: impl FnMut(u32, &mut Self) -> Result<(), RecordError>,
    ) -> Result<(), RecordError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let size = self.unsigned_varint()? as usize;
            self.need(size)?;
            let mut field = Self {
                bytes: self.bytes.split_to(size),
                flexible: true,
            };
            take(tag, &mut field)?;
        }
        Ok(())
    }
}
