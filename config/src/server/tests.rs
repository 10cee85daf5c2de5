//! Tests of the server.

use super::*;
use crate::error::{Origin, Problem};
use crate::keys;
use odradek_common::metadata::SecurityProtocol;

const COMBINED: &str = "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
controller.listener.names=CONTROLLER
";

fn load(text: &str) -> Result<(ServerConfig, Vec<Warning>), ConfigError> {
    ServerConfig::load(Some(("server.properties", text)), std::iter::empty(), &[])
}

/// The combined node with lines added, the last of equal keys counting.
fn combined(lines: &str) -> Result<(ServerConfig, Vec<Warning>), ConfigError> {
    load(&format!("{COMBINED}{lines}"))
}

fn good(lines: &str) -> ServerConfig {
    combined(lines).unwrap().0
}

fn error(lines: &str) -> String {
    combined(lines).unwrap_err().to_string()
}

#[test]
fn a_combined_node_loads_without_warning() {
    let (config, warnings) = combined("").unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.node.node_id, 1);
    assert!(config.node.roles.combined());
    assert_eq!(config.node.log_dirs, ["/tmp/kafka-logs"]);
    assert_eq!(config.node.metadata_log_dir, "/tmp/kafka-logs");
    let shown = |listeners: &[crate::listener::Listener]| -> Vec<String> {
        listeners.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        shown(&config.listeners.listeners),
        ["PLAINTEXT://:9092", "CONTROLLER://:9093"]
    );
    assert_eq!(shown(&config.listeners.advertised), ["PLAINTEXT://:9092"]);
    assert_eq!(
        shown(&config.listeners.advertised_controller),
        ["CONTROLLER://:9093"]
    );
    assert_eq!(config.listeners.inter_broker_listener_name, "PLAINTEXT");
    assert_eq!(config.quorum.voters[0].to_string(), "1@localhost:9093");
}

#[test]
fn without_a_file_a_node_is_its_own_cluster() {
    let config = ServerConfig::single_node_default();
    assert_eq!(config.node.node_id, 1);
    assert_eq!(config.node.log_dirs, ["./data"]);
    assert_eq!(
        config.listeners.advertised[0].to_string(),
        "PLAINTEXT://127.0.0.1:9092"
    );
    assert_eq!(config.quorum.voters[0].to_string(), "1@127.0.0.1:9093");
    assert!(!config.was_set("node.id"));
    assert_eq!(config.offsets_replication_factor(1), 1);
    assert_eq!(config.offsets_replication_factor(9), 3);
}

#[test]
fn without_a_file_environment_and_overrides_still_count() {
    let environment = [("KAFKA_NODE_ID".to_owned(), "7".to_owned())].into_iter();
    let overrides = [(
        "listeners".to_owned(),
        "PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2".to_owned(),
    )];
    let (config, _) = ServerConfig::load(None, environment, &overrides).unwrap();
    assert_eq!(config.quorum.voters[0].to_string(), "7@127.0.0.1:2");
    assert!(config.was_set("node.id"));
}

#[test]
fn layers_override_each_other_in_order() {
    let environment = [
        ("KAFKA_NUM_PARTITIONS", "2"),
        ("KAFKA_NUM_IO_THREADS", "3"),
        ("KAFKA_HEAP_OPTS", "-Xmx1G"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let overrides = [("num.partitions".to_owned(), "4".to_owned())];
    let file = format!("{COMBINED}num.partitions=1\nlog.segment.bytes=1048576\n");
    let (config, warnings) =
        ServerConfig::load(Some(("f", &file)), environment.into_iter(), &overrides).unwrap();
    assert_eq!(config.topics.num_partitions, 4);
    assert_eq!(config.topic_defaults.segment.bytes, 1_048_576);
    let shown: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "environment variable KAFKA_NUM_IO_THREADS: `num.io.threads` is accepted, but this version does not use \
             it yet: threads are counted by odradek.broker.workers"
        ]
    );
}

#[test]
fn an_explicit_replication_factor_is_not_lowered() {
    let config = good("offsets.topic.replication.factor=3");
    assert_eq!(config.offsets_replication_factor(1), 3);
}

