//! OffsetCommit: how far a group has read. Partitions that do not exist are refused here, the rest is the coordinator's.

use std::sync::Arc;

use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{ApiKey, OffsetCommitRequest, OffsetCommitResponse};
use odradek_broker_core::groups::{GroupRequest, GroupResponse};
use odradek_common::error::ErrorCode;
use odradek_common::metadata::MetadataImage;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::count_refusal;
use crate::coordinator::groups::caller;

/// The handler.
pub struct OffsetCommit;

impl Handler for OffsetCommit {
    type Request = OffsetCommitRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        mut request: OffsetCommitRequest,
    ) -> OffsetCommitResponse {
        let (known, mut response) = split(&broker.image(), std::mem::take(&mut request.topics));
        if !known.is_empty() {
            let request = GroupRequest::OffsetCommit(request.with_topics(known));
            let answer = broker.groups.call(caller(&call), request).await;
            let GroupResponse::OffsetCommit(answer) = answer else {
                unreachable!("OffsetCommit is answered in kind, not by {answer:?}")
            };
            merge(&mut response, answer);
        }
        for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
            count_refusal(&broker, ApiKey::OffsetCommit, partition.error_code);
        }
        response
    }
}

/// What is to be committed, and an answer in the order of the request that refuses the rest. Both name topics and
/// partitions in the same order.
fn split(
    image: &MetadataImage,
    topics: Vec<OffsetCommitRequestTopic>,
) -> (Vec<OffsetCommitRequestTopic>, OffsetCommitResponse) {
    let mut known = Vec::with_capacity(topics.len());
    let mut answered = Vec::with_capacity(topics.len());
    for mut topic in topics {
        let exists = |partition: i32| image.partition(&topic.name.0, partition).is_some();
        let partitions = topic.partitions.iter().map(|partition| {
            let refusal = (!exists(partition.partition_index)).then_some(ErrorCode::UnknownTopicOrPartition);
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(odradek_common::error::wire_code(refusal))
        });
        let partitions: Vec<_> = partitions.collect();
        let mut refused = partitions.iter().map(|partition| partition.error_code != 0);
        topic
            .partitions
            .retain(|_| !refused.next().expect("one answer for each partition"));
        let answer = OffsetCommitResponseTopic::default().with_name(topic.name.clone());
        answered.push(answer.with_partitions(partitions));
        if !topic.partitions.is_empty() {
            known.push(topic);
        }
    }
    (known, OffsetCommitResponse::default().with_topics(answered))
}

/// Puts the coordinator's answers where nothing was refused.
fn merge(response: &mut OffsetCommitResponse, answer: OffsetCommitResponse) {
    let open = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
    let open = open.filter(|partition| partition.error_code == 0);
    let answered = answer.topics.into_iter().flat_map(|topic| topic.partitions);
    for (partition, answer) in open.zip(answered) {
        assert_eq!(
            partition.partition_index, answer.partition_index,
            "the coordinator answers in order"
        );
        *partition = answer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::topic_name;
    use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
    use odradek_common::metadata::TopicImage;
    use uuid::Uuid;

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        for name in ["a", "b"] {
            let topic = TopicImage {
                name: name.into(),
                id: Uuid::nil(),
                partitions: vec![Arc::default(); 2],
            };
            image.topics.insert(name.into(), Arc::new(topic));
        }
        image
    }

    fn topic(name: &str, partitions: &[i32]) -> OffsetCommitRequestTopic {
        let partitions = partitions
            .iter()
            .map(|p| OffsetCommitRequestPartition::default().with_partition_index(*p));
        OffsetCommitRequestTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions.collect())
    }

    fn codes(response: &OffsetCommitResponse) -> Vec<(String, i32, i16)> {
        let of_topic = |topic: &OffsetCommitResponseTopic| {
            let name = topic.name.0.to_string();
            topic
                .partitions
                .iter()
                .map(move |p| (name.clone(), p.partition_index, p.error_code))
                .collect::<Vec<_>>()
        };
        response.topics.iter().flat_map(of_topic).collect()
    }

    #[test]
    fn answers_come_in_the_order_of_the_request() {
        let asked = vec![
            topic("gone", &[0]),
            topic("a", &[1, 7, 0]),
            topic("b", &[-1]),
            topic("b", &[1]),
        ];
        let (known, mut response) = split(&image(), asked);
        let names: Vec<_> = known
            .iter()
            .map(|topic| (topic.name.0.as_str(), topic.partitions.len()))
            .collect();
        assert_eq!(names, [("a", 2), ("b", 1)]);

        let answer = known.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let code = if topic.name.0.as_str() == "b" { 12 } else { 0 };
                OffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(code)
            });
            OffsetCommitResponseTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        });
        let answer = OffsetCommitResponse::default().with_topics(answer.collect());
        merge(&mut response, answer);
        let expected = [
            ("gone", 0, 3),
            ("a", 1, 0),
            ("a", 7, 3),
            ("a", 0, 0),
            ("b", -1, 3),
            ("b", 1, 12),
        ];
        assert_eq!(
            codes(&response),
            expected.map(|(name, index, code)| (name.to_owned(), index, code))
        );
    }
}
