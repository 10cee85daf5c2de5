//! Tests of the dynamic.

use super::*;

/// Asked of Kafka 4.3.1; an empty answer means that it accepts the value.
const TOPIC_ANSWERS: &[(&str, &str, &str)] = &[
    (
        "segment.bytes",
        "1000",
        "Invalid value 1000 for configuration segment.bytes: Value must be at least 1048576",
    ),
    ("segment.bytes", "1048576", ""),
    ("segment.bytes", "+2000000", ""),
    ("internal.segment.bytes", "1000", ""),
    (
        "retention.ms",
        "abc",
        "Invalid value abc for configuration retention.ms: Not a number of type LONG",
    ),
    (
        "retention.ms",
        "-2",
        "Invalid value -2 for configuration retention.ms: Value must be at least -1",
    ),
    ("retention.bytes", " 5 ", ""),
    (
        "segment.ms",
        "99999999999999999999",
        "Invalid value 99999999999999999999 for configuration segment.ms: Not a number of type LONG",
    ),
    (
        "segment.ms",
        "",
        "Invalid value  for configuration segment.ms: Not a number of type LONG",
    ),
    (
        "flush.ms",
        "1.5",
        "Invalid value 1.5 for configuration flush.ms: Not a number of type LONG",
    ),
    (
        "cleanup.policy",
        "foo",
        "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete",
    ),
    ("cleanup.policy", "", ""),
    ("cleanup.policy", "delete,delete", ""),
    ("cleanup.policy", " compact , delete ", ""),
    (
        "compression.type",
        "brotli",
        "Invalid value brotli for configuration compression.type: String must be one of: uncompressed, zstd, lz4, \
         snappy, gzip, producer",
    ),
    (
        "compression.gzip.level",
        "0",
        "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
    ),
    (
        "compression.lz4.level",
        "18",
        "Invalid value 18 for configuration compression.lz4.level: Value must be no more than 17",
    ),
    (
        "min.insync.replicas",
        "0",
        "Invalid value 0 for configuration min.insync.replicas: Value must be at least 1",
    ),
    (
        "max.compaction.lag.ms",
        "0",
        "Invalid value 0 for configuration max.compaction.lag.ms: Value must be at least 1",
    ),
    ("preallocate", "TRUE", ""),
    (
        "preallocate",
        "yes",
        "Invalid value yes for configuration preallocate: Expected value to be either true or false",
    ),
    (
        "message.timestamp.type",
        "createtime",
        "Invalid value createtime for configuration message.timestamp.type: String must be one of: CreateTime, \
         LogAppendTime",
    ),
    (
        "min.cleanable.dirty.ratio",
        "1.5",
        "Invalid value 1.5 for configuration min.cleanable.dirty.ratio: Value must be no more than 1",
    ),
    ("nope", "1", "Unknown topic config name: nope"),
    ("follower.replication.throttled.replicas", "*", ""),
    ("leader.replication.throttled.replicas", "1:2,3:4", ""),
    ("leader.replication.throttled.replicas", "", ""),
    (
        "follower.replication.throttled.replicas",
        "1:a",
        "Invalid value [1:a] for configuration follower.replication.throttled.replicas: \
         follower.replication.throttled.replicas must be the literal '*' or a list of replicas in the following \
         format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
    ),
];

#[test]
fn topic_values_are_judged_as_by_kafka() {
    for (name, value, answer) in TOPIC_ANSWERS {
        let ours = validate_topic_config(name, value).err().unwrap_or_default();
        assert_eq!(&ours, answer, "{name}={value}");
    }
}

