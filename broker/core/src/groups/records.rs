//! The records of `__consumer_offsets`, byte for byte Kafka's: OffsetCommitKey 0 and 1, OffsetCommitValue 0 to 4,
//! GroupMetadataKey 2, GroupMetadataValue 0 to 4. Written are key 1 with value 3 (value 1 when the commit carries its
//! own retention) and key 2 with value 3.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;

use crate::coordination::fields::{Reader, RecordError, put_nullable_string, put_string};

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

const OFFSET_KEY_VERSION: i16 = 1;
const GROUP_KEY_VERSION: i16 = 2;
const VALUE_VERSION: i16 = 3;
const EXPIRING_OFFSET_VALUE_VERSION: i16 = 1;
const HIGHEST_VALUE_VERSION: i16 = 4;
const FLEXIBLE_SINCE: i16 = 4;

/// Reads a record. `Ok(None)` is a key of a version that belongs to somebody else.
///
/// # Errors
/// When key or value cannot be read.
pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Record>, RecordError> {
    let mut key = Reader::new(Bytes::copy_from_slice(key));
    let version = key.i16()?;
    let mut value = value.map(|value| Reader::new(Bytes::copy_from_slice(value)));
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
    let version = reader.value_version(HIGHEST_VALUE_VERSION, FLEXIBLE_SINCE)?;
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
    let version = reader.value_version(HIGHEST_VALUE_VERSION, FLEXIBLE_SINCE)?;
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

fn put_bytes(out: &mut BytesMut, bytes: &Bytes) {
    out.put_i32(i32::try_from(bytes.len()).expect("bytes came through a frame of less than 2^31 bytes"));
    out.put_slice(bytes);
}

/// The topics of a consumer's subscription, from the part that every version of it begins with; `None` when the bytes are
/// something else.
#[must_use]
pub fn subscribed_topics(subscription: &Bytes) -> Option<Vec<StrBytes>> {
    let mut reader = Reader::new(subscription.clone());
    reader.i16().ok()?;
    let count = reader.array_length().ok()?;
    let mut topics = Vec::new();
    for _ in 0..count {
        topics.push(reader.string().ok()?);
    }
    Some(topics)
}