#[test]
fn an_unknown_key_is_an_error_with_place_and_suggestion() {
    assert_eq!(
        error("num.partition=3"),
        "server.properties:6: unknown key `num.partition`; did you mean `num.partitions`?"
    );
    assert_eq!(
        error("qwertz.uiop=3"),
        "server.properties:6: unknown key `qwertz.uiop`"
    );
}

#[test]
fn an_invalid_value_names_key_value_place_and_what_is_valid() {
    assert_eq!(
        error("num.partitions=0\nlog.cleanup.policy=burn"),
        "server.properties:6: Invalid value 0 for configuration num.partitions: Value must be at least 1 (valid: 1 to \
         2147483647)\nserver.properties:7: Invalid value burn for configuration log.cleanup.policy: String must be one \
         of: compact, delete (valid: a list of compact, delete)"
    );
}

#[test]
fn what_is_no_number_is_told_which_there_are() {
    let not_a_number = "Not a number of type INT (valid: ";
    for (line, valid) in [
        ("num.partitions=2147483648", "1 to 2147483647)"),
        ("log.retention.hours=week", "-2147483648 to 2147483647)"),
        ("log.segment.bytes=99999999999", "1048576 to 2147483647)"),
    ] {
        let text = error(line);
        assert!(text.ends_with(&format!("{not_a_number}{valid}")), "{text}");
    }
    let text = error("delete.topic.enable=perhaps");
    assert!(text.ends_with("(valid: true or false)"), "{text}");
}

#[test]
fn an_invalid_value_that_is_overridden_is_no_error() {
    let (twice, warnings) = combined("num.partitions=many\nnum.partitions=3").unwrap();
    assert_eq!(twice.topics.num_partitions, 3);
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "server.properties:7: `num.partitions` was already given at server.properties:6; the last one counts"
        ]
    );
    let overrides = [("num.partitions".to_owned(), "4".to_owned())];
    let file = format!("{COMBINED}num.partitions=many\n");
    let (config, _) = ServerConfig::load(Some(("f", &file)), std::iter::empty(), &overrides).unwrap();
    assert_eq!(config.topics.num_partitions, 4);
    let text = error("log.cleanup.policy=compact\nlog.cleanup.policy=none");
    assert!(
        text.starts_with("server.properties:7: Invalid value none"),
        "{text}"
    );
}

#[test]
fn zookeeper_keys_explain_kraft() {
    let text = error("zookeeper.connect=localhost:2181");
    assert!(
        text.starts_with("server.properties:6: `zookeeper.connect` belongs to a cluster with ZooKeeper."),
        "{text}"
    );
    assert!(text.contains("process.roles"), "{text}");
}

#[test]
fn keys_that_kafka_no_longer_has_are_a_warning() {
    let (_, warnings) = combined("inter.broker.protocol.version=3.5").unwrap();
    assert!(warnings[0].message.contains("has no effect"), "{}", warnings[0]);
}

#[test]
fn the_last_of_two_equal_keys_counts_and_the_other_is_reported() {
    let (config, warnings) = combined("num.partitions=2\nnum.partitions=3").unwrap();
    assert_eq!(config.topics.num_partitions, 3);
    assert_eq!(
        warnings[0].to_string(),
        "server.properties:7: `num.partitions` was already given at server.properties:6; the last one counts"
    );
}

#[test]
fn a_malformed_escape_names_file_and_line() {
    assert_eq!(
        error("broker.rack=\\u12"),
        "server.properties: line 6: \\u must be followed by four hexadecimal digits"
    );
}

#[test]
fn listener_prefixed_keys_are_checked_and_read() {
    let config = good("listener.name.plaintext.max.connections=5");
    assert_eq!(config.listener_text("PLAINTEXT", "max.connections"), Some("5"));
    assert_eq!(
        config.listener_text("OTHER", "max.connections"),
        Some("2147483647")
    );
    let (_, warnings) = combined("listener.name.plaintext.max.connection.creation.rate=5").unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].message.contains("does not use"), "{warnings:?}");
    assert!(error("listener.name.plaintext.max.connections=x").contains("Not a number"));
    assert!(error("listener.name.plaintext.nope=x").contains("unknown key"));
}

