//! The limits of connections, from the configuration at the start and whenever it changes; for connections to come only.
//! Also how long this node waits for those that it opens itself.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::time::Duration;

use odradek_config::ServerConfig;
use odradek_net::listener::ConnectionQuotas;
use slog::Logger;

/// Makes the limits those of the configuration. Resolves host names of `max.connections.per.ip.overrides`, so it may
/// block; a name that does not resolve is left out with a warning.
pub fn apply_connection_limits(quotas: &ConnectionQuotas, config: &ServerConfig, log: &Logger) {
    let socket = &config.socket;
    let limit = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
    let mut overrides = HashMap::new();
    for (host, count) in &socket.connections_per_ip_overrides {
        match addresses(host) {
            Ok(addresses) => overrides.extend(addresses.into_iter().map(|ip| (ip, limit(*count)))),
            Err(error) => {
                slog::warn!(log, "a host of max.connections.per.ip.overrides is not known";
                    "host" => host, "error" => %error);
            }
        }
    }
    quotas.set_overrides(overrides);
    quotas.set_creation_rate(socket.connection_creation_rate_max);
    quotas.set_limits(
        limit(socket.connections_max),
        limit(socket.connections_per_ip_max),
    );
}

/// `socket.connection.setup.timeout.ms`.
#[must_use]
pub fn connect_timeout(config: &ServerConfig) -> Duration {
    Duration::from_millis(u64::try_from(config.socket.connection_setup_timeout_ms).unwrap_or(0))
}

fn addresses(host: &str) -> std::io::Result<Vec<IpAddr>> {
    let resolved = (host, 0).to_socket_addrs()?;
    Ok(resolved.map(|address| address.ip().to_canonical()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_resolved() {
        assert_eq!(addresses("10.0.0.1").unwrap(), [IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(
            addresses("::ffff:10.0.0.1").unwrap(),
            [IpAddr::from([10, 0, 0, 1])]
        );
        assert!(addresses("localhost").unwrap().iter().all(IpAddr::is_loopback));
        assert!(addresses("no such host").is_err());
    }
}
