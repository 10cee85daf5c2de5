//! Raft messages as bytes, and what is refused of them before raft-rs, which panics on much of it, sees them.

use bytes::Bytes;
use odradek_common::ids::NodeId;
use protobuf::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};

/// The last term: metadata carries it as a leader epoch, which has 31 bits.
const TERM_MAX: u64 = i32::MAX as u64;

/// A node's number as raft-rs knows it: 0 means "nobody" there, and is a valid `node.id` here.
pub(super) fn raft_id(node: NodeId) -> u64 {
    u64::try_from(node).expect("node ids are not negative") + 1
}

/// The node behind a raft id; `None` for "nobody".
pub(super) fn node_id(raft_id: u64) -> Option<NodeId> {
    NodeId::try_from(raft_id.checked_sub(1)?).ok()
}

pub(super) fn encode(message: &Message) -> Bytes {
    message
        .write_to_bytes()
        .map(Bytes::from)
        .expect("a raft message always encodes")
}

/// Decodes a message and refuses what a peer has no business sending.
pub(super) fn decode(from: NodeId, to: u64, bytes: &[u8]) -> Result<Message, &'static str> {
    let mut message = Message::default();
    message
        .merge_from_bytes(bytes)
        .map_err(|_| "not a raft message")?;
    if from < 0 || message.from != raft_id(from) {
        return Err("sender is not who it says");
    }
    if message.to != to {
        return Err("meant for another node");
    }
    if message.from == to {
        return Err("from this very node");
    }
    if message.term == 0 {
        return Err("without a term");
    }
    if message.term > TERM_MAX {
        return Err("of a term that no leader can have");
    }
    let kind = MessageType::from_i32(message.msg_type).ok_or("unknown message type")?;
    if !may_come_from_a_peer(kind) {
        return Err("of a type that peers do not send");
    }
    check_entries(&message)?;
    if kind == MessageType::MsgSnapshot {
        check_snapshot(&message)?;
    }
    Ok(message)
}

fn may_come_from_a_peer(kind: MessageType) -> bool {
    match kind {
        MessageType::MsgAppend
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgSnapshot
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => true,
        // Proposals, transfers and reads are made on the leader only; the rest is between raft-rs and its driver.
        MessageType::MsgPropose
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp
        | MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => false,
    }
}

fn check_entries(message: &Message) -> Result<(), &'static str> {
    for (expected, entry) in (message.index.saturating_add(1)..).zip(&message.entries) {
        if EntryType::from_i32(entry.entry_type).is_none() {
            return Err("unknown entry type");
        }
        if entry.index != expected || entry.term == 0 || entry.term > message.term {
            return Err("entries out of order");
        }
    }
    Ok(())
}

fn check_snapshot(message: &Message) -> Result<(), &'static str> {
    let metadata = message.get_snapshot().get_metadata();
    if metadata.index == 0 {
        return Err("an empty snapshot");
    }
    if metadata.term > message.term {
        return Err("a snapshot of a later term");
    }
    Ok(())
}