#[test]
fn broker_id_stands_for_node_id() {
    let text = COMBINED.replace("node.id=1", "broker.id=1");
    assert_eq!(load(&text).unwrap().0.node.node_id, 1);
    assert!(error("broker.id=3").contains("node.id and broker.id differ"));
}

#[test]
fn log_dirs_win_over_log_dir_and_lose_duplicates() {
    assert_eq!(good("log.dir=/a").node.log_dirs, ["/a"]);
    let config = good("log.dir=/a\nlog.dirs=/b, /c,/b\nmetadata.log.dir=/m");
    assert_eq!(config.node.log_dirs, ["/b", "/c"]);
    assert_eq!(config.node.metadata_log_dir, "/m");
}

#[test]
fn durations_come_from_the_finest_unit_given() {
    assert_eq!(good("").topic_defaults.retention.ms, 604_800_000);
    assert_eq!(
        good("log.retention.hours=1").topic_defaults.retention.ms,
        3_600_000
    );
    assert_eq!(
        good("log.retention.hours=1\nlog.retention.minutes=2")
            .topic_defaults
            .retention
            .ms,
        120_000
    );
    assert_eq!(
        good("log.retention.minutes=2\nlog.retention.ms=3")
            .topic_defaults
            .retention
            .ms,
        3
    );
    assert_eq!(good("log.retention.hours=-1").topic_defaults.retention.ms, -1);
    assert_eq!(good("log.roll.hours=2").topic_defaults.segment.ms, 7_200_000);
    assert_eq!(
        good("log.flush.scheduler.interval.ms=7").topic_defaults.flush_ms,
        7
    );
    assert_eq!(
        good("log.flush.scheduler.interval.ms=7\nlog.flush.interval.ms=9")
            .topic_defaults
            .flush_ms,
        9
    );
}

#[test]
fn isolated_roles_load() {
    let broker = "process.roles=broker\nnode.id=2\ncontroller.quorum.bootstrap.servers=a:9093,b:9093\n\
                  controller.listener.names=CONTROLLER\nlisteners=PLAINTEXT://:9092\nadvertised.listeners=PLAINTEXT://me:9092";
    let (config, _) = load(broker).unwrap();
    assert!(config.node.roles.broker && !config.node.roles.controller);
    assert_eq!(config.quorum.bootstrap_servers[1].to_string(), "b:9093");
    assert_eq!(
        config.listeners.security_protocols["CONTROLLER"],
        SecurityProtocol::Plaintext
    );
    assert_eq!(config.listeners.advertised_controller, []);
    let controller = "process.roles=controller\nnode.id=1\ncontroller.quorum.voters=1@a:9093\n\
                      controller.listener.names=CONTROLLER\nlisteners=CONTROLLER://:9093";
    let (config, _) = load(controller).unwrap();
    assert_eq!(config.listeners.advertised, []);
    assert_eq!(config.listeners.controller_listeners().count(), 1);
}

