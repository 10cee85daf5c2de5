//! Keys that older versions of Kafka had and that nobody reads any more.
//!
//! A file that still carries one of them starts, with a warning that says what to do about the key.

/// A key that Kafka itself no longer has.
pub(crate) struct Removed {
    /// Kafka's former name.
    pub(crate) name: &'static str,
    /// What to do instead, a half sentence.
    pub(crate) advice: &'static str,
}

const NOTHING: &str = "it can be deleted";
const FEATURES: &str = "feature levels are set with `odradek features upgrade`";

/// The removed keys.
pub(crate) static REMOVED: &[Removed] = &[
    Removed {
        name: "inter.broker.protocol.version",
        advice: FEATURES,
    },
    Removed {
        name: "log.message.format.version",
        advice: "records are always stored in format 2",
    },
    Removed {
        name: "log.message.downconversion.enable",
        advice: "records are always sent in format 2",
    },
    Removed {
        name: "log.message.timestamp.difference.max.ms",
        advice: "use log.message.timestamp.before.max.ms and log.message.timestamp.after.max.ms",
    },
    Removed {
        name: "control.plane.listener.name",
        advice: "the controller listener of controller.listener.names took its place",
    },
    Removed {
        name: "leader.imbalance.per.broker.percentage",
        advice: NOTHING,
    },
    Removed {
        name: "controlled.shutdown.max.retries",
        advice: NOTHING,
    },
    Removed {
        name: "controlled.shutdown.retry.backoff.ms",
        advice: NOTHING,
    },
    Removed {
        name: "broker.id.generation.enable",
        advice: "give every node its node.id",
    },
    Removed {
        name: "reserved.broker.max.id",
        advice: NOTHING,
    },
    Removed {
        name: "group.coordinator.new.enable",
        advice: NOTHING,
    },
    Removed {
        name: "group.share.enable",
        advice: NOTHING,
    },
    Removed {
        name: "group.share.max.groups",
        advice: NOTHING,
    },
    Removed {
        name: "eligible.leader.replicas.enable",
        advice: FEATURES,
    },
    Removed {
        name: "offsets.commit.required.acks",
        advice: NOTHING,
    },
    Removed {
        name: "auto.include.jmx.reporter",
        advice: NOTHING,
    },
    Removed {
        name: "delegation.token.master.key",
        advice: "use delegation.token.secret.key",
    },
    Removed {
        name: "password.encoder.secret",
        advice: NOTHING,
    },
    Removed {
        name: "password.encoder.old.secret",
        advice: NOTHING,
    },
    Removed {
        name: "password.encoder.keyfactory.algorithm",
        advice: NOTHING,
    },
    Removed {
        name: "password.encoder.cipher.algorithm",
        advice: NOTHING,
    },
    Removed {
        name: "password.encoder.key.length",
        advice: NOTHING,
    },
    Removed {
        name: "password.encoder.iterations",
        advice: NOTHING,
    },
    Removed {
        name: "metadata.log.segment.min.bytes",
        advice: NOTHING,
    },
    Removed {
        name: "share.fetch.max.fetch.records",
        advice: NOTHING,
    },
    Removed {
        name: "quota.producer.default",
        advice: "set a default client quota with `odradek configs`",
    },
    Removed {
        name: "quota.consumer.default",
        advice: "set a default client quota with `odradek configs`",
    },
    Removed {
        name: "advertised.host.name",
        advice: "use advertised.listeners",
    },
    Removed {
        name: "advertised.port",
        advice: "use advertised.listeners",
    },
    Removed {
        name: "host.name",
        advice: "use listeners",
    },
    Removed {
        name: "port",
        advice: "use listeners",
    },
];
