//! OffsetDelete: takes committed offsets back. Partitions that do not exist are refused here, the rest is the
//! coordinator's.

use std::sync::Arc;

use kafka_protocol::messages::offset_delete_request::OffsetDeleteRequestTopic;
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{ApiKey, OffsetDeleteRequest, OffsetDeleteResponse};
use odradek_broker_core::groups::{GroupRequest, GroupResponse};
use odradek_common::error::ErrorCode;
use odradek_common::metadata::MetadataImage;

use super::{Call, Handler};
use crate::broker::Broker;
use crate::coordinator::count_refusal;
use crate::coordinator::groups::caller;

/// The handler.
pub struct OffsetDelete;

impl Handler for OffsetDelete {
    type Request = OffsetDeleteRequest;

    async fn handle(
        broker: Arc<Broker>,
        call: Call,
        mut request: OffsetDeleteRequest,
    ) -> OffsetDeleteResponse {
        let (known, refused) = split(&broker.image(), std::mem::take(&mut request.topics));
        let request = GroupRequest::OffsetDelete(request.with_topics(known));
        let answer = broker.groups.call(caller(&call), request).await;
        let GroupResponse::OffsetDelete(mut response) = answer else {
            unreachable!("OffsetDelete is answered in kind, not by {answer:?}")
        };
        count_refusal(&broker, ApiKey::OffsetDelete, response.error_code);
        // An error of the whole request leaves no room for the partitions'.
        if response.error_code == 0 {
            merge(&mut response, refused);
        }
        for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
            count_refusal(&broker, ApiKey::OffsetDelete, partition.error_code);
        }
        response
    }
}

/// What is to be deleted, and the refusals of the rest.
fn split(
    image: &MetadataImage,
    topics: Vec<OffsetDeleteRequestTopic>,
) -> (Vec<OffsetDeleteRequestTopic>, Vec<OffsetDeleteResponseTopic>) {
    let (mut known, mut refused) = (Vec::with_capacity(topics.len()), Vec::new());
    for mut topic in topics {
        let name = topic.name.clone();
        let is_known = |index: i32| image.partition(&name.0, index).is_some();
        let (exist, absent): (Vec<_>, Vec<_>) = std::mem::take(&mut topic.partitions)
            .into_iter()
            .partition(|p| is_known(p.partition_index));
        if !exist.is_empty() {
            known.push(topic.with_partitions(exist));
        }
        if !absent.is_empty() {
            let partitions = absent.iter().map(|partition| {
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
            });
            let topic = OffsetDeleteResponseTopic::default().with_name(name);
            refused.push(topic.with_partitions(partitions.collect()));
        }
    }
    (known, refused)
}

/// Each topic once, as clients expect.
fn merge(response: &mut OffsetDeleteResponse, refused: Vec<OffsetDeleteResponseTopic>) {
    for topic in refused {
        match response
            .topics
            .iter_mut()
            .find(|answered| answered.name == topic.name)
        {
            Some(answered) => answered.partitions.extend(topic.partitions),
            None => response.topics.push(topic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::topic_name;
    use kafka_protocol::messages::offset_delete_request::OffsetDeleteRequestPartition;
    use odradek_common::metadata::TopicImage;
    use uuid::Uuid;

    fn topic(name: &str, partitions: &[i32]) -> OffsetDeleteRequestTopic {
        let partitions = partitions
            .iter()
            .map(|p| OffsetDeleteRequestPartition::default().with_partition_index(*p));
        OffsetDeleteRequestTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions.collect())
    }

    #[test]
    fn what_does_not_exist_is_refused_beside_what_does() {
        let mut image = MetadataImage::default();
        let known = TopicImage {
            name: "a".into(),
            id: Uuid::nil(),
            partitions: vec![Arc::default(); 2],
        };
        image.topics.insert("a".into(), Arc::new(known));
        let (known, refused) = split(&image, vec![topic("a", &[0, 5]), topic("gone", &[0])]);
        assert_eq!(known, [topic("a", &[0])]);

        let answered = OffsetDeleteResponseTopic::default()
            .with_name(topic_name("a"))
            .with_partitions(vec![OffsetDeleteResponsePartition::default()]);
        let mut response = OffsetDeleteResponse::default().with_topics(vec![answered]);
        merge(&mut response, refused);
        let codes: Vec<_> = response
            .topics
            .iter()
            .map(|t| {
                (
                    t.name.0.as_str(),
                    t.partitions
                        .iter()
                        .map(|p| (p.partition_index, p.error_code))
                        .collect(),
                )
            })
            .collect::<Vec<(&str, Vec<_>)>>();
        assert_eq!(codes, [("a", vec![(0, 0), (5, 3)]), ("gone", vec![(0, 3)])]);
    }
}