/// What Kafka 4.3.1 refuses as well (TLS, SASL and authorizers apart), with words that have to be in the message.
const REFUSED: &[(&str, &str)] = &[
    (
        "process.roles=broker",
        "only a broker, but controller.quorum.voters contains",
    ),
    ("process.roles=foo", "String must be one of: broker, controller"),
    ("process.roles=", "must not be empty"),
    (
        "process.roles=controller",
        "only a controller, but PLAINTEXT://:9092",
    ),
    ("node.id=2", "does not contain its node.id 2"),
    ("node.id=-1", "Value must be at least 0"),
    (
        "controller.listener.names=FOO",
        "no security protocol is defined for listener CONTROLLER",
    ),
    (
        "listeners=PLAINTEXT://:9092",
        "controller listener CONTROLLER does not appear in listeners",
    ),
    (
        "inter.broker.listener.name=CONTROLLER",
        "belongs to the controllers",
    ),
    (
        "inter.broker.listener.name=FOO",
        "has no entry in listener.security.protocol.map",
    ),
    ("security.inter.broker.protocol=SSL", "which is not advertised"),
    (
        "security.inter.broker.protocol=PLAINTEXT\ninter.broker.listener.name=PLAINTEXT",
        "only one of",
    ),
    (
        "advertised.listeners=PLAINTEXT://0.0.0.0:9092",
        "0.0.0.0 is not an address",
    ),
    (
        "advertised.listeners=FOO://h:9092",
        "no security protocol is defined for listener FOO",
    ),
    (
        "advertised.listeners=SSL://h:9092\ninter.broker.listener.name=SSL",
        "advertised listener SSL is not in listeners",
    ),
    (
        "listeners=PLAINTEXT://:9092,CONTROLLER://:9092",
        "have the same port",
    ),
    (
        "listeners=PLAINTEXT://:1,PLAINTEXT://:2,CONTROLLER://:3",
        "two listeners named PLAINTEXT",
    ),
    ("listeners=bad", "`bad` is not of the form NAME://host:port"),
    (
        "listeners=SASL_SSL://:9092,CONTROLLER://:9093\nlistener.security.protocol.map=\
         SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT\ninter.broker.listener.name=SASL_SSL",
        "listener SASL_SSL://:9092 is SASL_SSL, but this version has PLAINTEXT alone",
    ),
    (
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "there is no authorizer in this version, so whoever reaches a listener may do everything",
    ),
    (
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:SSL",
        "is SSL, but this version has PLAINTEXT alone",
    ),
    (
        "listener.security.protocol.map=PLAINTEXT:FOO",
        "`FOO` is not a security protocol",
    ),
    (
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT",
        "no security protocol is defined for listener CONTROLLER",
    ),
    (
        "controller.quorum.voters=1@localhost",
        "not of the form host:port",
    ),
    (
        "controller.quorum.voters=x@localhost:1",
        "does not start with a node id",
    ),
    (
        "controller.quorum.voters=1@0.0.0.0:9093",
        "0.0.0.0 is not an address to connect to",
    ),
    ("controller.quorum.voters=1@a:1,1@b:1", "given twice as a voter"),
    (
        "controller.quorum.voters=",
        "nothing says where the controllers are",
    ),
    (
        "controller.quorum.bootstrap.servers=localhost",
        "not of the form host:port",
    ),
    ("log.dirs=", "must not be empty"),
    ("log.retention.ms=0", "log.retention.ms must be at least 1"),
    ("log.roll.ms=0", "log.roll.ms must be at least 1"),
    (
        "replica.fetch.wait.max.ms=40000",
        "must not exceed replica.socket.timeout.ms",
    ),
    (
        "queued.max.request.bytes=5",
        "must not be below socket.request.max.bytes",
    ),
    ("max.connections.per.ip=0", "max.connections.per.ip.overrides"),
    (
        "max.connections.per.ip.overrides=a b:5",
        "not of the form host:count",
    ),
    (
        "connection.failed.authentication.delay.ms=900000",
        "must be below connections.max.idle.ms",
    ),
    ("log.cleaner.dedupe.buffer.size=5", "more than 1 MiB for each"),
    ("log.segment.bytes=100000", "Value must be at least 1048576"),
    ("group.consumer.session.timeout.ms=1", "must lie between"),
    (
        "group.coordinator.rebalance.protocols=consumer",
        "must contain classic",
    ),
    (
        "unclean.leader.election.enable=maybe",
        "Expected value to be either true or false",
    ),
    (
        "offsets.topic.compression.codec=9",
        "Unknown compression type id: 9",
    ),
    (
        "compression.gzip.level=10",
        "Value must be between 1 and 9 or equal to -1",
    ),
];

#[test]
fn what_does_not_fit_together_is_refused() {
    for (lines, words) in REFUSED {
        let text = error(lines);
        assert!(text.contains(words), "{lines}: {text}");
    }
}

