//! The shell around quorum and controller, as `controller/src/node` has it, with a disk that takes its time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataImage, MetadataRecord, batch_bytes, batch_from_bytes};
use odradek_controller_core::controller::{Controller, ControllerSettings, PermissiveConfigs};
use odradek_controller_core::quorum::{
    CommittedEntry, Persist, Proposed, Quorum, QuorumConfig, QuorumEffects, QuorumInput, RestoredState, Role,
    RoleChange, StoredSnapshot,
};

use crate::env::{Env, Event};
use crate::message::{Address, Channel, ControllerRequest, ControllerResponse, Payload, ReturnAddress};
use crate::scenario::{BROKER_SESSION_MS, CLUSTER_ID, MIN_ISR, NODES};

const SUSPECTS_INTERVAL_MS: u64 = 500;
const ALTER_PARTITION_VERSION: i16 = 3;

/// What of a quorum node survives its process.
#[derive(Clone, Default)]
pub struct QuorumDisk {
    entries: BTreeMap<u64, Bytes>,
    hard_state: Option<Bytes>,
    snapshot: Option<StoredSnapshot>,
}

impl QuorumDisk {
    /// The disk of a founding voter.
    #[must_use]
    pub fn formatted() -> Self {
        let mut disk = Self::default();
        disk.write(&Quorum::bootstrap(&NODES));
        disk
    }

    fn write(&mut self, persist: &Persist) {
        if persist.reset_log {
            self.entries.clear();
        }
        if let Some(first) = persist.entries.first() {
            self.entries.split_off(&first.index);
        }
        self.entries.extend(
            persist
                .entries
                .iter()
                .map(|entry| (entry.index, entry.bytes.clone())),
        );
        if let Some(hard_state) = &persist.hard_state {
            self.hard_state = Some(hard_state.clone());
        }
        if let Some(snapshot) = &persist.snapshot {
            self.snapshot = Some(snapshot.clone());
        }
        if let Some(first_kept) = persist.first_kept {
            self.entries = self.entries.split_off(&first_kept);
        }
    }

    fn restored(&self) -> RestoredState {
        RestoredState {
            hard_state: self.hard_state.clone(),
            snapshot: self.snapshot.clone(),
            snapshot_bytes: self.snapshot.as_ref().map_or(0, |it| it.data.len() as u64),
            entries: self.entries.values().cloned().collect(),
        }
    }
}

/// One step of the committed metadata, for the broker.
#[derive(Clone)]
pub struct Update {
    /// The state after it.
    pub image: MetadataImage,
    /// What happened; `None` if the image replaces everything.
    pub records: Option<Arc<Vec<MetadataRecord>>>,
}

/// A controller node.
pub struct ControllerNode {
    at: Address,
    quorum: Quorum,
    controller: Controller,
    committed: MetadataImage,
    active: Option<Active>,
    writing: Option<Persist>,
    role: RoleChange,
    suspects_due_ms: u64,
    updates: Vec<Update>,
}

struct Active {
    term: u64,
    latest: MetadataImage,
    waiting: VecDeque<(Proposed, Option<(ReturnAddress, ControllerResponse)>)>,
    last_proposed: u64,
    applied: u64,
}

