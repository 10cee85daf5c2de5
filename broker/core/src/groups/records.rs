//! The records of `__consumer_offsets`, byte for byte Kafka's: OffsetCommitKey 0 and 1, OffsetCommitValue 0 to 4,
//! GroupMetadataKey 2, GroupMetadataValue 0 to 4. Written are key 1 with value 3 (value 1 when the commit carries its
//! own retention) and key 2 with value 3.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;

/// A record of `__consumer_offsets` that this version understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An offset committed, or taken back.
    Offset {
        /// The group.
        group_id: StrBytes,
        /// The topic.
        topic: StrBytes,
        /// The partition's index.
        partition: i32,
        /// No value: the offset is gone.
        value: Option<OffsetValue>,
    },
    /// A generation of a group, or its end.
    Group {
        /// The group.
        group_id: StrBytes,
        /// No value: the group is gone.
        value: Option<GroupValue>,
    },
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetValue {
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the last record read; -1 when unknown.
    pub leader_epoch: i32,
    /// The client's own note.
    pub metadata: StrBytes,
    /// When it was committed, in milliseconds since 1970.
    pub commit_timestamp_ms: i64,
    /// When it expires, if the commit said so itself (OffsetCommit up to version 4).
    pub expire_timestamp_ms: Option<i64>,
}

/// A stored generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupValue {
    /// `consumer`, `connect` or whatever clients chose; empty: offsets only.
    pub protocol_type: StrBytes,
    /// The generation.
    pub generation: i32,
    /// The chosen protocol.
    pub protocol: Option<StrBytes>,
    /// The leader's member id.
    pub leader: Option<StrBytes>,
    /// When the group came into its state, in milliseconds since 1970; -1 when unknown.
    pub current_state_timestamp_ms: i64,
    /// The members, each with its assignment.
    pub members: Vec<MemberValue>,
}

/// A member in a stored generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    /// The member id.
    pub member_id: StrBytes,
    /// The static member's name.
    pub group_instance_id: Option<StrBytes>,
    /// The client id.
    pub client_id: StrBytes,
    /// The client's address.
    pub client_host: StrBytes,
    /// The rebalance timeout; -1: as long as the session timeout.
    pub rebalance_timeout_ms: i32,
    /// The session timeout.
    pub session_timeout_ms: i32,
    /// The metadata of the chosen protocol.
    pub subscription: Bytes,
    /// The assignment.
    pub assignment: Bytes,
}

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

const OFFSET_KEY_VERSION: i16 = 1;
const GROUP_KEY_VERSION: i16 = 2;
const VALUE_VERSION: i16 = 3;
const EXPIRING_OFFSET_VALUE_VERSION: i16 = 1;
const HIGHEST_VALUE_VERSION: i16 = 4;

/// The partition of `__consumer_offsets` that holds a group: the absolute value of Java's `String.hashCode` of the id
/// (0 for the one that has none), modulo the number of partitions.
///
/// # Panics
/// When there are no partitions.
#[must_use]
pub fn partition_for(group_id: &str, partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has partitions");
    let hash = group_id.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    hash.checked_abs().unwrap_or(0) % partitions
}

/// Reads a record. `Ok(None)` is a key of a version that belongs to somebody else.
///
/// # Errors
/// When key or value cannot be read.
pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Record>, RecordError> {
    let mut key = Reader {
        bytes: Bytes::copy_from_slice(key),
        flexible: false,
    };
    let version = key.i16()?;
    let mut value = value.map(|value| Reader {
        bytes: Bytes::copy_from_slice(value),
        flexible: false,
    });
    match version {
        0 | OFFSET_KEY_VERSION => Ok(Some(Record::Offset {
            group_id: key.string()?,
            topic: key.string()?,
            partition: key.i32()?,
            value: value.as_mut().map(decode_offset).transpose()?,
        })),
        GROUP_KEY_VERSION => Ok(Some(Record::Group {
            group_id: key.string()?,
            value: value.as_mut().map(decode_group).transpose()?,
        })),
        _ => Ok(None),
    }
}

