//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request as incremental;
use kafka_protocol::messages::{
    AlterConfigsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, ListConfigResourcesRequest,
};
use odradek_cluster_tests::asks::{OK, code, text};
use odradek_cluster_tests::connection::Connection;
use odradek_cluster_tests::shared::single;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_common::error::ErrorCode;

const LIMIT: Duration = Duration::from_secs(15);
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

const FROM_TOPIC: i8 = 1;
const FROM_DEFAULT_BROKER: i8 = 3;
const FROM_FILE: i8 = 4;
const FROM_DEFAULT: i8 = 5;

fn describe_request(kind: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsRequest {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()));
    DescribeConfigsRequest::default()
        .with_resources(vec![resource])
        .with_include_synonyms(true)
        .with_include_documentation(true)
}

async fn described(
    connection: &Connection,
    kind: i8,
    name: &str,
) -> BTreeMap<String, DescribeConfigsResourceResult> {
    let result = connection
        .ask(describe_request(kind, name, None))
        .await
        .results
        .remove(0);
    assert_eq!(result.error_code, OK, "{:?}", result.error_message);
    result
        .configs
        .into_iter()
        .map(|config| (config.name.to_string(), config))
        .collect()
}

async fn value(connection: &Connection, kind: i8, name: &str, key: &str) -> (Option<String>, i8) {
    match described(connection, kind, name).await.remove(key) {
        Some(config) => (config.value.map(|value| value.to_string()), config.config_source),
        None => (None, 0),
    }
}

/// Waits until a change is seen by whoever describes.
async fn becomes(connection: &Connection, kind: i8, name: &str, key: &str, expected: &str, source: i8) {
    eventually(&format!("{key} is {expected}"), LIMIT, async || {
        let found = value(connection, kind, name, key).await;
        holds(found == (Some(expected.to_owned()), source), format!("{found:?}"))
    })
    .await;
}

async fn change(
    connection: &Connection,
    kind: i8,
    name: &str,
    changes: &[(i8, &str, Option<&str>)],
) -> (i16, String) {
    let change = |(operation, key, value): &(i8, &str, Option<&str>)| {
        incremental::AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    };
    let resource = incremental::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(changes.iter().map(change).collect());
    let response = connection
        .ask(IncrementalAlterConfigsRequest::default().with_resources(vec![resource]))
        .await;
    let result = &response.responses[0];
    (
        result.error_code,
        result
            .error_message
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    )
}

async fn replace(connection: &Connection, name: &str, configs: &[(&str, &str)]) -> (i16, String) {
    let config = |(key, value): &(&str, &str)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    };
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(name))
        .with_configs(configs.iter().map(config).collect());
    let response = connection
        .ask(AlterConfigsRequest::default().with_resources(vec![resource]))
        .await;
    let result = &response.responses[0];
    (
        result.error_code,
        result
            .error_message
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    )
}

async fn with_topic(name: &str, configs: &[(&str, &str)]) -> Connection {
    let connection = single().await.connect().await;
    connection.create_topic(name, 1, 1, configs).await;
    connection
}

/// A few bytes for each mention must not be answered with thousands.
#[tokio::test]
async fn a_resource_that_is_named_often_is_described_once() {
    let connection = single().await.connect().await;
    let mut request = describe_request(BROKER, "1", None);
    let resource = request.resources[0].clone();
    request.resources = vec![resource; 1_000];
    let response = connection.ask(request).await;
    assert_eq!(response.results.len(), 1);
}

