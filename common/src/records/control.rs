//! Control records: what a control batch's key and value mean, and transaction markers.
//!
//! Keys are `version, type` as two i16. Values belong to the type; only the end-transaction marker's is known here.
//! Readers accept higher versions and read the fields they know, as Kafka does.

use bytes::Bytes;
use thiserror::Error;

use super::batch::NO_SEQUENCE;
use super::builder::BatchBuilder;

/// The type of a control record. Numbers without a name here are [`ControlRecordType::Unknown`] and are to be ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ControlRecordType {
    /// A transaction ended and its records do not count.
    Abort,
    /// A transaction ended and its records count.
    Commit,
    /// A quorum elected a leader.
    LeaderChange,
    /// First record of a quorum snapshot.
    SnapshotHeader,
    /// Last record of a quorum snapshot.
    SnapshotFooter,
    /// The quorum's feature level.
    KraftVersion,
    /// The quorum's voters.
    KraftVoters,
    /// A type of a later version.
    Unknown(i16),
}

impl ControlRecordType {
    /// The type with this number.
    pub fn from_id(id: i16) -> ControlRecordType {
        match id {
            0 => ControlRecordType::Abort,
            1 => ControlRecordType::Commit,
            2 => ControlRecordType::LeaderChange,
            3 => ControlRecordType::SnapshotHeader,
            4 => ControlRecordType::SnapshotFooter,
            5 => ControlRecordType::KraftVersion,
            6 => ControlRecordType::KraftVoters,
            _ => ControlRecordType::Unknown(id),
        }
    }

    /// The number of the type.
    pub fn id(self) -> i16 {
        match self {
            ControlRecordType::Abort => 0,
            ControlRecordType::Commit => 1,
            ControlRecordType::LeaderChange => 2,
            ControlRecordType::SnapshotHeader => 3,
            ControlRecordType::SnapshotFooter => 4,
            ControlRecordType::KraftVersion => 5,
            ControlRecordType::KraftVoters => 6,
            ControlRecordType::Unknown(id) => id,
        }
    }

    /// Reads the type from a control record's key.
    pub fn decode_key(key: &[u8]) -> Result<ControlRecordType, ControlError> {
        let Some((version, rest)) = key.split_first_chunk::<2>() else {
            return Err(ControlError::Key(key.len()));
        };
        let Some((id, _)) = rest.split_first_chunk::<2>() else {
            return Err(ControlError::Key(key.len()));
        };
        let version = i16::from_be_bytes(*version);
        if version < 0 {
            return Err(ControlError::Version(version));
        }
        Ok(ControlRecordType::from_id(i16::from_be_bytes(*id)))
    }

    /// The key of a control record of this type (key version 0).
    pub fn encode_key(self) -> [u8; 4] {
        let id = self.id().to_be_bytes();
        [0, 0, id[0], id[1]]
    }
}

/// Why a control record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControlError {
    /// The key is cut off.
    #[error("a control record's key has 4 bytes, this one {0}")]
    Key(usize),
    /// The value is cut off.
    #[error("an end-transaction marker has 6 bytes, this one {0}")]
    Value(usize),
    /// A negative version.
    #[error("a control record has the version {0}")]
    Version(i16),
    /// A marker of another type than commit or abort.
    #[error("{0:?} does not end a transaction")]
    Type(ControlRecordType),
}

/// The outcome of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionResult {
    /// Its records do not count.
    Abort,
    /// Its records count.
    Commit,
}

/// The control record that ends a transaction in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTransactionMarker {
    /// The outcome.
    pub result: TransactionResult,
    /// Epoch of the coordinator that decided; fences older coordinators.
    pub coordinator_epoch: i32,
}

impl EndTransactionMarker {
    /// Reads a marker from its record's key and value.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<EndTransactionMarker, ControlError> {
        let control_type = ControlRecordType::decode_key(key)?;
        let result = match control_type {
            ControlRecordType::Abort => TransactionResult::Abort,
            ControlRecordType::Commit => TransactionResult::Commit,
            ControlRecordType::LeaderChange
            | ControlRecordType::SnapshotHeader
            | ControlRecordType::SnapshotFooter
            | ControlRecordType::KraftVersion
            | ControlRecordType::KraftVoters
            | ControlRecordType::Unknown(_) => return Err(ControlError::Type(control_type)),
        };
        let Some(fields) = value.first_chunk::<6>() else {
            return Err(ControlError::Value(value.len()));
        };
        let version = i16::from_be_bytes([fields[0], fields[1]]);
        if version < 0 {
            return Err(ControlError::Version(version));
        }
        let coordinator_epoch = i32::from_be_bytes([fields[2], fields[3], fields[4], fields[5]]);
        Ok(EndTransactionMarker {
            result,
            coordinator_epoch,
        })
    }

    /// The key of the marker's record.
    pub fn encode_key(&self) -> [u8; 4] {
        match self.result {
            TransactionResult::Abort => ControlRecordType::Abort.encode_key(),
            TransactionResult::Commit => ControlRecordType::Commit.encode_key(),
        }
    }

    /// The value of the marker's record (version 0).
    pub fn encode_value(&self) -> [u8; 6] {
        let epoch = self.coordinator_epoch.to_be_bytes();
        [0, 0, epoch[0], epoch[1], epoch[2], epoch[3]]
    }

    /// The batch that carries the marker: one control record of the producer, base offset 0 and no leader epoch yet.
    pub fn to_batch(&self, timestamp_ms: i64, producer_id: i64, producer_epoch: i16) -> Bytes {
        let mut builder = BatchBuilder::new(0)
            .producer(producer_id, producer_epoch, NO_SEQUENCE)
            .transactional()
            .control();
        builder.append(
            timestamp_ms,
            Some(&self.encode_key()),
            Some(&self.encode_value()),
            &[],
        );
        builder.build()
    }
}
