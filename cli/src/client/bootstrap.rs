//! The servers that a command is told to connect to first: whether they are addresses, said before anybody is asked.

use odradek_config::listener::parse_host_port;
use odradek_net::pool::join_address;

use crate::error::{CommandError, Outcome};

/// The addresses of `--bootstrap-server` or `--bootstrap-controller`.
pub fn addresses(servers: &[String]) -> Outcome<Vec<String>> {
    let named = servers.iter().map(|server| server.trim());
    let addresses: Vec<String> = named
        .filter(|server| !server.is_empty())
        .map(address)
        .collect::<Outcome<_>>()?;
    if addresses.is_empty() {
        return Err(CommandError::refused(
            "no bootstrap server is named: give one as HOST:PORT, for example localhost:9092",
        ));
    }
    Ok(addresses)
}

fn address(server: &str) -> Outcome<String> {
    let has_port = server.contains(':') && !server.ends_with(']') && !server.ends_with(':');
    if !has_port {
        let host = server.trim_end_matches(':');
        return Err(CommandError::refused(format!(
            "bootstrap server `{server}` has no port: give it as HOST:PORT, for example {host}:9092"
        )));
    }
    match parse_host_port(server) {
        Ok(address) if address.host.is_empty() => Err(CommandError::refused(format!(
            "bootstrap server `{server}` has no host: give it as HOST:PORT, for example localhost{server}"
        ))),
        Ok(address) => Ok(join_address(&address.host, address.port)),
        Err(reason) => Err(CommandError::refused(format!(
            "bootstrap server `{server}` is no address ({reason}): give it as HOST:PORT, for example localhost:9092"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses_of(text: &str) -> Outcome<Vec<String>> {
        let servers: Vec<String> = text.split(',').map(str::to_owned).collect();
        addresses(&servers)
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        let text = "localhost:9092, 127.0.0.1:9093,[::1]:9094,";
        let expected = ["localhost:9092", "127.0.0.1:9093", "[::1]:9094"];
        assert_eq!(addresses_of(text).expect("fits"), expected);
        for (wrong, words) in [
            (
                "localhost",
                "has no port: give it as HOST:PORT, for example localhost:9092",
            ),
            ("localhost:", "for example localhost:9092"),
            (
                "[::1]",
                "has no port: give it as HOST:PORT, for example [::1]:9092",
            ),
            (":9092", "has no host"),
            ("localhost:kafka", "`kafka` in `localhost:kafka` is not a port"),
            ("PLAINTEXT://h:9092", "is no address"),
            (",", "no bootstrap server is named"),
        ] {
            let error = addresses_of(wrong).expect_err(wrong).to_string();
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }
}
