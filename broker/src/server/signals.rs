//! The signals that ask a node to stop. They are caught before anything is opened, so that one that comes early ends the node as
//! cleanly as a later one. Does not stop anything itself.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ServerError;

/// Caught from its making on; one that came before anybody looked is not lost.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// The end of the terminal, unless this process is to survive that.
    hangup: Option<Signal>,
}

impl StopSignals {
    /// Needs a runtime.
    pub(super) fn catch() -> Result<Self, ServerError> {
        let catch =
            |kind| signal(kind).map_err(|error| ServerError::because("cannot listen for signals", &error));
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: match survives_hangup() {
                true => None,
                false => Some(catch(SignalKind::hangup())?),
            },
        })
    }

    /// Waits for one, and gives its name.
    pub(super) async fn received(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }
}

/// Whether this process is to outlive its terminal, which nohup says; the JVM looks at it as well.
fn survives_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_ignored(&status, SignalKind::hangup())
}

/// Whether whoever started this process had it ignore a signal, as /proc/self/status says.
fn is_ignored(status: &str, kind: SignalKind) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0) & (1 << (kind.as_raw_value() - 1)) != 0
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use odradek_config::ServerConfig;
    use rustix::process::{Pid, Signal as Kill, getpid, kill_process};
    use slog::Logger;

    use super::*;

    /// The folder of a node that this process is to run.
    const CHILD: &str = "ODRADEK_TEST_SIGNALS_CHILD";
    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_signal_is_caught_before_anybody_waits_for_it() {
        let survives_hangup = survives_hangup();
        let mut signals = StopSignals::catch().unwrap();
        let caught = [
            (Kill::TERM, "SIGTERM"),
            (Kill::INT, "SIGINT"),
            (Kill::HUP, "SIGHUP"),
        ];
        for (kill, name) in caught {
            if kill == Kill::HUP && survives_hangup {
                continue;
            }
            kill_process(getpid(), kill).unwrap();
            assert_eq!(signals.received().await, name);
        }
    }

    #[test]
    fn what_nohup_ignores_is_known() {
        let status = |mask: &str| format!("Name:\todradek\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
        assert!(is_ignored(&status("0000000000001001"), SignalKind::hangup()));
        assert!(!is_ignored(&status("0000000000001002"), SignalKind::hangup()));
        assert!(!is_ignored("", SignalKind::hangup()));
    }

    /// A broker whose directory belongs to no cluster yet, and whose controllers nobody runs.
    fn run_node(folder: &Path) {
        let overrides = [
            ("process.roles", "broker".to_owned()),
            ("node.id", "1".to_owned()),
            ("listeners", "PLAINTEXT://127.0.0.1:9092".to_owned()),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("controller.quorum.bootstrap.servers", "127.0.0.1:1".to_owned()),
            ("metadata.log.dir", folder.join("metadata").display().to_string()),
            ("log.dirs", folder.join("data").display().to_string()),
        ];
        let overrides = overrides.map(|(key, value)| (key.to_owned(), value));
        let (config, _) = ServerConfig::load(None, std::iter::empty(), &overrides).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        super::super::run(config, false, &log).unwrap();
    }

    /// A process that does not outlive the test.
    struct Node(Child);

    impl Drop for Node {
        fn drop(&mut self) {
            // It has ended unless the test failed.
            _ = self.0.kill();
            _ = self.0.wait();
        }
    }

    #[test]
    fn a_node_that_is_starting_ends_cleanly_when_it_is_asked_to() {
        if let Some(folder) = std::env::var_os(CHILD) {
            return run_node(Path::new(&folder));
        }
        for kill in [Kill::TERM, Kill::HUP] {
            if kill == Kill::HUP && survives_hangup() {
                continue;
            }
            let folder = tempfile::tempdir().unwrap();
            let child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "server::signals::tests::a_node_that_is_starting_ends_cleanly_when_it_is_asked_to",
                ])
                .env(CHILD, folder.path())
                .stdout(Stdio::null())
                .spawn();
            let mut node = Node(child.unwrap());
            // It looks at its directories before it asks which cluster they are of.
            eventually("the node starts", || {
                assert_eq!(node.0.try_wait().unwrap(), None, "it is to be starting still");
                folder.path().join("data").exists().then_some(())
            });
            kill_process(Pid::from_child(&node.0), kill).unwrap();
            let ended = eventually("the node ends", || node.0.try_wait().unwrap());
            assert!(ended.success(), "{kill:?}: {ended}");
        }
    }

    fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(met) = condition() {
                return met;
            }
            assert!(Instant::now() < deadline, "in time: {what}");
            std::thread::yield_now();
        }
    }
}
