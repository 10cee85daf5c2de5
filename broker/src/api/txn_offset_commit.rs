//! TxnOffsetCommit: how far a group has read, as part of a transaction. Partitions that do not exist are refused here, the
//! rest is the coordinator's.

use std::sync::Arc;

use kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestTopic;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{ApiKey, TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use odradek_broker_core::groups::{GroupRequest, GroupResponse};
use odradek_broker_core::producer_state::verification::Verification;
use odradek_common::error::ErrorCode;
use odradek_common::metadata::MetadataImage;
use odradek_common::records::batch::NO_SEQUENCE;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::count_refusal;
use crate::coordinator::groups::caller;
use crate::names::OFFSETS_TOPIC;
use crate::verification::{self, Operation, Transaction};

/// The handler.
pub struct TxnOffsetCommit;

impl Handler for TxnOffsetCommit {
    type Request = TxnOffsetCommitRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        mut request: TxnOffsetCommitRequest,
    ) -> TxnOffsetCommitResponse {
        let Sorted {
            known,
            unknown: mut topics,
        } = sort(&broker.image(), std::mem::take(&mut request.topics));
        if !known.is_empty() {
            let request = request.with_topics(known);
            let answer = commit(&broker, &call, request).await;
            let GroupResponse::TxnOffsetCommit(answer) = answer.for_version(call.api_version) else {
                unreachable!("TxnOffsetCommit is answered in kind")
            };
            topics.extend(answer.topics);
        }
        for partition in topics.iter().flat_map(|topic| &topic.partitions) {
            count_refusal(&broker, ApiKey::TxnOffsetCommit, partition.error_code);
        }
        TxnOffsetCommitResponse::default().with_topics(topics)
    }
}

async fn commit(broker: &Arc<Broker>, call: &Call, request: TxnOffsetCommitRequest) -> GroupResponse {
    match verify(broker, call, &request).await {
        Ok(verification) => {
            let request = GroupRequest::TxnOffsetCommit {
                request,
                verification,
            };
            broker.groups.call(caller(call), request).await
        }
        Err(code) => {
            let request = GroupRequest::TxnOffsetCommit {
                request,
                verification: Verification::Waived,
            };
            request.refuse(verification::commit_refusal(code))
        }
    }
}

/// Asks the transaction's coordinator about the group's partition, unless the transaction has begun there.
async fn verify(
    broker: &Arc<Broker>,
    call: &Call,
    request: &TxnOffsetCommitRequest,
) -> Result<Verification, ErrorCode> {
    let operation = Operation::of_txn_offset_commit(call.api_version);
    if !verification::is_required(broker, operation) {
        return Ok(Verification::Waived);
    }
    let partition = broker.groups.partition_of(&request.group_id.0);
    let replica = partition.and_then(|partition| broker.replicas.get(OFFSETS_TOPIC, partition));
    let Some(replica) = replica else {
        return Err(ErrorCode::NotCoordinator);
    };
    let transaction = Transaction {
        transactional_id: request.transactional_id.0.clone(),
        producer_id: request.producer_id.0,
        producer_epoch: request.producer_epoch,
        operation,
    };
    let id = replica.id.clone();
    let verified = verification::verify(broker, &transaction, &[(replica, NO_SEQUENCE)]).await;
    verified.of(&id)
}

/// What is to be committed, and the answer to the rest.
struct Sorted {
    known: Vec<TxnOffsetCommitRequestTopic>,
    unknown: Vec<TxnOffsetCommitResponseTopic>,
}

fn sort(image: &MetadataImage, topics: Vec<TxnOffsetCommitRequestTopic>) -> Sorted {
    let mut sorted = Sorted {
        known: Vec::with_capacity(topics.len()),
        unknown: Vec::new(),
    };
    for mut topic in topics {
        let exists = |partition: i32| image.partition(&topic.name.0, partition).is_some();
        let (known, unknown): (Vec<_>, Vec<_>) = std::mem::take(&mut topic.partitions)
            .into_iter()
            .partition(|partition| exists(partition.partition_index));
        if !unknown.is_empty() {
            let refused = unknown.iter().map(|partition| {
                TxnOffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
            });
            let answer = TxnOffsetCommitResponseTopic::default().with_name(topic.name.clone());
            sorted.unknown.push(answer.with_partitions(refused.collect()));
        }
        if !known.is_empty() {
            topic.partitions = known;
            sorted.known.push(topic);
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::topic_name;
    use kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestPartition;
    use odradek_common::metadata::TopicImage;
    use uuid::Uuid;

    fn topic(name: &str, partitions: &[i32]) -> TxnOffsetCommitRequestTopic {
        let partitions = partitions
            .iter()
            .map(|p| TxnOffsetCommitRequestPartition::default().with_partition_index(*p));
        TxnOffsetCommitRequestTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions.collect())
    }

    #[test]
    fn what_does_not_exist_is_refused_and_nothing_else() {
        let mut image = MetadataImage::default();
        let there = TopicImage {
            name: "a".into(),
            id: Uuid::nil(),
            partitions: vec![Arc::default(); 2],
        };
        image.topics.insert("a".into(), Arc::new(there));
        let asked = vec![topic("gone", &[0]), topic("a", &[1, 7, 0])];
        let Sorted { known, unknown } = sort(&image, asked);
        let known: Vec<_> = known
            .iter()
            .flat_map(|topic| {
                topic
                    .partitions
                    .iter()
                    .map(|p| (topic.name.0.as_str(), p.partition_index))
            })
            .collect();
        assert_eq!(known, [("a", 1), ("a", 0)]);
        let refused: Vec<_> = unknown
            .iter()
            .flat_map(|topic| {
                let of = |p: &TxnOffsetCommitResponsePartition| {
                    (topic.name.0.as_str(), p.partition_index, p.error_code)
                };
                topic.partitions.iter().map(of).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(refused, [("gone", 0, 3), ("a", 7, 3)]);
    }
}
