//! What the metrics listener shows of this node, and when it counts as healthy and ready.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use odradek_config::ServerConfig;
use odradek_controller::handle::ControllerHandle;
use odradek_net::budget::MemoryBudget;
use slog::Logger;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::ServerError;
use crate::broker::Broker;
use crate::data_directory::DataDirectory;
use crate::lifecycle::BrokerState;
use crate::metrics::http::{self, Exposition};
use crate::metrics::requests;
use crate::metrics::scrape::{self, Exporter};
use crate::metrics::{Connections, UPKEEP_INTERVAL, catalogue};

const METRICS_LISTENER: &str = "odradek.metrics.listener";

/// The broker as far as it is shown.
pub(crate) struct ExposedBroker {
    pub(crate) broker: Arc<Broker>,
    pub(crate) state: watch::Receiver<BrokerState>,
}

/// This node, for the metrics listener.
pub(crate) struct NodeExposition {
    pub(crate) recorder: PrometheusHandle,
    pub(crate) broker: Option<ExposedBroker>,
    pub(crate) controller: Option<ControllerHandle>,
    pub(crate) connections: Arc<Connections>,
    /// Memory for requests, of each role.
    pub(crate) budgets: [MemoryBudget; 2],
}

/// Makes the Prometheus recorder the process's.
pub(crate) fn install_recorder() -> Result<PrometheusHandle, ServerError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), catalogue::SECONDS_BUCKETS)
        .map_err(|error| ServerError::because("cannot set up metrics", &error))?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|error| ServerError(format!("cannot set up metrics: {error}")))?;
    catalogue::describe();
    Ok(handle)
}

/// Opens the metrics listener's socket, if there is one. A file written for Kafka does not name it, so a second such node on
/// a machine starts without.
pub(crate) async fn bind(
    config: &ServerConfig,
    log: &Logger,
) -> Result<Option<(TcpListener, SocketAddr)>, ServerError> {
    let Some(address) = &config.odradek.metrics_listener else {
        return Ok(None);
    };
    let error = match http::bind(address).await {
        Ok(bound) => return Ok(Some(bound)),
        Err(error) => error,
    };
    if config.was_set(METRICS_LISTENER) || error.kind() != ErrorKind::AddrInUse {
        let what = format!("cannot open {METRICS_LISTENER}={address}; choose a free address");
        return Err(ServerError::because(&what, &error));
    }
    slog::warn!(log, "no metrics, /healthz and /readyz: their default address is in use; set odradek.metrics.listener";
        "address" => address);
    Ok(None)
}

impl NodeExposition {
    /// Serves `/metrics`, `/healthz` and `/readyz`.
    pub(crate) fn serve(self, (listener, bound): (TcpListener, SocketAddr), log: &Logger) {
        slog::info!(log, "metrics listener open"; "url" => format!("http://{bound}/metrics"));
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                recorder.run_upkeep();
            }
        });
        tokio::spawn(http::serve(listener, Arc::new(self)));
    }
}

impl Exposition for NodeExposition {
    fn metrics(&self) -> String {
        let mut exporter = Exporter::after(self.recorder.render());
        requests::render(&mut exporter);
        scrape::process(&mut exporter);
        let request_bytes: usize = self.budgets.iter().map(MemoryBudget::used).sum();
        exporter.sample(catalogue::REQUEST_MEMORY, &[], request_bytes as f64);
        if let Some(exposed) = &self.broker {
            scrape::broker(&mut exporter, &exposed.broker, &self.connections);
        }
        if let Some(controller) = &self.controller {
            scrape::quorum(&mut exporter, controller);
        }
        exporter.finish()
    }

    fn health(&self) -> Result<String, String> {
        let Some(exposed) = &self.broker else {
            return Ok("ok".to_owned());
        };
        let replicas = exposed.broker.replicas.all();
        health_of(
            exposed.broker.replicas.failures().unapplied(),
            replicas.iter().filter(|replica| replica.is_offline()).count(),
            replicas.len(),
            exposed.broker.replicas.directories(),
        )
    }

