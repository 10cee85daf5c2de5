//! AddPartitionsToTxn: partitions that are to belong to a transaction. Clients ask up to version 3, brokers from version 4 on,
//! for many transactions at once, some of which they only want to have looked at (KIP-890).

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, ApiKey};
use odradek_broker_core::transactions::metadata::ProducerIdAndEpoch;
use odradek_broker_core::transactions::{TransactionRequest, TransactionResponse};
use odradek_common::error::{ErrorCode, wire_code};
use odradek_common::ids::TopicPartition;
use odradek_common::metadata::MetadataImage;

use super::init_producer_id::known_since;
use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::transactions::IDS_AT_ONCE;
use crate::names::{is_internal, shared};

/// First version whose clients know PRODUCER_FENCED.
const FENCED_SINCE: i16 = 2;
/// First version that brokers ask in, for many transactions at once.
const BATCH_SINCE: i16 = 4;

/// The handler.
pub struct AddPartitionsToTxn;

/// What each partition of a transaction is told, in the order of the request.
type Codes = Vec<Option<ErrorCode>>;

impl Handler for AddPartitionsToTxn {
    type Request = AddPartitionsToTxnRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        request: AddPartitionsToTxnRequest,
    ) -> AddPartitionsToTxnResponse {
        answer(&broker, call.api_version, request).await
    }
}

/// The answer, also to this node itself.
pub async fn answer(
    broker: &Broker,
    version: i16,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    if version < BATCH_SINCE {
        let transaction = AddPartitionsToTxnTransaction::default()
            .with_transactional_id(request.v3_and_below_transactional_id)
            .with_producer_id(request.v3_and_below_producer_id)
            .with_producer_epoch(request.v3_and_below_producer_epoch)
            .with_topics(request.v3_and_below_topics);
        let result = add(broker, version, transaction).await;
        return AddPartitionsToTxnResponse::default()
            .with_results_by_topic_v3_and_below(result.topic_results);
    }
    let transactions = request
        .transactions
        .into_iter()
        .map(|transaction| add(broker, version, transaction));
    let results = stream::iter(transactions).buffered(IDS_AT_ONCE).collect().await;
    AddPartitionsToTxnResponse::default().with_results_by_transaction(results)
}

/// Adds or verifies the partitions of one transaction.
async fn add(
    broker: &Broker,
    version: i16,
    transaction: AddPartitionsToTxnTransaction,
) -> AddPartitionsToTxnResult {
    let partitions: Vec<TopicPartition> = partitions(&transaction.topics);
    let codes = match check(&broker.image(), version, &partitions) {
        Err(codes) => codes,
        Ok(()) => ask(broker, version, &transaction, &partitions).await,
    };
    for code in codes.iter().flatten() {
        broker.metrics.refused(ApiKey::AddPartitionsToTxn, *code);
    }
    AddPartitionsToTxnResult::default()
        .with_topic_results(results(transaction.topics, &codes))
        .with_transactional_id(transaction.transactional_id)
}

fn partitions(topics: &[AddPartitionsToTxnTopic]) -> Vec<TopicPartition> {
    let of_topic = |topic: &AddPartitionsToTxnTopic| {
        let name = shared(&topic.name);
        let partition = move |index: &i32| TopicPartition::new(name.clone(), *index);
        topic.partitions.iter().map(partition).collect::<Vec<_>>()
    };
    topics.iter().flat_map(of_topic).collect()
}

/// One partition that does not exist, or that no client may write to, keeps all of them out.
fn check(image: &MetadataImage, version: i16, partitions: &[TopicPartition]) -> Result<(), Codes> {
    let refusal = |partition: &TopicPartition| {
        if version < BATCH_SINCE && is_internal(&partition.topic) {
            // A client's offsets join a transaction through AddOffsetsToTxn alone; brokers have them verified here.
            return Some(ErrorCode::TopicAuthorizationFailed);
        }
        let exists = image.partition(&partition.topic, partition.partition).is_some();
        (!exists).then_some(ErrorCode::UnknownTopicOrPartition)
    };
    let refusals: Codes = partitions.iter().map(refusal).collect();
    if refusals.iter().all(Option::is_none) {
        return Ok(());
    }
    let code = |refusal: Option<ErrorCode>| Some(refusal.unwrap_or(ErrorCode::OperationNotAttempted));
    Err(refusals.into_iter().map(code).collect())
}