/// The controllers' listener is given no protocol because of the protected one: to add it to the map would lead nowhere.
#[test]
fn a_listener_named_after_its_protocol_is_refused_for_it_and_nothing_else() {
    for name in ["SASL_SSL", "SASL_PLAINTEXT", "SSL"] {
        let text = error(&format!("listeners={name}://:9092,CONTROLLER://:9093"));
        let expected = format!("listener {name}://:9092 is {name}, but this version has PLAINTEXT alone");
        assert!(text.starts_with(&expected), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn a_broker_that_is_to_reach_controllers_protected_is_refused() {
    let broker = "process.roles=broker\nnode.id=2\ncontroller.quorum.bootstrap.servers=a:9093\n\
                  controller.listener.names=CONTROLLER\nlisteners=PLAINTEXT://h:9092\n";
    assert!(load(broker).is_ok());
    let map = "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:SASL_SSL";
    let text = load(&format!("{broker}{map}")).unwrap_err().to_string();
    assert!(
        text.contains("controller listener CONTROLLER is SASL_SSL"),
        "{text}"
    );
}

/// Somebody relies on an authorizer; rights that nobody checks are only worth a warning.
#[test]
fn an_authorizer_is_refused_wherever_it_is_set_and_an_empty_one_asks_for_nothing() {
    let key = "authorizer.class.name";
    let text = error(&format!("{key}=a.b.Authorizer"));
    assert!(
        text.starts_with("`authorizer.class.name` is set")
            && text.ends_with(&format!("[{key}: server.properties:6]")),
        "{text}"
    );
    let environment = [("KAFKA_AUTHORIZER_CLASS_NAME".to_owned(), "a.b.C".to_owned())];
    let file = Some(("f", COMBINED));
    let refused = ServerConfig::load(file, environment.clone().into_iter(), &[]).unwrap_err();
    assert!(
        refused.to_string().contains("KAFKA_AUTHORIZER_CLASS_NAME"),
        "{refused}"
    );
    let none = [(key.to_owned(), String::new())];
    let (_, warnings) = ServerConfig::load(file, environment.into_iter(), &none).unwrap();
    assert_eq!(warnings, []);
    let (_, warnings) = combined("super.users=User:admin").unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[test]
fn what_is_missing_is_named() {
    for (missing, words) in [
        ("node.id=1", "node.id is missing"),
        ("process.roles=broker,controller", "process.roles is missing"),
        (
            "controller.listener.names=CONTROLLER",
            "no security protocol is defined for listener CONTROLLER",
        ),
        (
            "controller.quorum.voters=1@localhost:9093",
            "nothing says where the controllers are",
        ),
    ] {
        let text = load(&COMBINED.replace(&format!("{missing}\n"), ""))
            .unwrap_err()
            .to_string();
        assert!(text.contains(words), "{missing}: {text}");
    }
}

#[test]
fn a_conflict_names_the_lines_it_is_about() {
    let Problem::Conflict { origins, .. } = &combined("node.id=2").unwrap_err().problems[0] else {
        panic!("not a conflict")
    };
    assert_eq!(
        origins,
        &[
            "node.id: server.properties:6",
            "controller.quorum.voters: server.properties:3"
        ]
    );
}

/// Each line is what Kafka 4.3.1 accepts as well.
#[test]
fn what_fits_together_is_accepted() {
    for lines in [
        "process.roles=controller\nlisteners=CONTROLLER://:9093",
        "advertised.listeners=PLAINTEXT://h:9092,CONTROLLER://h:1",
        "controller.quorum.voters=\ncontroller.quorum.bootstrap.servers=localhost:9093",
        "listeners=plaintext://:9092,controller://:9093",
        "inter.broker.listener.name=plaintext",
        "listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://[::1]:9092",
        "log.dirs=/a,/a",
        "log.cleaner.enable=false",
        "advertised.listeners=PLAINTEXT://:9092",
        "group.min.session.timeout.ms=100000000",
        "listeners=PLAINTEXT://:0,CONTROLLER://:0",
    ] {
        good(lines);
    }
}

#[test]
fn heartbeats_that_leave_no_margin_are_a_warning() {
    let (_, warnings) = combined("broker.heartbeat.interval.ms=5000").unwrap();
    assert_eq!(warnings[0].key, "broker.heartbeat.interval.ms");
    assert!(matches!(warnings[0].origin, Some(Origin::File { line: 6, .. })));
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn dynamic_configurations_come_over_static_ones() {
    let config = good("log.retention.hours=1\nmin.insync.replicas=1");
    let (config, warnings) = config.with_dynamic(
        &map(&[("log.retention.ms", "5")]),
        &map(&[("log.retention.ms", "6"), ("min.insync.replicas", "2")]),
    );
    assert_eq!(warnings, []);
    assert_eq!(config.topic_defaults.retention.ms, 5);
    assert_eq!(config.topic_defaults.min_insync_replicas, 2);
    let (config, _) = config.with_dynamic(&BTreeMap::new(), &BTreeMap::new());
    assert_eq!(config.topic_defaults.retention.ms, 3_600_000);
    assert_eq!(config.topic_defaults.min_insync_replicas, 1);
}

#[test]
fn invalid_dynamic_configurations_are_left_out_with_a_warning() {
    let config = good("");
    let (config, warnings) = config.with_dynamic(
        &map(&[
            ("node.id", "5"),
            ("message.max.bytes", "x"),
            ("log.segment.bytes", "2000000"),
        ]),
        &BTreeMap::new(),
    );
    assert_eq!(
        warnings.iter().map(|w| w.key.as_str()).collect::<Vec<_>>(),
        ["message.max.bytes", "node.id"]
    );
    assert_eq!(config.topic_defaults.segment.bytes, 2_000_000);
    let (config, warnings) = config.with_dynamic(&map(&[("log.retention.ms", "0")]), &BTreeMap::new());
    assert_eq!(warnings.len(), 1);
    assert_eq!(config.topic_defaults.retention.ms, 604_800_000);
}

/// A retention of the file deletes what a dynamic one was to keep.
#[test]
fn one_misfit_among_dynamic_configurations_leaves_the_others_in_force() {
    let config = good("");
    let default = [("log.retention.ms", "-1"), ("plugged.in", "x")];
    for misfit in [
        ("log.cleaner.dedupe.buffer.size", "1"),
        ("listeners", "PLAINTEXT://127.0.0.1:9"),
        ("listener.security.protocol.map", "PLAINTEXT:SSL"),
        ("max.connections.per.ip.overrides", "a:b"),
        ("log.cleaner.threads", "1000"),
        ("log.roll.ms", "0"),
    ] {
        let own = map(&[misfit, ("message.max.bytes", "5")]);
        let (config, warnings) = config.with_dynamic(&own, &map(&default));
        assert_eq!(config.topic_defaults.retention.ms, -1, "{misfit:?}");
        assert_eq!(config.topic_defaults.max_message_bytes, 5, "{misfit:?}");
        assert_eq!(config.text("plugged.in"), Some("x"));
        let keys: Vec<&str> = warnings.iter().map(|warning| warning.key.as_str()).collect();
        assert_eq!(keys, [misfit.0], "{warnings:?}");
    }
}

#[test]
fn several_misfits_are_left_out_each() {
    let size = "log.cleaner.dedupe.buffer.size";
    let own = map(&[(size, "1"), ("max.connections.per.ip.overrides", "a:b")]);
    let default = map(&[(size, "2"), ("log.flush.interval.ms", "7"), ("log.roll.ms", "0")]);
    let (config, warnings) = good("").with_dynamic(&own, &default);
    let mut keys: Vec<&str> = warnings.iter().map(|warning| warning.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [size, size, "log.roll.ms", "max.connections.per.ip.overrides"]
    );
    assert_eq!(config.text("log.flush.interval.ms"), Some("7"));
    assert_eq!(config.cleaner.dedupe_buffer_bytes, 134_217_728);
}

#[test]
fn a_limit_of_an_address_below_none_admits_nobody() {
    let config = good("max.connections.per.ip.overrides=127.0.0.1:-2,::1:3");
    let limits = &config.socket.connections_per_ip_overrides;
    assert_eq!((limits["127.0.0.1"], limits["::1"]), (0, 3));
}

/// A key that claims to be used has to be read by name in the settings, or be a default of topics.
#[test]
fn every_used_key_is_read() {
    let sources = [
        include_str!("settings.rs"),
        include_str!("checks.rs"),
        include_str!("load.rs"),
    ]
    .concat();
    let inherited: Vec<&str> = keys::TOPIC_KEYS
        .iter()
        .flat_map(|key| key.synonyms)
        .map(|synonym| synonym.name)
        .collect();
    for key in keys::broker_keys().filter(|key| key.state == crate::key::State::Used) {
        let read = sources.contains(&format!("\"{}\"", key.name)) || inherited.contains(&key.name);
        assert!(read, "{} claims to be used", key.name);
    }
}
