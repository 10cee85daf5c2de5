//! IncrementalAlterConfigs and AlterConfigs.

use kafka_protocol::ResponseError as Code;
use kafka_protocol::messages::alter_configs_request::{
    AlterConfigsResource as LegacyResource, AlterableConfig as LegacyConfig,
};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{AlterConfigsRequest, IncrementalAlterConfigsRequest};
use odradek_common::metadata::ConfigResource;

use super::harness::{World, sized, text};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub fn request(kind: i8, name: &str, configs: &[(&str, i8, Option<&str>)]) -> IncrementalAlterConfigsRequest {
    let configs = configs.iter().map(|(key, operation, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
}

pub fn alter(world: &mut World, request: &IncrementalAlterConfigsRequest) -> i16 {
    let decision = world
        .controller
        .incremental_alter_configs(&world.image, world.now, request);
    world.decide(decision).responses[0].error_code
}

fn value(world: &World, topic: &str, key: &str) -> Option<String> {
    world
        .image
        .config(&ConfigResource::topic(topic), key)
        .map(ToString::to_string)
}

fn with_topic() -> World {
    let mut world = World::of_brokers(1);
    world.create(sized("t", 1, 1));
    world
}

#[test]
fn overrides_are_set_and_deleted_also_to_the_default() {
    let mut world = with_topic();
    assert_eq!(
        alter(
            &mut world,
            &request(2, "t", &[("retention.ms", SET, Some("604800000"))])
        ),
        0
    );
    assert_eq!(
        value(&world, "t", "retention.ms").as_deref(),
        Some("604800000"),
        "the default is an override too"
    );
    assert_eq!(
        alter(&mut world, &request(2, "t", &[("retention.ms", DELETE, None)])),
        0
    );
    assert_eq!(value(&world, "t", "retention.ms"), None);
    assert_eq!(
        alter(&mut world, &request(2, "t", &[("retention.ms", DELETE, None)])),
        0,
        "deleting again is no error"
    );
}

#[test]
fn lists_are_appended_to_and_subtracted_from() {
    let mut world = with_topic();
    let change = |world: &mut World, operation, member| {
        assert_eq!(
            alter(
                world,
                &request(2, "t", &[("cleanup.policy", operation, Some(member))])
            ),
            0
        );
        value(world, "t", "cleanup.policy")
    };
    assert_eq!(
        change(&mut world, APPEND, "compact").as_deref(),
        Some("delete,compact")
    );
    assert_eq!(
        change(&mut world, APPEND, "compact").as_deref(),
        Some("delete,compact")
    );
    assert_eq!(change(&mut world, SUBTRACT, "delete").as_deref(), Some("compact"));
    let no_list = request(2, "t", &[("retention.ms", APPEND, Some("1"))]);
    assert_eq!(alter(&mut world, &no_list), Code::InvalidConfig.code());
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let mut world = with_topic();
    let offset = world.image.offset;
    let refused = [
        (
            request(2, "t", &[("retention.ms", SET, Some("soon"))]),
            Code::InvalidConfig,
        ),
        (
            request(2, "t", &[("no.such.key", SET, Some("1"))]),
            Code::InvalidConfig,
        ),
        (
            request(2, "t", &[("retention.ms", SET, None)]),
            Code::InvalidRequest,
        ),
        (
            request(2, "t", &[("retention.ms", 9, Some("1"))]),
            Code::InvalidRequest,
        ),
        (
            request(
                2,
                "t",
                &[("retention.ms", SET, Some("1")), ("retention.ms", DELETE, None)],
            ),
            Code::InvalidRequest,
        ),
        (
            request(2, "x", &[("retention.ms", SET, Some("1"))]),
            Code::UnknownTopicOrPartition,
        ),
        (
            request(2, "", &[("retention.ms", SET, Some("1"))]),
            Code::InvalidTopicException,
        ),
        (
            request(4, "7", &[("log.retention.ms", SET, Some("1"))]),
            Code::BrokerIdNotRegistered,
        ),
        (
            request(4, "one", &[("log.retention.ms", SET, Some("1"))]),
            Code::InvalidRequest,
        ),
        (
            request(8, "0", &[("org.example", SET, Some("INFO"))]),
            Code::InvalidRequest,
        ),
        (
            request(99, "0", &[("a", SET, Some("b"))]),
            Code::UnsupportedVersion,
        ),
        (
            request(32, "", &[("consumer.session.timeout.ms", SET, Some("50000"))]),
            Code::InvalidRequest,
        ),
        (
            request(4, "", &[("node.id", SET, Some("5"))]),
            Code::InvalidRequest,
        ),
    ];
    for (request, code) in refused {
        assert_eq!(alter(&mut world, &request), code.code(), "{request:?}");
    }
    assert_eq!(world.image.offset, offset);
    let mut twice = request(2, "t", &[("retention.ms", SET, Some("1"))]);
    twice.resources.push(twice.resources[0].clone());
    assert_eq!(alter(&mut world, &twice), Code::InvalidRequest.code());
}

#[test]
fn validate_only_writes_nothing() {
    let mut world = with_topic();
    let good = request(2, "t", &[("retention.ms", SET, Some("1"))]).with_validate_only(true);
    assert_eq!(alter(&mut world, &good), 0);
    assert_eq!(value(&world, "t", "retention.ms"), None);
}

#[test]
fn brokers_groups_and_the_cluster_have_overrides() {
    let mut world = with_topic();
    assert_eq!(
        alter(
            &mut world,
            &request(4, "", &[("log.retention.ms", SET, Some("1000"))])
        ),
        0
    );
    assert_eq!(
        alter(
            &mut world,
            &request(4, "0", &[("log.retention.ms", SET, Some("2000"))])
        ),
        0
    );
    assert_eq!(
        alter(
            &mut world,
            &request(32, "g", &[("consumer.session.timeout.ms", SET, Some("50000"))])
        ),
        0
    );
    let of =
        |resource: &ConfigResource, key: &str| world.image.config(resource, key).map(ToString::to_string);
    assert_eq!(
        of(&ConfigResource::every_broker(), "log.retention.ms").as_deref(),
        Some("1000")
    );
    assert_eq!(
        of(&ConfigResource::broker(0), "log.retention.ms").as_deref(),
        Some("2000")
    );
    assert!(of(&ConfigResource::group("g"), "consumer.session.timeout.ms").is_some());
    let offset = world.image.offset;
    assert_eq!(
        alter(
            &mut world,
            &request(4, "0", &[("log.retention.ms", SET, Some("2000"))])
        ),
        0
    );
    assert_eq!(
        world.image.offset,
        offset + 1,
        "setting a broker's value again makes it reload"
    );
}

#[test]
fn the_old_request_replaces_everything() {
    let mut world = with_topic();
    alter(
        &mut world,
        &request(
            2,
            "t",
            &[
                ("retention.ms", SET, Some("1")),
                ("retention.bytes", SET, Some("2")),
            ],
        ),
    );
    let replace = |world: &mut World, configs: &[(&str, &str)]| {
        let configs = configs.iter().map(|(key, value)| {
            LegacyConfig::default()
                .with_name(text(key))
                .with_value(Some(text(value)))
        });
        let resource = LegacyResource::default()
            .with_resource_type(2)
            .with_resource_name(text("t"))
            .with_configs(configs.collect());
        let request = AlterConfigsRequest::default().with_resources(vec![resource]);
        let decision = world.controller.alter_configs(&world.image, world.now, &request);
        world.decide(decision).responses[0].error_code
    };
    assert_eq!(
        replace(&mut world, &[("retention.bytes", "3"), ("retention.ms", "x")]),
        Code::InvalidConfig.code()
    );
    assert_eq!(
        replace(&mut world, &[("retention.bytes", "3"), ("retention.bytes", "4")]),
        Code::InvalidRequest.code()
    );
    assert_eq!(value(&world, "t", "retention.ms").as_deref(), Some("1"));
    assert_eq!(replace(&mut world, &[("retention.bytes", "3")]), 0);
    assert_eq!(value(&world, "t", "retention.ms"), None);
    assert_eq!(value(&world, "t", "retention.bytes").as_deref(), Some("3"));
}

#[test]
fn threads_of_compaction_are_doubled_or_halved_at_most() {
    const NAME: &str = "log.cleaner.threads";
    let mut world = with_topic();
    let mut set = |broker: &str, threads: Option<&str>| {
        let operation = if threads.is_some() { SET } else { DELETE };
        alter(&mut world, &request(4, broker, &[(NAME, operation, threads)]))
    };
    let refused = Code::InvalidRequest.code();
    assert_eq!(set("", Some("3")), refused, "1 is the default");
    assert_eq!(set("", Some("2")), 0);
    assert_eq!(set("", Some("4")), 0);
    // One broker begins with what all have.
    assert_eq!(set("0", Some("9")), refused);
    assert_eq!(set("0", Some("1")), refused);
    assert_eq!(set("0", Some("8")), 0);
    assert_eq!(set("0", None), 0, "back to 4");
    assert_eq!(set("", None), refused, "back to 1");
    assert_eq!(set("", Some("2")), 0);
    assert_eq!(set("", None), 0);
}

/// What a broker could not run with would be stored and not be in force. Kafka 4.3.1 answers INVALID_REQUEST.
#[test]
fn what_brokers_cannot_run_with_is_refused() {
    let mut world = World::of_brokers(2);
    world.create(sized("t", 1, 1));
    let offset = world.image.offset;
    let refused = [
        ("log.cleaner.dedupe.buffer.size", "1"),
        ("listeners", "PLAINTEXT://127.0.0.1:9"),
        ("advertised.listeners", "PLAINTEXT://127.0.0.1:9"),
        ("listener.security.protocol.map", "PLAINTEXT:SSL"),
        ("max.connections.per.ip.overrides", "a:b"),
        ("log.roll.ms", "0"),
    ];
    for (key, wrong) in refused {
        // Node 1 decides; of the listeners of broker 0 it knows what that one registered.
        for broker in ["0", "1", ""] {
            let asked = request(4, broker, &[(key, SET, Some(wrong))]);
            let code = Code::InvalidRequest.code();
            assert_eq!(alter(&mut world, &asked), code, "{broker} {key}");
            let asked = asked.with_validate_only(true);
            assert_eq!(alter(&mut world, &asked), code, "{broker} {key}");
            let config = LegacyConfig::default()
                .with_name(text(key))
                .with_value(Some(text(wrong)));
            let resource = LegacyResource::default()
                .with_resource_type(4)
                .with_resource_name(text(broker))
                .with_configs(vec![config]);
            let asked = AlterConfigsRequest::default().with_resources(vec![resource]);
            let decision = world.controller.alter_configs(&world.image, world.now, &asked);
            assert_eq!(
                world.decide(decision).responses[0].error_code,
                code,
                "{broker} {key}"
            );
        }
    }
    assert_eq!(world.image.offset, offset);
    for (key, value) in [
        ("log.cleaner.io.max.bytes.per.second", "0"),
        ("max.connections.per.ip.overrides", "127.0.0.1:-2"),
    ] {
        for broker in ["0", "1", ""] {
            assert_eq!(
                alter(&mut world, &request(4, broker, &[(key, SET, Some(value))])),
                0
            );
        }
    }
}

#[test]
fn a_default_of_all_brokers_has_to_fit_to_what_a_broker_has() {
    let mut world = with_topic();
    let mut set = |broker: &str, key: &str, value: &str| {
        alter(&mut world, &request(4, broker, &[(key, SET, Some(value))]))
    };
    assert_eq!(set("0", "log.cleaner.min.compaction.lag.ms", "10"), 0);
    let most = "log.cleaner.max.compaction.lag.ms";
    assert_eq!(set("", most, "5"), Code::InvalidRequest.code());
    assert_eq!(set("", most, "10"), 0);
    assert_eq!(
        set("0", "log.cleaner.min.compaction.lag.ms", "11"),
        Code::InvalidRequest.code()
    );
}

/// KIP-966, as Kafka 4.3.1 answers.
#[test]
fn with_elrs_brokers_do_not_differ_in_min_isr() {
    const NAME: &str = "min.insync.replicas";
    let mut world = with_topic();
    let refused = Code::InvalidConfig.code();
    let mut change = |broker: &str, operation, value: Option<&str>| {
        alter(&mut world, &request(4, broker, &[(NAME, operation, value)]))
    };
    assert_eq!(change("0", SET, Some("1")), refused);
    assert_eq!(change("0", DELETE, None), refused);
    assert_eq!(change("", SET, Some("1")), 0);
    assert_eq!(change("", DELETE, None), refused);
    assert_eq!(change("", SET, Some("2")), 0);
}

/// Kafka asks the broker that is to have them, which is known where the controller is that broker.
#[test]
fn threads_of_a_broker_are_doubled_or_halved_at_most() {
    let mut world = World::of_brokers(2);
    let mut set = |broker: &str, name: &str, threads: Option<&str>| {
        let operation = if threads.is_some() { SET } else { DELETE };
        alter(&mut world, &request(4, broker, &[(name, operation, threads)]))
    };
    let refused = Code::InvalidRequest.code();
    for (name, most, more) in [
        ("num.io.threads", "16", "17"),
        ("num.network.threads", "6", "7"),
        ("background.threads", "20", "21"),
        ("num.replica.fetchers", "2", "3"),
        ("num.recovery.threads.per.data.dir", "4", "5"),
    ] {
        assert_eq!(set("1", name, Some(more)), refused, "{name}");
        assert_eq!(set("", name, Some(more)), refused, "{name}");
        assert_eq!(set("", name, Some(most)), 0, "{name}");
        assert_eq!(set("0", name, Some("100")), 0, "{name}");
    }
    assert_eq!(set("1", "num.io.threads", Some("7")), refused);
    assert_eq!(set("1", "num.io.threads", Some("32")), 0);
    assert_eq!(set("", "num.io.threads", Some("1")), 0, "the broker has its own");
    assert_eq!(set("1", "num.io.threads", None), refused, "back to 1");
}
