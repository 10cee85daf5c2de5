//! `KAFKA_*` environment variables as configuration keys, with the rules of Kafka's official image.
//!
//! Does not read the environment itself: the variables come in as pairs.

const PREFIX: &str = "KAFKA_";

/// Variables that the start scripts of Kafka read and that are no configuration keys.
const EXCLUDED: &[&str] = &[
    "KAFKA_VERSION",
    "KAFKA_HOME",
    "KAFKA_HEAP_OPTS",
    "KAFKA_OPTS",
    "KAFKA_LOG4J_OPTS",
    "KAFKA_LOG4J_CMD_OPTS",
    "KAFKA_LOG4J_ROOT_LOGLEVEL",
    "KAFKA_LOG4J_LOGGERS",
    "KAFKA_TOOLS_LOG4J_LOGLEVEL",
    "KAFKA_JMX_OPTS",
    "KAFKA_JMX_PORT",
    "KAFKA_JMX_HOSTNAME",
    "KAFKA_JVM_PERFORMANCE_OPTS",
    "KAFKA_GC_LOG_OPTS",
    "KAFKA_DEBUG",
    "KAFKA_CLUSTER_ID",
    "KAFKA_SSL_KEYSTORE_FILENAME",
    "KAFKA_SSL_KEYSTORE_CREDENTIALS",
    "KAFKA_SSL_KEY_CREDENTIALS",
    "KAFKA_SSL_TRUSTSTORE_FILENAME",
    "KAFKA_SSL_TRUSTSTORE_CREDENTIALS",
];

/// Whether Kubernetes made up this variable to tell where a service named kafka-... is.
fn service_link(variable: &str) -> bool {
    let port = variable.rsplit_once("_PORT").map(|(_, rest)| rest);
    let numbered = |rest: &str| {
        rest.strip_prefix('_')
            .and_then(|rest| rest.split('_').next())
            .is_some_and(|n| n.parse::<u16>().is_ok())
    };
    variable.contains("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || port.is_some_and(|rest| rest.is_empty() || numbered(rest))
}

/// The configuration key that an environment variable sets; `None` when it sets none.
///
/// After `KAFKA_` the name is lower-cased, `___` stands for `-`, `__` for `_`, `_` for `.`.
pub fn key_of(variable: &str) -> Option<String> {
    let name = variable.strip_prefix(PREFIX)?;
    if name.is_empty() || EXCLUDED.contains(&variable) || service_link(variable) {
        return None;
    }
    // The longest run first, and no result may be taken for an underscore of the input again.
    let key = name
        .to_lowercase()
        .replace("___", "-")
        .replace("__", "\0")
        .replace('_', ".")
        .replace('\0', "_");
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_are_translated_longest_run_first() {
        let keys = [
            ("KAFKA_NODE_ID", "node.id"),
            ("KAFKA_LOG_DIRS", "log.dirs"),
            ("KAFKA_A__B", "a_b"),
            (
                "KAFKA_LISTENER_NAME_INTERNAL_SCRAM___SHA___256_SASL_JAAS_CONFIG",
                "listener.name.internal.scram-sha-256.sasl.jaas.config",
            ),
            ("KAFKA_ODRADEK_BROKER_WORKERS", "odradek.broker.workers"),
        ];
        for (variable, key) in keys {
            assert_eq!(key_of(variable).as_deref(), Some(key));
        }
    }

    #[test]
    fn variables_that_kubernetes_makes_up_are_left_out() {
        for variable in [
            "KAFKA_SERVICE_HOST",
            "KAFKA_BROKER_SERVICE_PORT_CLIENT",
            "KAFKA_PORT",
            "KAFKA_PORT_9092_TCP",
            "KAFKA_PORT_9092_TCP_ADDR",
        ] {
            assert_eq!(key_of(variable), None, "{variable}");
        }
    }

    #[test]
    fn variables_of_the_start_scripts_and_of_others_are_left_out() {
        for variable in [
            "KAFKA_HEAP_OPTS",
            "KAFKA_JMX_PORT",
            "KAFKA_LOG4J_LOGGERS",
            "KAFKA_",
            "PATH",
            "kafka_node_id",
        ] {
            assert_eq!(key_of(variable), None, "{variable}");
        }
    }
}