/// 84
#[tokio::test]
async fn every_topic_key_is_described_with_its_source() {
    let connection = with_topic("configs-topic", &[("retention.ms", "12345")]).await;
    let configs = described(&connection, TOPIC, "configs-topic").await;
    let expected = [
        "cleanup.policy",
        "compression.type",
        "delete.retention.ms",
        "file.delete.delay.ms",
        "flush.messages",
        "flush.ms",
        "index.interval.bytes",
        "max.compaction.lag.ms",
        "max.message.bytes",
        "message.timestamp.after.max.ms",
        "message.timestamp.before.max.ms",
        "message.timestamp.type",
        "min.cleanable.dirty.ratio",
        "min.compaction.lag.ms",
        "min.insync.replicas",
        "preallocate",
        "retention.bytes",
        "retention.ms",
        "segment.bytes",
        "segment.index.bytes",
        "segment.jitter.ms",
        "segment.ms",
        "unclean.leader.election.enable",
    ];
    for key in expected {
        let config = configs.get(key).unwrap_or_else(|| panic!("{key} is missing"));
        assert!(
            config.documentation.as_ref().is_some_and(|text| !text.is_empty()),
            "{key} has no documentation"
        );
        assert!(config.config_type > 0, "{key} has no type");
        assert!(!config.read_only, "{key} can be changed");
    }
    let retention = &configs["retention.ms"];
    assert_eq!(
        (retention.value.clone(), retention.config_source),
        (Some(text("12345")), FROM_TOPIC)
    );
    let synonyms: Vec<_> = retention
        .synonyms
        .iter()
        .map(|it| (it.name.to_string(), it.source))
        .collect();
    assert_eq!(synonyms[0], ("retention.ms".to_owned(), FROM_TOPIC));
    assert_eq!(configs["cleanup.policy"].value, Some(text("delete")));
    assert_eq!(configs["cleanup.policy"].config_source, FROM_DEFAULT);
}

/// 84
#[tokio::test]
async fn a_brokers_keys_are_described_and_secrets_are_not() {
    let connection = single().await.connect().await;
    let id = connection.metadata(Some(&[])).await.brokers[0]
        .node_id
        .to_string();
    let configs = described(&connection, BROKER, &id).await;
    let node_id = &configs["node.id"];
    assert_eq!(
        (node_id.value.clone(), node_id.config_source, node_id.read_only),
        (Some(text(&id)), FROM_FILE, true)
    );
    let threads = &configs["num.io.threads"];
    assert_eq!((threads.config_source, threads.read_only), (FROM_DEFAULT, false));
    let password = &configs["ssl.keystore.password"];
    assert_eq!((password.value.clone(), password.is_sensitive), (None, true));
}

/// 84
#[tokio::test]
async fn only_what_is_asked_for_is_described() {
    let connection = with_topic("configs-some", &[]).await;
    let request = describe_request(TOPIC, "configs-some", Some(&["cleanup.policy", "no.such.key"]));
    let result = connection
        .ask(request.with_include_synonyms(false))
        .await
        .results
        .remove(0);
    let names: Vec<_> = result
        .configs
        .iter()
        .map(|config| config.name.to_string())
        .collect();
    assert_eq!(names, ["cleanup.policy"]);
    assert!(result.configs[0].synonyms.is_empty());
}

/// 84, 86
#[tokio::test]
async fn what_is_not_there_has_an_error() {
    let connection = single().await.connect().await;
    for (kind, name, error) in [
        (TOPIC, "configs-never", ErrorCode::UnknownTopicOrPartition),
        (BROKER, "98", ErrorCode::InvalidRequest),
        (BROKER, "nonsense", ErrorCode::InvalidRequest),
    ] {
        let result = connection
            .ask(describe_request(kind, name, None))
            .await
            .results
            .remove(0);
        assert_eq!(
            result.error_code,
            code(error),
            "{name}: {:?}",
            result.error_message
        );
        assert!(result.configs.is_empty());
    }
}