fn decode_offset(reader: &mut Reader) -> Result<OffsetValue, RecordError> {
    let version = reader.value_version()?;
    let offset = reader.i64()?;
    let leader_epoch = if version >= 3 { reader.i32()? } else { -1 };
    let metadata = reader.string()?;
    let commit_timestamp_ms = reader.i64()?;
    let expire = if version == EXPIRING_OFFSET_VALUE_VERSION {
        reader.i64()?
    } else {
        -1
    };
    Ok(OffsetValue {
        offset,
        leader_epoch,
        metadata,
        commit_timestamp_ms,
        expire_timestamp_ms: (expire != -1).then_some(expire),
    })
}

fn decode_group(reader: &mut Reader) -> Result<GroupValue, RecordError> {
    let version = reader.value_version()?;
    let protocol_type = reader.string()?;
    let generation = reader.i32()?;
    let protocol = reader.nullable_string()?;
    let leader = reader.nullable_string()?;
    let current_state_timestamp_ms = if version >= 2 { reader.i64()? } else { -1 };
    let count = reader.array_length()?;
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(decode_member(reader, version)?);
    }
    Ok(GroupValue {
        protocol_type,
        generation,
        protocol,
        leader,
        current_state_timestamp_ms,
        members,
    })
}

fn decode_member(reader: &mut Reader, version: i16) -> Result<MemberValue, RecordError> {
    let member = MemberValue {
        member_id: reader.string()?,
        group_instance_id: if version >= 3 {
            reader.nullable_string()?
        } else {
            None
        },
        client_id: reader.string()?,
        client_host: reader.string()?,
        rebalance_timeout_ms: if version >= 1 { reader.i32()? } else { -1 },
        session_timeout_ms: reader.i32()?,
        subscription: reader.byte_string()?,
        assignment: reader.byte_string()?,
    };
    reader.skip_tagged_fields()?;
    Ok(member)
}

impl Record {
    /// The group that the record is about.
    #[must_use]
    pub fn group_id(&self) -> &StrBytes {
        match self {
            Self::Offset { group_id, .. } | Self::Group { group_id, .. } => group_id,
        }
    }

    /// Key and value as they go into the log.
    #[must_use]
    pub fn encode(&self) -> (Bytes, Option<Bytes>) {
        let mut key = BytesMut::new();
        match self {
            Self::Offset {
                group_id,
                topic,
                partition,
                value,
            } => {
                key.put_i16(OFFSET_KEY_VERSION);
                put_string(&mut key, group_id);
                put_string(&mut key, topic);
                key.put_i32(*partition);
                (key.freeze(), value.as_ref().map(encode_offset))
            }
            Self::Group { group_id, value } => {
                key.put_i16(GROUP_KEY_VERSION);
                put_string(&mut key, group_id);
                (key.freeze(), value.as_ref().map(encode_group))
            }
        }
    }
}

fn encode_offset(value: &OffsetValue) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(if value.expire_timestamp_ms.is_some() {
        EXPIRING_OFFSET_VALUE_VERSION
    } else {
        VALUE_VERSION
    });
    out.put_i64(value.offset);
    if value.expire_timestamp_ms.is_none() {
        out.put_i32(value.leader_epoch);
    }
    put_string(&mut out, &value.metadata);
    out.put_i64(value.commit_timestamp_ms);
    if let Some(expire_timestamp_ms) = value.expire_timestamp_ms {
        out.put_i64(expire_timestamp_ms);
    }
    out.freeze()
}

fn encode_group(value: &GroupValue) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(VALUE_VERSION);
    put_string(&mut out, &value.protocol_type);
    out.put_i32(value.generation);
    put_nullable_string(&mut out, value.protocol.as_ref());
    put_nullable_string(&mut out, value.leader.as_ref());
    out.put_i64(value.current_state_timestamp_ms);
    out.put_i32(i32::try_from(value.members.len()).expect("a group has fewer than 2^31 members"));
    for member in &value.members {
        put_string(&mut out, &member.member_id);
        put_nullable_string(&mut out, member.group_instance_id.as_ref());
        put_string(&mut out, &member.client_id);
        put_string(&mut out, &member.client_host);
        out.put_i32(member.rebalance_timeout_ms);
        out.put_i32(member.session_timeout_ms);
        put_bytes(&mut out, &member.subscription);
        put_bytes(&mut out, &member.assignment);
    }
    out.freeze()
}

