//! DeleteTopics: by name or by id.

use std::collections::BTreeMap;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::metadata::proto::RemoveTopicRecord;
use odradek_common::metadata::{MetadataImage, Record, TopicImage, record};
use odradek_common::time::Now;
use slog::info;

use super::draft::Draft;
use super::{Controller, Decision, wire_error};

impl Controller {
    /// Deletes topics, with their configurations. Results come in the order of the request.
    pub fn delete_topics(
        &mut self,
        image: &MetadataImage,
        _now: Now,
        api_version: i16,
        request: &DeleteTopicsRequest,
    ) -> Decision<DeleteTopicsResponse> {
        let by_name = request
            .topic_names
            .iter()
            .map(|name| DeleteTopicState::default().with_name(Some(name.clone())));
        let asked: Vec<DeleteTopicState> = by_name.chain(request.topics.iter().cloned()).collect();
        let mut times_named = BTreeMap::new();
        for state in &asked {
            *times_named
                .entry((state.name.clone(), state.topic_id))
                .or_insert(0) += 1;
        }
        let mut draft = Draft::new(image);
        let mut responses = Vec::with_capacity(asked.len());
        for state in &asked {
            let outcome = match times_named.remove(&(state.name.clone(), state.topic_id)) {
                None => continue,
                Some(1) => self.delete_topic(&mut draft, api_version, state),
                Some(_) => Err(ApiError::new(
                    ErrorCode::InvalidRequest,
                    "the topic is named twice in the request",
                )),
            };
            let (code, message) = wire_error(outcome.as_ref().err());
            let mut result = DeletableTopicResult::default()
                .with_name(state.name.clone())
                .with_topic_id(state.topic_id);
            if let Ok(topic) = outcome {
                let name = kafka_protocol::protocol::StrBytes::from_string(topic.name.to_string());
                result = result.with_name(Some(name.into())).with_topic_id(topic.id);
            }
            responses.push(result.with_error_code(code).with_error_message(message));
        }
        Decision {
            records: draft.records,
            response: DeleteTopicsResponse::default().with_responses(responses),
        }
    }

    fn delete_topic(
        &self,
        draft: &mut Draft,
        api_version: i16,
        state: &DeleteTopicState,
    ) -> Result<std::sync::Arc<TopicImage>, ApiError> {
        if !self.settings.delete_topic_enable {
            let code = match api_version < 3 {
                true => ErrorCode::InvalidRequest,
                false => ErrorCode::TopicDeletionDisabled,
            };
            return Err(ApiError::new(code, "delete.topic.enable is false"));
        }
        self.settings.check_records(draft.records.len() + 1, "topics")?;
        let image = &draft.image;
        let topic = match (&state.name, state.topic_id.is_nil()) {
            (Some(name), true) => image.topic(name.as_str()).ok_or_else(|| {
                ApiError::new(
                    ErrorCode::UnknownTopicOrPartition,
                    format!("there is no topic {}", name.as_str()),
                )
            }),
            (None, false) => image
                .topic_by_id(&state.topic_id)
                .ok_or_else(|| ApiError::new(ErrorCode::UnknownTopicId, "no topic has that id")),
            (Some(_), false) => Err(ApiError::new(
                ErrorCode::InvalidRequest,
                "both a name and an id are given",
            )),
            (None, true) => Err(ApiError::new(
                ErrorCode::InvalidRequest,
                "neither a name nor an id is given",
            )),
        };
        let topic = topic?.clone();
        info!(self.logger, "deleting a topic"; "topic" => &*topic.name, "topic_id" => %topic.id);
        let topic_id = topic.id.as_bytes().to_vec().into();
        draft.push(record(Record::RemoveTopic(RemoveTopicRecord { topic_id })));
        Ok(topic)
    }
}