#[test]
fn broker_values_are_judged_as_by_kafka() {
    let answers = [
        (
            true,
            "num.io.threads",
            "x",
            "Invalid value x for configuration num.io.threads: Not a number of type INT",
        ),
        (
            true,
            "num.io.threads",
            "0",
            "Invalid value 0 for configuration num.io.threads: Value must be at least 1",
        ),
        (
            true,
            "node.id",
            "3",
            "Cannot update these configs dynamically: [node.id]",
        ),
        (
            true,
            "log.retention.hours",
            "5",
            "Cannot update these configs dynamically: [log.retention.hours]",
        ),
        (true, "log.retention.ms", "-5", ""),
        (true, "nope", "1", ""),
        (
            true,
            "ssl.keystore.location",
            "/x",
            "These security configs can be dynamically updated only per-listener using the listener prefix: \
             [ssl.keystore.location]",
        ),
        (true, "listener.name.internal.ssl.keystore.location", "/x", ""),
        (
            false,
            "listeners",
            "PLAINTEXT://:1",
            "Cannot update these configs at default cluster level, broker id must be specified: [listeners]",
        ),
        (
            false,
            "listener.name.x.ssl.keystore.location",
            "5",
            "Cannot update these configs at default cluster level, broker id must be specified: \
             [listener.name.x.ssl.keystore.location]",
        ),
        (false, "listener.name.x.max.connections", "5", ""),
        (false, "log.retention.ms", "5", ""),
        (
            false,
            "leader.replication.throttled.rate",
            "-5",
            "Invalid value -5 for configuration leader.replication.throttled.rate: Value must be at least 0",
        ),
    ];
    for (per_broker, name, value, answer) in answers {
        let ours = validate_broker_config(name, value, per_broker)
            .err()
            .unwrap_or_default();
        assert_eq!(ours, answer, "{name}={value}");
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn broker_values_have_to_fit_together() {
    let server = ServerConfig::single_node_default();
    let judged = |per_broker: &[(&str, &str)], default: &[(&str, &str)]| {
        let after = BrokerOverrides {
            per_broker: map(per_broker),
            default: map(default),
        };
        validate_broker_configs(&BrokerOverrides::default(), &after, &server)
    };
    assert_eq!(
        judged(&[("log.retention.ms", "5")], &[("message.max.bytes", "5")]),
        Ok(())
    );
    assert!(judged(&[("log.retention.ms", "0")], &[]).is_err());
    assert!(judged(&[("log.cleaner.threads", "1000")], &[]).is_err());
    assert!(judged(&[("log.cleaner.threads", "0")], &[]).is_err());
    for rate in ["0", "-1", "1.5E6"] {
        assert_eq!(
            judged(&[("log.cleaner.io.max.bytes.per.second", rate)], &[]),
            Ok(())
        );
    }
    let (lag, less) = (
        ("log.cleaner.min.compaction.lag.ms", "10"),
        ("log.cleaner.max.compaction.lag.ms", "5"),
    );
    assert_eq!((judged(&[lag], &[]), judged(&[], &[less])), (Ok(()), Ok(())));
    assert!(judged(&[lag], &[less]).is_err());
    for overrides in ["a:b", "127.0.0.1", "127.0.0.1:2147483648"] {
        assert!(judged(&[], &[("max.connections.per.ip.overrides", overrides)]).is_err());
    }
    assert_eq!(
        judged(&[("max.connections.per.ip.overrides", "127.0.0.1:-2")], &[]),
        Ok(())
    );
    assert!(judged(&[], &[("listeners", "PLAINTEXT://:1")]).is_err());
}

/// What is stored and does not fit cannot be mended in one step if it is not told from what is new.
#[test]
fn what_did_not_fit_before_does_not_keep_others_from_changing() {
    let server = ServerConfig::single_node_default();
    let small = ("log.cleaner.dedupe.buffer.size", "1");
    let never = ("max.connections.per.ip.overrides", "a:b");
    let overrides = |per_broker: &[(&str, &str)]| BrokerOverrides {
        per_broker: map(per_broker),
        default: map(&[small]),
    };
    let before = overrides(&[never]);
    let after =
        |per_broker: &[(&str, &str)]| validate_broker_configs(&before, &overrides(per_broker), &server);
    assert_eq!(after(&[]), Ok(()));
    assert_eq!(after(&[never, ("log.retention.ms", "5")]), Ok(()));
    assert!(after(&[never, ("log.retention.ms", "0")]).is_err());
    assert!(after(&[("max.connections.per.ip.overrides", "c:d")]).is_err());
}

#[test]
fn no_more_is_kept_locally_than_at_all() {
    let server = ServerConfig::single_node_default();
    let overrides = |pairs: &[(&str, &str)]| BrokerOverrides {
        per_broker: map(pairs),
        default: BTreeMap::new(),
    };
    let judged = |before: &[(&str, &str)], after: &[(&str, &str)]| {
        validate_broker_configs(&overrides(before), &overrides(after), &server)
    };
    let local = |value| ("log.local.retention.ms", value);
    // Asked of Kafka 4.3.1.
    assert_eq!(
        judged(&[], &[local("900000000000")]),
        Err(
            "Invalid value 900000000000 for configuration log.local.retention.ms: Value must not be more than \
             log.retention.ms property value: 604800000"
                .to_owned()
        )
    );
    assert!(judged(&[], &[local("-1")]).is_err());
    for fits in ["604800000", "-2"] {
        assert_eq!(judged(&[], &[local(fits)]), Ok(()));
    }
    let for_ever = ("log.retention.ms", "-1");
    assert_eq!(judged(&[], &[local("-1"), for_ever]), Ok(()));
    assert!(judged(&[local("-1"), for_ever], &[local("-1")]).is_err());
    let stored = local("900000000000");
    assert_eq!(judged(&[stored], &[stored, ("message.max.bytes", "5")]), Ok(()));
    let bytes = ("log.local.retention.bytes", "5");
    assert_eq!(judged(&[], &[bytes]), Ok(()));
    assert!(judged(&[], &[bytes, ("log.retention.bytes", "4")]).is_err());
}

#[test]
fn the_listeners_of_a_running_broker_stay() {
    let server = ServerConfig::single_node_default();
    let own = |name, value| {
        let after = BrokerOverrides {
            per_broker: map(&[(name, value)]),
            default: BTreeMap::new(),
        };
        validate_broker_configs(&BrokerOverrides::default(), &after, &server)
    };
    let registered = listener::parse_listeners(
        &["PLAINTEXT://10.0.0.1:9092".to_owned()],
        &server.listeners.security_protocols,
    )
    .unwrap();
    let other = |name, value| validate_listeners(&map(&[(name, value)]), &registered, &server);
    let altered = || Err(LISTENERS_ALTERED.to_owned());
    let same = "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093";
    assert_eq!(own("listeners", same), Ok(()));
    assert!(own("listeners", "PLAINTEXT://127.0.0.1:9").is_err());
    let moved = "PLAINTEXT://127.0.0.1:9,CONTROLLER://127.0.0.1:9093";
    assert_eq!(own("listeners", moved), altered());
    assert_eq!(other("listeners", moved), altered());
    assert_eq!(
        other("listeners", "PLAINTEXT://10.0.0.1:9092,CONTROLLER://:1"),
        Ok(())
    );
    assert!(other("listeners", "X").is_err());
    let map_key = "listener.security.protocol.map";
    for wrong in [
        "PLAINTEXT:SSL",
        "PLAINTEXT:SSL,CONTROLLER:PLAINTEXT",
        "PLAINTEXT:PLAINTEXT",
    ] {
        assert!(own(map_key, wrong).is_err(), "{wrong}");
        assert!(other(map_key, wrong).is_err(), "{wrong}");
    }
    let more = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,OUTSIDE:SSL";
    assert_eq!((own(map_key, more), other(map_key, more)), (Ok(()), Ok(())));
}

#[test]
fn topic_values_have_to_fit_together_and_to_the_node() {
    let server = ServerConfig::single_node_default();
    let judged = |pairs: &[(&str, &str)]| validate_topic_configs(&map(pairs), &server);
    assert_eq!(
        judged(&[("cleanup.policy", "compact"), ("retention.ms", "-1")]),
        Ok(())
    );
    assert_eq!(
        judged(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")]),
        Err(
            "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)".to_owned()
        )
    );
    assert!(judged(&[("remote.storage.enable", "true")]).is_err());
    assert!(judged(&[("retention.ms", "x")]).is_err());
}

#[test]
fn group_values_stay_within_the_limits_of_the_broker() {
    let server = ServerConfig::single_node_default();
    let judged = |name, value| validate_group_config(name, value, &server);
    assert_eq!(judged("consumer.session.timeout.ms", "50000"), Ok(()));
    assert_eq!(judged("share.auto.offset.reset", "by_duration:PT1H30M"), Ok(()));
    assert_eq!(
        judged("consumer.session.timeout.ms", "1000"),
        Err("consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms (45000)"
            .to_owned())
    );
    assert!(judged("consumer.heartbeat.interval.ms", "60000").is_err());
    assert!(judged("share.auto.offset.reset", "by_duration:1h").is_err());
    assert!(judged("share.auto.offset.reset", "by_duration:P").is_err());
    assert!(judged("nope", "1").is_err());
}

#[test]
fn a_session_has_to_outlast_a_heartbeat() {
    let text = "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@a:2\n\
                listeners=PLAINTEXT://:1,CONTROLLER://:2\ncontroller.listener.names=CONTROLLER\n\
                group.consumer.min.session.timeout.ms=1000";
    let (server, _) = ServerConfig::load(Some(("f", text)), std::iter::empty(), &[]).unwrap();
    let short = map(&[("consumer.session.timeout.ms", "4000")]);
    assert!(validate_group_configs(&short, &server).is_err());
    let both = map(&[
        ("consumer.session.timeout.ms", "6000"),
        ("consumer.heartbeat.interval.ms", "5000"),
    ]);
    assert_eq!(validate_group_configs(&both, &server), Ok(()));
}

#[test]
fn lists_are_told_appended_and_subtracted() {
    assert!(is_list(Scope::Topic, "cleanup.policy"));
    assert!(is_list(Scope::Broker, "listeners"));
    assert!(is_list(Scope::Broker, "listener.name.x.sasl.enabled.mechanisms"));
    assert!(!is_list(Scope::Topic, "retention.ms"));
    assert!(!is_list(Scope::Group, "nope"));
    assert_eq!(append_list("delete", "compact, delete"), "delete,compact");
    assert_eq!(append_list("", "a"), "a");
    assert_eq!(subtract_list("a, b,c", "b,x"), "a,c");
    assert_eq!(subtract_list("a", "a"), "");
}