/// 85
#[tokio::test]
async fn alter_configs_replaces_all_and_takes_back_what_was_described() {
    let connection = with_topic(
        "configs-replace",
        &[("retention.ms", "1000"), ("segment.ms", "2000")],
    )
    .await;
    assert_eq!(
        replace(&connection, "configs-replace", &[("retention.ms", "3000")])
            .await
            .0,
        OK
    );
    becomes(
        &connection,
        TOPIC,
        "configs-replace",
        "retention.ms",
        "3000",
        FROM_TOPIC,
    )
    .await;
    assert_eq!(
        value(&connection, TOPIC, "configs-replace", "segment.ms").await.1,
        FROM_DEFAULT
    );
    let configs = described(&connection, TOPIC, "configs-replace").await;
    let all: Vec<(String, String)> = configs
        .into_iter()
        .filter_map(|(key, config)| Some((key, config.value?.to_string())))
        .collect();
    let all: Vec<(&str, &str)> = all
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let (error_code, message) = replace(&connection, "configs-replace", &all).await;
    assert_eq!(error_code, OK, "{message}");
    // A value equal to the default is an override all the same.
    becomes(
        &connection,
        TOPIC,
        "configs-replace",
        "segment.ms",
        "604800000",
        FROM_TOPIC,
    )
    .await;
}

/// 85
#[tokio::test]
async fn incremental_changes_set_delete_append_and_subtract() {
    let connection = with_topic("configs-incremental", &[("retention.ms", "1000")]).await;
    let name = "configs-incremental";
    assert_eq!(
        change(&connection, TOPIC, name, &[(SET, "segment.ms", Some("2000"))])
            .await
            .0,
        OK
    );
    becomes(&connection, TOPIC, name, "segment.ms", "2000", FROM_TOPIC).await;
    assert_eq!(
        value(&connection, TOPIC, name, "retention.ms").await,
        (Some("1000".to_owned()), FROM_TOPIC)
    );
    assert_eq!(
        change(&connection, TOPIC, name, &[(DELETE, "retention.ms", None)])
            .await
            .0,
        OK
    );
    becomes(
        &connection,
        TOPIC,
        name,
        "retention.ms",
        "604800000",
        FROM_DEFAULT,
    )
    .await;
    assert_eq!(
        change(
            &connection,
            TOPIC,
            name,
            &[(APPEND, "cleanup.policy", Some("compact"))]
        )
        .await
        .0,
        OK
    );
    becomes(
        &connection,
        TOPIC,
        name,
        "cleanup.policy",
        "delete,compact",
        FROM_TOPIC,
    )
    .await;
    assert_eq!(
        change(
            &connection,
            TOPIC,
            name,
            &[(SUBTRACT, "cleanup.policy", Some("delete"))]
        )
        .await
        .0,
        OK
    );
    becomes(&connection, TOPIC, name, "cleanup.policy", "compact", FROM_TOPIC).await;
}

/// 85
#[tokio::test]
async fn what_is_wrong_with_a_change_is_said_in_words() {
    let connection = with_topic("configs-wrong", &[]).await;
    let name = "configs-wrong";
    for (changes, error) in [
        (
            vec![(SET, "retention.ms", Some("soon"))],
            ErrorCode::InvalidConfig,
        ),
        (
            vec![(SET, "cleanup.policy", Some("burn"))],
            ErrorCode::InvalidConfig,
        ),
        (vec![(SET, "no.such.key", Some("1"))], ErrorCode::InvalidConfig),
        (
            vec![(APPEND, "retention.ms", Some("1"))],
            ErrorCode::InvalidConfig,
        ),
        (
            vec![(SET, "retention.ms", Some("1")), (DELETE, "retention.ms", None)],
            ErrorCode::InvalidRequest,
        ),
        (vec![(SET, "retention.ms", None)], ErrorCode::InvalidRequest),
    ] {
        let (error_code, message) = change(&connection, TOPIC, name, &changes).await;
        assert_eq!(error_code, code(error), "{changes:?}: {message}");
        assert!(!message.is_empty(), "{changes:?}");
    }
    assert_eq!(
        replace(&connection, name, &[("retention.ms", "soon")]).await.0,
        code(ErrorCode::InvalidConfig)
    );
    let never = change(
        &connection,
        TOPIC,
        "configs-never",
        &[(SET, "retention.ms", Some("1"))],
    )
    .await;
    assert_eq!(never.0, code(ErrorCode::UnknownTopicOrPartition));
    assert_eq!(
        value(&connection, TOPIC, name, "retention.ms").await.1,
        FROM_DEFAULT
    );
}