async fn ask(
    broker: &Broker,
    version: i16,
    transaction: &AddPartitionsToTxnTransaction,
    partitions: &[TopicPartition],
) -> Codes {
    let transactional_id = transaction.transactional_id.0.clone();
    let producer = ProducerIdAndEpoch {
        producer_id: transaction.producer_id.0,
        epoch: transaction.producer_epoch,
    };
    let asked: BTreeSet<TopicPartition> = partitions.iter().cloned().collect();
    let request = if transaction.verify_only {
        TransactionRequest::VerifyPartitions {
            transactional_id,
            producer,
            partitions: asked,
        }
    } else {
        TransactionRequest::AddPartitions {
            transactional_id,
            producer,
            partitions: asked,
            client_version: if version >= BATCH_SINCE { 2 } else { 0 },
        }
    };
    let answer = if transaction.transactional_id.0.is_empty() {
        request.refuse(ErrorCode::InvalidRequest)
    } else {
        broker.transactions.call(request).await
    };
    let same_for_all = |code: Option<ErrorCode>| {
        let code = code.map(|code| known_since(code, version, FENCED_SINCE));
        vec![code; partitions.len()]
    };
    match answer {
        TransactionResponse::AddPartitions(result) => same_for_all(result.err()),
        TransactionResponse::VerifyPartitions(Err(code)) => same_for_all(Some(code)),
        TransactionResponse::VerifyPartitions(Ok(verified)) => {
            let belongs: BTreeSet<TopicPartition> = verified
                .into_iter()
                .filter_map(|(partition, belongs)| belongs.then_some(partition))
                .collect();
            let code = |partition| (!belongs.contains(partition)).then_some(ErrorCode::TransactionAbortable);
            partitions.iter().map(code).collect()
        }
        other => unreachable!("AddPartitionsToTxn is answered in kind, not by {other:?}"),
    }
}

fn results(topics: Vec<AddPartitionsToTxnTopic>, codes: &Codes) -> Vec<AddPartitionsToTxnTopicResult> {
    let mut codes = codes.iter();
    let topic_result = |topic: AddPartitionsToTxnTopic| {
        let partition_result = |index: i32| {
            let code = codes.next().copied().flatten();
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(index)
                .with_partition_error_code(wire_code(code))
        };
        let partitions = topic.partitions.into_iter().map(partition_result).collect();
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name)
            .with_results_by_partition(partitions)
    };
    topics.into_iter().map(topic_result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{OFFSETS_TOPIC, topic_name};
    use odradek_common::metadata::TopicImage;
    use uuid::Uuid;

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        let topic = TopicImage {
            name: "a".into(),
            id: Uuid::nil(),
            partitions: vec![Arc::default(); 2],
        };
        image.topics.insert("a".into(), Arc::new(topic));
        image
    }

    fn topic(name: &str, partitions: &[i32]) -> AddPartitionsToTxnTopic {
        AddPartitionsToTxnTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions.to_vec())
    }

    #[test]
    fn one_partition_that_does_not_exist_keeps_all_out() {
        let topics = vec![
            topic("a", &[0, 5]),
            topic("b", &[1]),
            topic("__consumer_offsets", &[0]),
        ];
        let codes = check(&image(), 3, &partitions(&topics)).unwrap_err();
        let named: Vec<_> = results(topics, &codes)
            .into_iter()
            .flat_map(|topic| {
                let name = topic.name.0.to_string();
                let result = move |r: AddPartitionsToTxnPartitionResult| {
                    (name.clone(), r.partition_index, r.partition_error_code)
                };
                topic.results_by_partition.into_iter().map(result)
            })
            .collect();
        let expected = [
            ("a", 0, 55),
            ("a", 5, 3),
            ("b", 1, 3),
            ("__consumer_offsets", 0, 29),
        ];
        assert_eq!(
            named,
            expected.map(|(name, index, code)| (name.to_owned(), index, code))
        );
        assert_eq!(check(&image(), 3, &partitions(&[topic("a", &[0, 1])])), Ok(()));
    }

    #[test]
    fn brokers_alone_may_ask_about_the_topic_of_offsets() {
        let mut image = image();
        let offsets = TopicImage {
            name: OFFSETS_TOPIC.into(),
            ..TopicImage::clone(&image.topics["a"])
        };
        image.topics.insert(OFFSETS_TOPIC.into(), Arc::new(offsets));
        let asked = partitions(&[topic(OFFSETS_TOPIC, &[0])]);
        let refused = Err(vec![Some(ErrorCode::TopicAuthorizationFailed)]);
        assert_eq!(check(&image, 3, &asked), refused);
        assert_eq!(check(&image, 4, &asked), Ok(()));
    }
}