fn put_string(out: &mut BytesMut, text: &StrBytes) {
    out.put_i16(i16::try_from(text.len()).expect("strings came through fields of at most 32767 bytes"));
    out.put_slice(text.as_bytes());
}

fn put_nullable_string(out: &mut BytesMut, text: Option<&StrBytes>) {
    match text {
        Some(text) => put_string(out, text),
        None => out.put_i16(-1),
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &Bytes) {
    out.put_i32(i32::try_from(bytes.len()).expect("bytes came through a frame of less than 2^31 bytes"));
    out.put_slice(bytes);
}

/// Reads Kafka's primitive types, checked.
struct Reader {
    bytes: Bytes,
    /// Lengths are varints plus one, structs end with tagged fields.
    flexible: bool,
}

impl Reader {
    fn need(&self, size: usize) -> Result<(), RecordError> {
        if self.bytes.remaining() < size {
            Err(RecordError::Malformed)
        } else {
            Ok(())
        }
    }

    fn i16(&mut self) -> Result<i16, RecordError> {
        self.need(2)?;
        Ok(self.bytes.get_i16())
    }

    fn i32(&mut self) -> Result<i32, RecordError> {
        self.need(4)?;
        Ok(self.bytes.get_i32())
    }

    fn i64(&mut self) -> Result<i64, RecordError> {
        self.need(8)?;
        Ok(self.bytes.get_i64())
    }

    fn unsigned_varint(&mut self) -> Result<u32, RecordError> {
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

    fn value_version(&mut self) -> Result<i16, RecordError> {
        let version = self.i16()?;
        if !(0..=HIGHEST_VALUE_VERSION).contains(&version) {
            return Err(RecordError::UnknownVersion(version));
        }
        self.flexible = version >= 4;
        Ok(version)
    }

    /// A length in the form of the version; `None` is null.
    fn length(
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

    fn nullable_string(&mut self) -> Result<Option<StrBytes>, RecordError> {
        let Some(length) = self.length(|reader| reader.i16().map(i64::from))? else {
            return Ok(None);
        };
        StrBytes::from_utf8(self.bytes.split_to(length))
            .map(Some)
            .map_err(|_| RecordError::Malformed)
    }

    fn string(&mut self) -> Result<StrBytes, RecordError> {
        self.nullable_string()?.ok_or(RecordError::Malformed)
    }

    fn byte_string(&mut self) -> Result<Bytes, RecordError> {
        let length = self.length(|reader| reader.i32().map(i64::from))?;
        Ok(self.bytes.split_to(length.ok_or(RecordError::Malformed)?))
    }

    fn array_length(&mut self) -> Result<usize, RecordError> {
        self.length(|reader| reader.i32().map(i64::from))?
            .ok_or(RecordError::Malformed)
    }

    fn skip_tagged_fields(&mut self) -> Result<(), RecordError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            self.unsigned_varint()?;
            let size = self.unsigned_varint()? as usize;
            self.need(size)?;
            self.bytes.advance(size);
        }
        Ok(())
    }
}

/// The topics of a consumer's subscription, from the part that every version of it begins with; `None` when the bytes are
/// something else.
#[must_use]
pub fn subscribed_topics(subscription: &Bytes) -> Option<Vec<StrBytes>> {
    let mut reader = Reader {
        bytes: subscription.clone(),
        flexible: false,
    };
    reader.i16().ok()?;
    let count = reader.array_length().ok()?;
    let mut topics = Vec::new();
    for _ in 0..count {
        topics.push(reader.string().ok()?);
    }
    Some(topics)
}
