//! Tests of the describe.

use super::*;

/// What Apache Kafka 4.3.1 printed with `kafka-configs --describe --all` for the node, topic and group below.
const KAFKA_TOPIC: &str = include_str!("../../testdata/kafka-4.3.1-describe-topic.txt");
const KAFKA_BROKER: &str = include_str!("../../testdata/kafka-4.3.1-describe-broker.txt");
const KAFKA_GROUP: &str = include_str!("../../testdata/kafka-4.3.1-describe-group.txt");

const NODE: &str = "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:27093
listeners=PLAINTEXT://127.0.0.1:27092,CONTROLLER://127.0.0.1:27093
advertised.listeners=PLAINTEXT://127.0.0.1:27092
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=/data
broker.rack=RACK1
offsets.topic.replication.factor=1
default.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.retention.hours=100
num.partitions=2
log.roll.jitter.ms=5
ssl.key.password=abc
compression.type=lz4
";

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn node() -> ServerConfig {
    let (config, _) = ServerConfig::load(Some(("f", NODE)), std::iter::empty(), &[]).unwrap();
    let per_broker = map(&[
        ("message.max.bytes", "3000000"),
        ("listener.name.internal.ssl.key.password", "xyz"),
    ]);
    let default = map(&[
        ("log.retention.ms", "5000"),
        ("message.max.bytes", "2000000"),
        ("min.insync.replicas", "1"),
    ]);
    let (config, warnings) = config.with_dynamic(&per_broker, &default);
    assert_eq!(warnings, []);
    config
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Topic => "DYNAMIC_TOPIC_CONFIG",
        Source::DynamicBroker => "DYNAMIC_BROKER_CONFIG",
        Source::DynamicDefaultBroker => "DYNAMIC_DEFAULT_BROKER_CONFIG",
        Source::StaticBroker => "STATIC_BROKER_CONFIG",
        Source::Default => "DEFAULT_CONFIG",
        Source::DynamicBrokerLogger => "DYNAMIC_BROKER_LOGGER_CONFIG",
        Source::ClientMetrics => "DYNAMIC_CLIENT_METRICS_CONFIG",
        Source::Group => "DYNAMIC_GROUP_CONFIG",
    }
}

/// An entry as Kafka's tool prints it.
fn line(entry: &Entry) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".to_owned());
    let synonyms: Vec<String> = entry
        .synonyms
        .iter()
        .map(|synonym| {
            format!(
                "{}:{}={}",
                source_name(synonym.source),
                synonym.name,
                text(&synonym.value)
            )
        })
        .collect();
    format!(
        "{}={} sensitive={} synonyms={{{}}}",
        entry.name,
        text(&entry.value),
        entry.is_sensitive,
        synonyms.join(", ")
    )
}

fn assert_same(entries: &[Entry], kafka: &str) {
    let mut ours: Vec<String> = entries
        .iter()
        .filter(|entry| !entry.name.starts_with("odradek."))
        .map(line)
        .collect();
    ours.sort();
    let theirs: Vec<&str> = kafka.lines().collect();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn a_topic_is_described_as_by_kafka() {
    let overrides = map(&[("retention.bytes", "77"), ("compression.type", "gzip")]);
    assert_same(&describe_topic(&overrides, &node()), KAFKA_TOPIC);
}

#[test]
fn a_broker_is_described_as_by_kafka() {
    assert_same(&describe_broker(&node()), KAFKA_BROKER);
}

#[test]
fn a_group_is_described_as_by_kafka() {
    assert_same(
        &describe_group(&map(&[("consumer.session.timeout.ms", "50000")]), &node()),
        KAFKA_GROUP,
    );
}

#[test]
fn the_defaults_of_all_brokers_show_only_themselves() {
    let entries = describe_broker_default(&node());
    let lines: Vec<String> = entries.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "log.retention.ms=5000 sensitive=false synonyms={DYNAMIC_DEFAULT_BROKER_CONFIG:log.retention.ms=5000}",
            "message.max.bytes=2000000 sensitive=false synonyms={DYNAMIC_DEFAULT_BROKER_CONFIG:message.max.bytes=2000000}",
            "min.insync.replicas=1 sensitive=false synonyms={DYNAMIC_DEFAULT_BROKER_CONFIG:min.insync.replicas=1}",
        ]
    );
}

#[test]
fn sources_types_and_read_only_are_told() {
    let entries = describe_broker(&node());
    let entry = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
    assert_eq!(
        (
            entry("message.max.bytes").source as i8,
            entry("message.max.bytes").config_type
        ),
        (2, 3)
    );
    assert!(!entry("message.max.bytes").read_only);
    assert_eq!(
        (entry("node.id").source as i8, entry("node.id").read_only),
        (4, true)
    );
    assert_eq!(
        (
            entry("ssl.key.password").config_type,
            entry("log.dirs").config_type
        ),
        (9, 7)
    );
    assert_eq!(
        entry("num.partitions").doc,
        keys::broker_key("num.partitions").map(Key::doc)
    );
}

#[test]
fn what_is_stored_and_not_in_force_is_shown() {
    let (config, warnings) = node().with_dynamic(
        &map(&[
            ("log.cleaner.dedupe.buffer.size", "1"),
            ("node.id", "5"),
            ("ssl.key.password", "abc"),
        ]),
        &map(&[
            ("log.cleaner.dedupe.buffer.size", "4000000"),
            ("log.roll.ms", "0"),
            ("message.max.bytes", "6"),
        ]),
    );
    assert_eq!(warnings.len(), 4);
    let entries = describe_broker(&config);
    let shown = |name: &str| line(entries.iter().find(|entry| entry.name == name).unwrap());
    assert_eq!(
        shown("log.cleaner.dedupe.buffer.size"),
        "log.cleaner.dedupe.buffer.size=1 sensitive=false synonyms={\
         DYNAMIC_BROKER_CONFIG:log.cleaner.dedupe.buffer.size=1, \
         DYNAMIC_DEFAULT_BROKER_CONFIG:log.cleaner.dedupe.buffer.size=4000000, \
         DEFAULT_CONFIG:log.cleaner.dedupe.buffer.size=134217728}"
    );
    assert!(shown("log.roll.ms").starts_with("log.roll.ms=0 sensitive=false synonyms={DYNAMIC_DEFAULT"));
    assert!(shown("ssl.key.password").starts_with("ssl.key.password=null sensitive=true"));
    assert!(!shown("node.id").contains("=5"));
    let default = describe_broker_default(&config);
    let names: Vec<&str> = default.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "log.cleaner.dedupe.buffer.size",
            "log.roll.ms",
            "message.max.bytes"
        ]
    );
    assert_eq!(default[1].value.as_deref(), Some("0"));
}

#[test]
fn a_node_without_a_file_describes_itself() {
    let entries = describe_broker(&ServerConfig::single_node_default());
    assert!(
        entries
            .iter()
            .any(|entry| entry.name == "broker.id" && entry.value.as_deref() == Some("1"))
    );
}

#[test]
fn doubles_are_printed_as_java_prints_them() {
    let cases = [
        (0.5, "0.5"),
        (1.0, "1.0"),
        (0.0, "0.0"),
        (1e7, "1.0E7"),
        (1.5e-4, "1.5E-4"),
        (9_999_999.0, "9999999.0"),
    ];
    for (value, text) in cases {
        assert_eq!(double_text(value), text);
    }
    assert_eq!(double_text(f64::MAX), "1.7976931348623157E308");
}