impl ControllerNode {
    /// Starts on what the disk holds.
    pub fn start(env: &mut Env, at: Address, disk: &QuorumDisk) -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut config = QuorumConfig::new(at.node);
        config.seed = env.rng.draw();
        config.snapshot_after_entries = 60;
        config.entries_kept = 20;
        let quorum = Quorum::new(config, &disk.restored(), &logger).expect("the disk is sound");
        let settings = ControllerSettings {
            node_id: at.node,
            broker_session_timeout_ms: BROKER_SESSION_MS,
            broker_suspect_ms: 625,
            min_insync_replicas: i32::try_from(MIN_ISR).expect("small"),
            leader_imbalance_check_interval_ms: 5_000,
            ..ControllerSettings::default()
        };
        let controller = Controller::new(settings, Arc::new(PermissiveConfigs), env.rng.draw(), logger);
        let committed = disk
            .snapshot
            .as_ref()
            .map_or_else(MetadataImage::default, image_of);
        let update = Update {
            image: committed.clone(),
            records: None,
        };
        Self {
            at,
            role: quorum.view().role,
            quorum,
            controller,
            committed,
            active: None,
            writing: None,
            suspects_due_ms: 0,
            updates: vec![update],
        }
    }

    /// Who leads the quorum, as this node knows it.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        if self.active.is_some() {
            Some(self.at.node)
        } else {
            self.role.leader.filter(|id| *id != self.at.node)
        }
    }

    /// True while this node decides.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// The term and the image of an active controller, without an image while proposals are under way.
    #[must_use]
    pub fn decided(&self) -> Option<(u64, Option<&MetadataImage>)> {
        let active = self.active.as_ref()?;
        Some((
            active.term,
            Some(&active.latest).filter(|_| active.last_proposed <= active.applied),
        ))
    }

    /// What was committed since this was last asked.
    pub fn take_updates(&mut self) -> Vec<Update> {
        std::mem::take(&mut self.updates)
    }

    /// True once this node may stop without leaving the quorum without a leader.
    #[must_use]
    pub fn has_handed_over(&self) -> bool {
        self.role.role != Role::Leader && self.role.leader.is_some()
    }

    /// Inputs of the quorum, and everything that follows.
    pub fn turn(&mut self, env: &mut Env, inputs: Vec<QuorumInput>) {
        let mut effects = self.quorum.handle_all(env.now, inputs);
        loop {
            let snapshot_wanted = self.perform(env, effects);
            if self.become_active(env) {
                effects = self.quorum.handle(env.now, QuorumInput::Tick);
            } else if snapshot_wanted {
                let data = batch_bytes(self.committed.to_records());
                let index = u64::try_from(self.committed.offset).expect("an applied index");
                effects = self.quorum.handle(env.now, QuorumInput::Snapshot { index, data });
            } else {
                return;
            }
        }
    }

    fn perform(&mut self, env: &mut Env, effects: QuorumEffects) -> bool {
        for message in effects.messages {
            env.send_raft(self.at, message.to, message.bytes, message.snapshot);
        }
        if let Some(persist) = effects.persist {
            assert!(self.writing.is_none(), "one write at a time");
            let at_ms = env.now.mono_ms + env.write_ms(self.at.node);
            env.schedule(
                at_ms,
                Event::Persisted {
                    at: self.at,
                    number: persist.number,
                },
            );
            self.writing = Some(persist);
        }
        if let Some(restored) = effects.restored {
            let (index, term, data) = (restored.index, restored.term, restored.data);
            self.committed = image_of(&StoredSnapshot {
                index,
                term,
                data,
                ..Default::default()
            });
            env.checkers.metadata.committed(self.at.node, &self.committed);
            self.updates.push(Update {
                image: self.committed.clone(),
                records: None,
            });
        }
        for entry in effects.committed {
            self.apply(env, &entry);
        }
        if let Some(role) = effects.role {
            self.change_role(env, role);
        }
        effects.snapshot_wanted
    }

    fn apply(&mut self, env: &mut Env, entry: &CommittedEntry) {
        let records = batch_from_bytes(&entry.data).expect("a controller proposed it");
        for record in &records {
            self.committed.apply(record);
        }
        set_position(&mut self.committed, entry.index, entry.term);
        env.checkers.metadata.committed(self.at.node, &self.committed);
        self.updates.push(Update {
            image: self.committed.clone(),
            records: Some(Arc::new(records)),
        });
        let Some(active) = &mut self.active else { return };
        active.applied = entry.index;
        while let Some((at, answer)) = active.waiting.pop_front_if(|(at, _)| at.index <= entry.index) {
            let Some((to, response)) = answer else { continue };
            let result = if at.term == entry.term {
                Ok(response)
            } else {
                Err(None)
            };
            env.respond(self.at, to, Payload::Answer { id: to.id, result });
        }
    }

    fn change_role(&mut self, env: &mut Env, role: RoleChange) {
        env.note(format_args!(
            "node {} {:?} term {} leader {:?}",
            self.at.node, role.role, role.term, role.leader
        ));
        if role.role == Role::Leader {
            env.checkers.leaders.controller(role.term, self.at.node);
        }
        self.role = role;
        let lost = self
            .active
            .as_ref()
            .is_some_and(|active| role.role != Role::Leader || active.term != role.term);
        if lost && let Some(active) = self.active.take() {
            for (to, _) in active.waiting.into_iter().filter_map(|(_, answer)| answer) {
                env.respond(
                    self.at,
                    to,
                    Payload::Answer {
                        id: to.id,
                        result: Err(role.leader),
                    },
                );
            }
        }
    }

    fn become_active(&mut self, env: &mut Env) -> bool {
        if self.active.is_some() || !self.quorum.leads_with_all_applied() {
            return false;
        }
        let applied = u64::try_from(self.committed.offset).expect("an applied index");
        let latest = self.committed.clone();
        env.note(format_args!(
            "controller {} active in term {}",
            self.at.node, self.role.term
        ));
        self.active = Some(Active {
            term: self.role.term,
            latest,
            waiting: VecDeque::new(),
            last_proposed: applied,
            applied,
        });
        let opening = self.controller.opening_records(&self.committed, CLUSTER_ID);
        if !opening.is_empty() {
            self.propose(env, opening, None);
        }
        if let Some(active) = &self.active {
            let newest_offset = self.committed.offset;
            self.controller
                .on_leadership(&active.latest, env.now, newest_offset);
        }
        true
    }

    fn propose(
        &mut self,
        env: &mut Env,
        records: Vec<MetadataRecord>,
        answer: Option<(ReturnAddress, ControllerResponse)>,
    ) {
        let Some(active) = &mut self.active else { return };
        match self.quorum.propose(batch_bytes(records.clone())) {
            Ok(at) => {
                for record in &records {
                    active.latest.apply(record);
                }
                set_position(&mut active.latest, at.index, at.term);
                active.last_proposed = at.index;
                active.waiting.push_back((at, answer));
            }
            Err(_) => {
                if let Some((to, _)) = answer {
                    let result = Err(self.role.leader);
                    env.respond(self.at, to, Payload::Answer { id: to.id, result });
                }
            }
        }
    }

    /// A request for the active controller.
    pub fn call(&mut self, env: &mut Env, from: Address, id: u64, request: &ControllerRequest) {
        let to = ReturnAddress {
            to: from,
            id,
            channel: Channel::Controller,
        };
        let next_offset = i64::try_from(self.quorum.last_index() + 1).expect("an index");
        let Some(active) = &mut self.active else {
            let result = Err(self.role.leader.filter(|leader| *leader != self.at.node));
            return env.respond(self.at, to, Payload::Answer { id, result });
        };
        let (image, now, controller) = (&active.latest, env.now, &mut self.controller);
        let (records, response) = match request {
            ControllerRequest::Register(request) => {
                let decision = controller.register_broker(image, now, next_offset, request);
                (decision.records, ControllerResponse::Register(decision.response))
            }
            ControllerRequest::Heartbeat(request) => {
                let decision = controller.broker_heartbeat(image, now, next_offset, request);
                (decision.records, ControllerResponse::Heartbeat(decision.response))
            }
            ControllerRequest::AlterPartition(request) => {
                let decision = controller.alter_partition(image, now, ALTER_PARTITION_VERSION, request);
                (
                    decision.records,
                    ControllerResponse::AlterPartition(decision.response),
                )
            }
            ControllerRequest::CreateTopics(request) => (
                controller.create_topics(image, now, request).records,
                ControllerResponse::Done,
            ),
            ControllerRequest::ElectLeaders(request) => (
                controller.elect_leaders(image, now, request).records,
                ControllerResponse::Done,
            ),
        };
        if !records.is_empty() {
            self.propose(env, records, Some((to, response)));
            self.turn(env, vec![QuorumInput::Tick]);
        } else if active.last_proposed <= active.applied {
            env.respond(
                self.at,
                to,
                Payload::Answer {
                    id,
                    result: Ok(response),
                },
            );
        } else {
            // The answer may tell of what is not committed yet, so it waits for that.
            let at = Proposed {
                index: active.last_proposed,
                term: active.term,
            };
            active.waiting.push_back((at, Some((to, response))));
        }
    }

    /// A write is durable.
    pub fn persisted(&mut self, env: &mut Env, number: u64, disk: &mut QuorumDisk) {
        let Some(persist) = self.writing.take_if(|persist| persist.number == number) else {
            return;
        };
        disk.write(&persist);
        for message in persist.messages {
            env.send_raft(self.at, message.to, message.bytes, message.snapshot);
        }
        self.turn(env, vec![QuorumInput::Persisted { number }]);
    }

    /// A crash while a write is under way may find it on the disk or not.
    pub fn crashed(self, env: &mut Env, disk: &mut QuorumDisk) {
        if let Some(persist) = self.writing.filter(|_| env.rng.percent(30)) {
            disk.write(&persist);
        }
    }

    /// Time passed.
    pub fn step(&mut self, env: &mut Env) {
        self.controller.begin_turn(env.now);
        let due = |deadline: u64| deadline <= env.now.mono_ms;
        if let Some(active) = &self.active
            && self.controller.next_deadline(&active.latest).is_some_and(due)
        {
            let records = self.controller.tick(&active.latest, env.now);
            if !records.is_empty() {
                self.propose(env, records, None);
            }
        }
        self.turn(env, vec![QuorumInput::Tick]);
        if let Some(active) = self
            .active
            .as_ref()
            .filter(|_| env.now.mono_ms >= self.suspects_due_ms)
        {
            self.suspects_due_ms = env.now.mono_ms + SUSPECTS_INTERVAL_MS;
            for broker in self.controller.suspects(&active.latest, env.now) {
                self.suspect(env, broker);
            }
        }
    }

    /// Dials a broker that may be dead; a refusal is proof, silence is none.
    pub fn suspect(&self, env: &mut Env, broker: NodeId) {
        let Some(active) = &self.active else { return };
        let Some(registered) = active.latest.brokers.get(&broker).filter(|broker| !broker.fenced) else {
            return;
        };
        let silent = env.is_cut(self.at.node, broker) || env.is_cut(broker, self.at.node);
        let refused = !silent && env.processes.get(&broker) == Some(&0);
        let at_ms = env.now.mono_ms + env.rng.between(1, 20);
        let broker_epoch = registered.broker_epoch;
        env.schedule(
            at_ms,
            Event::Probed {
                at: self.at,
                broker,
                broker_epoch,
                refused,
            },
        );
    }

    /// The outcome of dialling.
    pub fn probed(&mut self, env: &mut Env, broker: NodeId, broker_epoch: i64, refused: bool) {
        let Some(active) = self.active.as_ref().filter(|_| refused) else {
            return;
        };
        if active
            .latest
            .brokers
            .get(&broker)
            .is_some_and(|b| b.broker_epoch == broker_epoch)
        {
            let records = self.controller.session_dropped(&active.latest, env.now, broker);
            if !records.is_empty() {
                self.propose(env, records, None);
                self.turn(env, vec![QuorumInput::Tick]);
            }
        }
    }
}

fn image_of(snapshot: &StoredSnapshot) -> MetadataImage {
    let mut image = MetadataImage::default();
    for record in &batch_from_bytes(&snapshot.data).expect("a controller encoded it") {
        image.apply(record);
    }
    set_position(&mut image, snapshot.index, snapshot.term);
    image
}

fn set_position(image: &mut MetadataImage, index: u64, term: u64) {
    image.offset = i64::try_from(index).expect("an index fits 63 bits");
    image.epoch = i32::try_from(term).expect("a term fits 31 bits");
}