/// 85
#[tokio::test]
async fn validate_only_changes_nothing() {
    let connection = with_topic("configs-validate", &[]).await;
    let config = incremental::AlterableConfig::default()
        .with_name(text("retention.ms"))
        .with_value(Some(text("77")));
    let resource = incremental::AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text("configs-validate"))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default()
        .with_resources(vec![resource])
        .with_validate_only(true);
    assert_eq!(connection.ask(request).await.responses[0].error_code, OK);
    // Whatever comes later is seen later: had the first been done, it would be seen by now.
    assert_eq!(
        change(
            &connection,
            TOPIC,
            "configs-validate",
            &[(SET, "segment.ms", Some("5000"))]
        )
        .await
        .0,
        OK
    );
    becomes(
        &connection,
        TOPIC,
        "configs-validate",
        "segment.ms",
        "5000",
        FROM_TOPIC,
    )
    .await;
    assert_eq!(
        value(&connection, TOPIC, "configs-validate", "retention.ms")
            .await
            .1,
        FROM_DEFAULT
    );
}

/// 86
#[tokio::test]
async fn the_empty_broker_name_is_the_default_of_the_cluster() {
    let connection = single().await.connect().await;
    let id = connection.metadata(Some(&[])).await.brokers[0]
        .node_id
        .to_string();
    let key = "log.cleaner.backoff.ms";
    assert_eq!(
        change(&connection, BROKER, "", &[(SET, key, Some("4321"))])
            .await
            .0,
        OK
    );
    becomes(&connection, BROKER, "", key, "4321", FROM_DEFAULT_BROKER).await;
    becomes(&connection, BROKER, &id, key, "4321", FROM_DEFAULT_BROKER).await;
    assert_eq!(
        change(&connection, BROKER, "", &[(DELETE, key, None)]).await.0,
        OK
    );
    becomes(&connection, BROKER, &id, key, "15000", FROM_DEFAULT).await;
    let (error_code, message) = change(&connection, BROKER, &id, &[(SET, "node.id", Some("7"))]).await;
    assert_eq!(error_code, code(ErrorCode::InvalidRequest), "{message}");
}

/// A change takes effect, not only its description.
#[tokio::test]
async fn a_changed_limit_is_obeyed() {
    let connection = with_topic("configs-effect", &[]).await;
    let batch = odradek_cluster_tests::records::batch(&[&"x".repeat(2000)]);
    connection.produce("configs-effect", 0, &batch).await;
    let change = change(
        &connection,
        TOPIC,
        "configs-effect",
        &[(SET, "max.message.bytes", Some("1000"))],
    )
    .await;
    assert_eq!(change.0, OK);
    eventually("the limit is obeyed", LIMIT, async || {
        let result = connection.produce_with("configs-effect", 0, 1, &batch).await;
        holds(
            result.error_code == code(ErrorCode::MessageTooLarge),
            result.error_code.to_string(),
        )
    })
    .await;
}

/// Resources with configurations of their own can be listed.
#[tokio::test]
async fn config_resources_are_listed() {
    let connection = with_topic("configs-list", &[]).await;
    let topics = connection
        .ask_at(
            1,
            ListConfigResourcesRequest::default().with_resource_types(vec![TOPIC]),
        )
        .await;
    assert_eq!(topics.error_code, OK);
    assert!(topics.config_resources.iter().all(|it| it.resource_type == TOPIC));
    assert!(
        topics
            .config_resources
            .iter()
            .any(|it| it.resource_name == text("configs-list"))
    );
    let all = connection.ask_at(1, ListConfigResourcesRequest::default()).await;
    assert!(all.config_resources.iter().any(|it| it.resource_type == BROKER));
}
