//! Listeners: `NAME://host:port`, their security protocols, and the addresses of the quorum.

use std::collections::BTreeMap;
use std::fmt;

use odradek_common::ids::NodeId;
use odradek_common::metadata::SecurityProtocol;

/// One address of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name in upper case.
    pub name: String,
    /// Host name or address without brackets; empty means every interface.
    pub host: String,
    /// Port; 0 lets the system choose.
    pub port: u16,
    /// What the name stands for.
    pub security_protocol: SecurityProtocol,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}",
            self.name,
            HostPort {
                host: self.host.clone(),
                port: self.port
            }
        )
    }
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Host name or address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A controller that votes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Voter {
    /// Its node.id.
    pub id: NodeId,
    /// Where its controller listener is.
    pub address: HostPort,
}

impl fmt::Display for Voter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.address)
    }
}

/// Parses `host:port` or `[address]:port`.
pub fn parse_host_port(text: &str) -> Result<HostPort, String> {
    let malformed = || format!("`{text}` is not of the form host:port");
    let (host, port) = text.trim().rsplit_once(':').ok_or_else(malformed)?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if !host
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '%' | '.' | '_' | ':'))
    {
        return Err(format!("`{host}` in `{text}` is not a host name or address"));
    }
    let port = port
        .parse()
        .map_err(|_| format!("`{port}` in `{text}` is not a port (0 to 65535)"))?;
    Ok(HostPort {
        host: host.to_owned(),
        port,
    })
}

/// Parses `id@host:port`.
pub fn parse_voter(text: &str) -> Result<Voter, String> {
    let (id, address) = text
        .split_once('@')
        .ok_or_else(|| format!("`{text}` is not of the form id@host:port"))?;
    let id = id.trim().parse().ok().filter(|id: &i32| *id >= 0);
    let id = id.ok_or_else(|| format!("`{text}` does not start with a node id"))?;
    let address = parse_host_port(address)?;
    if address.host.is_empty() {
        return Err(format!("`{text}` has no host"));
    }
    Ok(Voter { id, address })
}

/// Parses listeners and looks up what their names stand for.
pub fn parse_listeners(
    list: &[String],
    protocols: &BTreeMap<String, SecurityProtocol>,
) -> Result<Vec<Listener>, String> {
    list.iter().map(|text| parse_listener(text, protocols)).collect()
}

/// Parses one listener and looks up what its name stands for.
pub fn parse_listener(
    text: &str,
    protocols: &BTreeMap<String, SecurityProtocol>,
) -> Result<Listener, String> {
    let (name, address) = text
        .split_once("://")
        .filter(|(name, _)| !name.trim().is_empty())
        .ok_or_else(|| format!("`{text}` is not of the form NAME://host:port"))?;
    let name = name.trim().to_ascii_uppercase();
    let HostPort { host, port } = parse_host_port(address)?;
    let security_protocol = *protocols.get(&name).ok_or_else(|| {
        format!(
            "no security protocol is defined for listener {name}; add {name}:PLAINTEXT (or another) to \
                 listener.security.protocol.map"
        )
    })?;
    Ok(Listener {
        name,
        host,
        port,
        security_protocol,
    })
}

/// Parses `NAME:PROTOCOL` pairs.
pub fn parse_protocol_map(text: &str) -> Result<BTreeMap<String, SecurityProtocol>, String> {
    crate::value::split_list(text)
        .iter()
        .map(|pair| {
            let (name, protocol) = pair
                .rsplit_once(':')
                .ok_or_else(|| format!("`{pair}` is not of the form NAME:PROTOCOL"))?;
            let known = SecurityProtocol::from_name(protocol.trim()).ok_or_else(|| {
                format!("`{protocol}` is not a security protocol (PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL)")
            })?;
            Ok((name.trim().to_ascii_uppercase(), known))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_addresses_in_brackets() {
        let parsed = |text| parse_host_port(text).map(|parsed| (parsed.host, parsed.port));
        assert_eq!(parsed("localhost:9092"), Ok(("localhost".into(), 9092)));
        assert_eq!(parsed("[::1]:9092"), Ok(("::1".into(), 9092)));
        assert_eq!(parsed(":0"), Ok((String::new(), 0)));
        for wrong in ["localhost", "h:70000", "h:-1", "a b:1", "h:"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_host_port("[::1]:9092").unwrap().to_string(), "[::1]:9092");
    }

    #[test]
    fn voters() {
        assert_eq!(
            parse_voter("3@h:1").unwrap(),
            Voter {
                id: 3,
                address: parse_host_port("h:1").unwrap()
            }
        );
        for wrong in ["h:1", "x@h:1", "-1@h:1", "1@h", "1@:1"] {
            assert!(parse_voter(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn listeners_are_upper_cased_and_looked_up() {
        let map = parse_protocol_map("a:SSL, PLAINTEXT:plaintext").unwrap();
        let listeners = parse_listeners(&["a://:1".into(), "PLAINTEXT://[::1]:2".into()], &map).unwrap();
        assert_eq!(listeners[0].to_string(), "A://:1");
        assert_eq!(listeners[0].security_protocol, SecurityProtocol::Ssl);
        assert_eq!(listeners[1].to_string(), "PLAINTEXT://[::1]:2");
        for wrong in ["B://:1", "://:1", "a:1"] {
            assert!(parse_listeners(&[wrong.into()], &map).is_err(), "{wrong}");
        }
        assert!(parse_protocol_map("A:FOO").is_err());
        assert!(parse_protocol_map("A").is_err());
    }
}
