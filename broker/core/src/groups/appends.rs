//! Decisions on their way through the log: handed out, not yet committed, in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::protocol::StrBytes;
use odradek_common::error::ErrorCode;

use super::GroupResponse;
use super::group::{Group, Member};
use super::records::Record;
use crate::coordination::{Append, AppendId, AppendKind, RequestToken};

/// What happens to the live groups when the records are committed, or are not.
#[derive(Debug)]
pub(super) enum Then {
    /// Nothing but the answers.
    Nothing,
    /// The group exists from now on.
    NewGroup { group_id: StrBytes },
    /// The leader's assignment becomes the group's.
    Assignment {
        group_id: StrBytes,
        generation: i32,
        assignments: BTreeMap<StrBytes, Bytes>,
    },
    /// A static member has come back under a new member id.
    StaticMember(Box<StaticMember>),
    /// The group is gone; it has been taken out of the live groups already, and is put back if the log refuses.
    DeleteGroup {
        group_id: StrBytes,
        taken_out: Option<Box<Group>>,
    },
}

/// A static member replaced while its group was stable.
#[derive(Debug)]
pub(super) struct StaticMember {
    pub(super) group_id: StrBytes,
    pub(super) token: RequestToken,
    pub(super) new_member_id: StrBytes,
    /// The member as it was before, to be put back if the log refuses.
    pub(super) old_member: Member,
    /// The leader as it was before.
    pub(super) old_leader: Option<StrBytes>,
    /// The caller understands `skip_assignment` (KIP-814).
    pub(super) skips_assignment: bool,
}

/// Records handed out, with all that waits for them.
#[derive(Debug)]
pub(super) struct Pending {
    id: AppendId,
    pub(super) kind: AppendKind,
    pub(super) records: Vec<Record>,
    /// The groups that a marker touches.
    pub(super) group_ids: BTreeSet<StrBytes>,
    pub(super) then: Then,
    /// Answers that are true once the records are committed.
    pub(super) replies: Vec<(RequestToken, GroupResponse)>,
    /// Fetches that wait for commits before them.
    pub(super) fetches: Vec<(RequestToken, OffsetFetchRequestGroup)>,
    result: Option<Result<(), ErrorCode>>,
}

impl Pending {
    /// Answers everybody who waits with the error.
    pub(super) fn refuse(self, code: ErrorCode, replies: &mut Vec<(RequestToken, GroupResponse)>) {
        replies.extend(
            self.replies
                .into_iter()
                .map(|(token, response)| (token, response.refused(code))),
        );
        for (token, group) in self.fetches {
            let request = super::GroupRequest::OffsetFetch {
                group,
                require_stable: true,
            };
            replies.push((token, request.refuse(code)));
        }
    }

    fn touches(&self, group_id: &StrBytes) -> bool {
        self.group_ids.contains(group_id) || self.records.iter().any(|record| record.group_id() == group_id)
    }
}

/// The queue of what is on its way.
#[derive(Debug, Default)]
pub(super) struct Appends {
    next_id: u64,
    queue: VecDeque<Pending>,
    new: Vec<Append>,
}

impl Appends {
    /// Hands out records of the coordinator's own.
    pub(super) fn push(&mut self, records: Vec<Record>, then: Then) -> &mut Pending {
        self.push_as(AppendKind::Plain, records, then)
    }

    /// Hands out records.
    pub(super) fn push_as(&mut self, kind: AppendKind, records: Vec<Record>, then: Then) -> &mut Pending {
        let id = AppendId(self.next_id);
        self.next_id += 1;
        self.new.push(Append {
            id,
            kind,
            records: records.iter().map(Record::encode).collect(),
        });
        self.queue.push_back(Pending {
            id,
            kind,
            records,
            group_ids: BTreeSet::new(),
            then,
            replies: Vec::new(),
            fetches: Vec::new(),
            result: None,
        });
        self.queue.back_mut().expect("just pushed")
    }

    /// How many were ever handed out: tells whether a step appended something.
    pub(super) fn count(&self) -> u64 {
        self.next_id
    }

    /// The last one on its way.
    pub(super) fn last_mut(&mut self) -> Option<&mut Pending> {
        self.queue.back_mut()
    }

    /// The last one on its way that touches the group.
    pub(super) fn last_of_mut(&mut self, group_id: &StrBytes) -> Option<&mut Pending> {
        self.queue
            .iter_mut()
            .rev()
            .find(|pending| pending.touches(group_id))
    }

    /// Whether records of the group are on their way.
    pub(super) fn touches(&self, group_id: &StrBytes) -> bool {
        self.queue.iter().any(|pending| pending.touches(group_id))
    }

    /// The records on their way, oldest first.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.queue.iter().flat_map(|pending| pending.records.iter())
    }

    /// The groups of a producer's transactional records on their way.
    pub(super) fn groups_of_transaction(&self, producer_id: i64) -> impl Iterator<Item = &StrBytes> {
        let is_of = move |pending: &&Pending| match pending.kind {
            AppendKind::Transactional(writer) => writer.producer_id == producer_id,
            AppendKind::Plain | AppendKind::EndOfTransaction(_) => false,
        };
        let of_producer = self.queue.iter().filter(is_of);
        of_producer.flat_map(|pending| pending.records.iter().map(Record::group_id))
    }

    /// Notes how an append ended.
    pub(super) fn report(&mut self, id: AppendId, result: Result<(), ErrorCode>) {
        if let Some(pending) = self.queue.iter_mut().find(|pending| pending.id == id) {
            pending.result = Some(result);
        }
    }

    /// Takes the oldest append if it has ended.
    pub(super) fn take_reported(&mut self) -> Option<(Pending, Result<(), ErrorCode>)> {
        let result = self.queue.front()?.result?;
        self.queue.pop_front().map(|pending| (pending, result))
    }

    /// What was handed out since the last call.
    pub(super) fn take_new(&mut self) -> Vec<Append> {
        std::mem::take(&mut self.new)
    }

    /// Forgets everything on its way.
    pub(super) fn drain(&mut self) -> VecDeque<Pending> {
        self.new.clear();
        std::mem::take(&mut self.queue)
    }
}
