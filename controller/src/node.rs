//! One controller node: the loop that feeds the quorum and the controller, and does what they say.
//!
//! It owns both cores, the store and the metadata log, on a thread of its own, so that waiting for the disk holds up
//! nothing else. Requests that arrive while it waits share the next write. Decisions are the cores'; the order of things is
//! this file's: messages out, entries down, applied, published, answered.

pub(crate) mod active;
pub(crate) mod command;
pub(crate) mod turn;
pub(crate) mod voters;
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataImage, batch_from_bytes};
use odradek_common::time::Now;
use odradek_controller_core::controller::Controller;
use odradek_controller_core::quorum::{Quorum, QuorumConfig, QuorumError, Role, RoleChange, StoredSnapshot};
use parking_lot::Mutex;
use slog::{Logger, error, info, o};
use tokio::sync::{mpsc, oneshot, watch};

use crate::handle::{ControllerHandle, Shared, wall_ms};
use crate::meta_properties::random_uuid;
use crate::metrics::QuorumMetrics;
use crate::registration;
use crate::settings::NodeSettings;
use crate::status::{Leadership, QuorumStatus};
use crate::store::{QuorumStore, StoreError};
use crate::transport::Transport;
use crate::update::MetadataLog;
use active::Active;
use command::Command;
use voters::Joining;

/// Commands that may wait for the node's thread.
const COMMANDS_MAX: usize = 4_096;
/// Commands that one turn takes.
const TURN_COMMANDS_MAX: usize = 1_024;
/// Ticks in an election timeout.
const TICKS_PER_ELECTION_TIMEOUT: u64 = 20;
const TICK_MS_MIN: u64 = 5;
const TICK_MS_MAX: u64 = 100;
/// How long a stopping leader waits for a successor.
const HAND_OVER: Duration = Duration::from_millis(1_500);

/// Why a controller node does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The quorum does not start on what the store holds.
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    /// A committed entry or the snapshot does not decode.
    #[error(
        "the metadata log has an entry at {index} that does not decode: was it written by a later version?"
    )]
    Undecodable {
        /// The entry's index.
        index: u64,
        /// What is wrong with it.
        source: prost::DecodeError,
    },
    /// The thread cannot be started.
    #[error("cannot start the controller's thread")]
    Thread(#[from] std::io::Error),
}

/// A controller node.
pub struct ControllerNode {
    shared: Arc<Shared>,
    logger: Logger,
    quorum: Quorum,
    store: QuorumStore,
    transport: Transport,
    controller: Controller,
    committed: MetadataImage,
    active: Option<Active>,
    joining: Vec<Joining>,
    role: RoleChange,
    probing: BTreeSet<NodeId>,
    suspects_due_ms: u64,
    rejected_told: BTreeMap<&'static str, Instant>,
    runtime: tokio::runtime::Handle,
    started: Instant,
    tick: Duration,
    stopping: Option<(Instant, oneshot::Sender<()>)>,
}

impl ControllerNode {
    /// Opens the store and starts the node on a thread of its own. Its network traffic runs on the runtime that this is
    /// called in.
    ///
    /// # Errors
    /// The store is in use, damaged or unreadable.
    pub fn start(settings: NodeSettings, logger: &Logger) -> Result<ControllerHandle, NodeError> {
        let logger = logger.new(o!("node" => settings.node_id));
        let store = QuorumStore::open(&settings.metadata_log_dir)?;
        let restored = store.restore()?;
        let committed = image_of(restored.snapshot.as_ref())?;
        let (quorum_config, tick) = quorum_config(&settings);
        let quorum = Quorum::new(quorum_config, &restored.state, &raft_logger(&logger))?;
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let shared = shared(settings, commands, &committed, &quorum);
        let runtime = tokio::runtime::Handle::current();
        let controller = Controller::new(
            shared.settings.controller.clone(),
            shared.settings.configs.clone(),
            shared.incarnation_id.as_u64_pair().0,
            logger.clone(),
        );
        let node = Self {
            transport: Transport::new(&shared, &runtime, &logger),
            shared: shared.clone(),
            role: quorum.view().role,
            quorum,
            store,
            controller,
            committed,
            active: None,
            joining: Vec::new(),
            probing: BTreeSet::new(),
            suspects_due_ms: 0,
            rejected_told: BTreeMap::new(),
            runtime: runtime.clone(),
            started: Instant::now(),
            tick,
            stopping: None,
            logger: logger.clone(),
        };
        registration::spawn(&shared, &runtime, &logger);
        spawn_thread(node, receiver)?;
        Ok(ControllerHandle { shared })
    }

    fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let result = self.drive(&mut commands);
        self.abandon();
        if let Err(failure) = &result {
            error!(self.logger, "the controller stops: {failure}"; "cause" => ?std::error::Error::source(failure));
        }
        let shared = self.shared.clone();
        drop(self);
        commands.close();
        shared
            .ended
            .send_replace(Some(result.map_err(|failure| failure.to_string())));
    }

    fn drive(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), NodeError> {
        let mut batch = Vec::new();
        self.turn(&mut batch)?;
        loop {
            let received = commands.recv_many(&mut batch, TURN_COMMANDS_MAX);
            if wait::for_at_most(self.rest(), received) == Some(0) {
                return Ok(());
            }
            self.turn(&mut batch)?;
            if self.has_handed_over() {
                info!(self.logger, "controller stopped"; "term" => self.role.term);
                return Ok(());
            }
        }
    }

    /// How long nothing is to be done unless something comes. Others count on this node's messages at every tick, and a pause of a
    /// third of the session timeout counts as a standstill of this process, which lengthens sessions.
    fn rest(&self) -> Duration {
        let Some(active) = self.active.as_ref().filter(|_| self.quorum.leads_alone()) else {
            return self.tick;
        };
        if self.stopping.is_some() || !active.is_idle() || !self.joining.is_empty() {
            return self.tick;
        }
        let due = self.controller.next_deadline(&active.latest);
        let due = due.unwrap_or(u64::MAX).min(self.suspects_due_ms);
        let most_ms = self.controller.settings().broker_session_timeout_ms / 4;
        let rest_ms = due.saturating_sub(self.now().mono_ms).min(most_ms);
        Duration::from_millis(rest_ms).max(self.tick)
    }

    /// Whether a stopping node may go: it does not lead, or nobody takes over in time.
    fn has_handed_over(&self) -> bool {
        let Some((since, _)) = &self.stopping else {
            return false;
        };
        let alone = self.quorum.view().membership.voters.len() <= 1;
        let led_on = self.role.role != Role::Leader && self.role.leader.is_some();
        let idle = self.active.as_ref().is_none_or(Active::is_idle);
        (alone && idle) || (!alone && led_on) || since.elapsed() > HAND_OVER
    }

    fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now {
            mono_ms,
            wall_ms: wall_ms(),
        }
    }
}

fn spawn_thread(node: ControllerNode, receiver: mpsc::Receiver<Command>) -> Result<(), NodeError> {
    let name = "controller".to_owned();
    std::thread::Builder::new()
        .name(name)
        .spawn(move || node.run(receiver))?;
    Ok(())
}

fn shared(
    settings: NodeSettings,
    commands: mpsc::Sender<Command>,
    committed: &MetadataImage,
    quorum: &Quorum,
) -> Arc<Shared> {
    let view = quorum.view();
    let status = QuorumStatus {
        node_id: settings.node_id,
        role: Role::Follower,
        term: view.role.term,
        leader: None,
        active: false,
        commit: view.commit,
        applied: view.applied,
        log_end: view.last,
        membership: view.membership,
        peers: Vec::new(),
        observers: BTreeMap::new(),
    };
    let leadership = Leadership {
        leader: None,
        term: view.role.term,
        active: false,
    };
    Arc::new(Shared {
        incarnation_id: random_uuid(),
        commands,
        log: MetadataLog::new(committed.offset, committed.epoch, Arc::new(committed.clone())),
        status: Mutex::new(Arc::new(status)),
        leadership: watch::Sender::new(leadership),
        metrics: Arc::new(QuorumMetrics::default()),
        observers: Mutex::new(BTreeMap::new()),
        senders: Mutex::default(),
        stops: AtomicBool::new(false),
        ended: watch::Sender::new(None),
        settings,
    })
}

fn quorum_config(settings: &NodeSettings) -> (QuorumConfig, Duration) {
    let tick_ms = (settings.election_timeout_ms / TICKS_PER_ELECTION_TIMEOUT).clamp(TICK_MS_MIN, TICK_MS_MAX);
    let config = QuorumConfig {
        tick_ms,
        election_timeout_ms: settings.election_timeout_ms,
        heartbeat_ms: tick_ms * 2,
        seed: settings.directory_id.as_u64_pair().0,
        snapshot_after_bytes: settings.snapshot_after_bytes,
        snapshot_after_ms: settings.snapshot_after_ms,
        ..QuorumConfig::new(settings.node_id)
    };
    (config, Duration::from_millis(tick_ms))
}

/// raft-rs tells every step of every election; what a person needs of that this module says in one line.
fn raft_logger(logger: &Logger) -> Logger {
    use slog::Drain;
    let drain = slog::LevelFilter::new(logger.clone(), slog::Level::Warning).fuse();
    Logger::root(drain, o!("part" => "raft"))
}

/// The image that a stored snapshot stands for.
fn image_of(snapshot: Option<&StoredSnapshot>) -> Result<MetadataImage, NodeError> {
    let mut image = MetadataImage::default();
    if let Some(snapshot) = snapshot {
        let index = snapshot.index;
        let records =
            batch_from_bytes(&snapshot.data).map_err(|source| NodeError::Undecodable { index, source })?;
        for record in &records {
            image.apply(record);
        }
        set_position(&mut image, index, snapshot.term);
    }
    Ok(image)
}

pub(crate) fn set_position(image: &mut MetadataImage, index: u64, term: u64) {
    image.offset = i64::try_from(index).expect("an index fits 63 bits");
    image.epoch = i32::try_from(term).expect("a term fits 31 bits");
}