    fn readiness(&self) -> Result<String, String> {
        if let Some(controller) = &self.controller
            && controller.leader().is_none()
        {
            return Err("the quorum has no leader".to_owned());
        }
        let Some(exposed) = &self.broker else {
            return Ok("ready".to_owned());
        };
        match &*exposed.state.borrow() {
            BrokerState::Running => Ok("ready".to_owned()),
            BrokerState::Registering(reason) => Err(format!("not registered: {reason}")),
            BrokerState::Fenced => {
                Err("registered and fenced: its metadata is not up to date yet".to_owned())
            }
            BrokerState::ShuttingDown | BrokerState::MayStop | BrokerState::GaveUp(_) => {
                Err("stopping".to_owned())
            }
        }
    }
}

/// What a broker says of itself with so many partitions that it does not serve, and so many of its replicas on directories that failed.
fn health_of(
    unapplied: usize,
    offline: usize,
    replicas: usize,
    directories: &[Arc<DataDirectory>],
) -> Result<String, String> {
    let failed = failed(directories);
    if unapplied > 0 {
        return Err(format!(
            "{unapplied} partitions could not be opened or led; the log says why{failed}"
        ));
    }
    if offline > 0 {
        return Err(format!(
            "{offline} of {replicas} replicas are on a log directory that failed{failed}"
        ));
    }
    Ok(room(directories) + &failed)
}

/// Which log directories are offline, to be said behind what is wrong.
fn failed(directories: &[Arc<DataDirectory>]) -> String {
    let offline = directories.iter().filter(|directory| directory.is_offline());
    let paths: Vec<String> = offline
        .map(|directory| directory.path().display().to_string())
        .collect();
    if paths.is_empty() {
        return String::new();
    }
    format!("; offline until this node is started again: {}", paths.join(", "))
}

/// Says "ok", and which log directories are full. That is no failure: all but produces goes on, and whoever starts a node anew
/// because it is not healthy would make it worse.
fn room(directories: &[Arc<DataDirectory>]) -> String {
    let is_full = |directory: &&Arc<DataDirectory>| directory.room().is_some_and(|room| room.is_full);
    let full: Vec<String> = directories
        .iter()
        .filter(is_full)
        .map(|directory| directory.path().display().to_string())
        .collect();
    if full.is_empty() {
        return "ok".to_owned();
    }
    format!(
        "ok, but produces are refused for want of room in {}",
        full.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use odradek_broker_log::directory::{LogDirectory, LogDirectoryOptions};

    use super::*;
    use crate::fixtures::on_full_disk;

    #[test]
    fn health_names_log_directories_without_room() {
        let folder = tempfile::tempdir().unwrap();
        let [path, full] = ["a", "full"].map(|name| folder.path().join(name));
        let log = Logger::root(slog::Discard, slog::o!());
        let logs = LogDirectory::open(path, LogDirectoryOptions::default(), log).unwrap();
        let directories = [
            Arc::new(DataDirectory::new(uuid::Uuid::from_u128(1), logs)),
            Arc::new(on_full_disk(&full)),
        ];
        assert_eq!(room(&directories[..1]), "ok");
        let expected = format!(
            "ok, but produces are refused for want of room in {}",
            full.display()
        );
        assert_eq!(room(&directories), expected);
        assert_eq!(health_of(0, 0, 7, &directories), Ok(expected));
        let unapplied = "3 partitions could not be opened or led; the log says why";
        assert_eq!(health_of(3, 0, 7, &directories), Err(unapplied.to_owned()));
        directories[1].set_offline();
        let offline = format!("; offline until this node is started again: {}", full.display());
        assert_eq!(
            health_of(0, 0, 7, &directories),
            Ok(format!("ok{offline}")),
            "nothing of it is wanted"
        );
        assert_eq!(
            health_of(3, 0, 7, &directories),
            Err(format!("{unapplied}{offline}"))
        );
        let on_it = format!("2 of 7 replicas are on a log directory that failed{offline}");
        assert_eq!(health_of(0, 2, 7, &directories), Err(on_it));
    }
}
