//! One turn of the node's loop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use odradek_common::ids::NodeId;
use odradek_common::metadata::{MetadataRecord, batch_bytes, batch_from_bytes};
use odradek_common::time::Now;
use odradek_controller_core::quorum::{
    CommittedEntry, Persist, ProposeError, QuorumEffects, QuorumInput, RejectedMessage, RestoredSnapshot,
    Role, RoleChange, StoredSnapshot,
};
use slog::{error, info, warn};

use super::active::Active;
use super::command::{Command, Deciding, Job, QueuedCall, Reply};
use super::{ControllerNode, NodeError, image_of, set_position};
use crate::handle::DispatchError;
use crate::metrics::QuorumMetrics;
use crate::probe;
use crate::status::{Leadership, QuorumStatus};
use crate::update::{MetadataContent, MetadataUpdate};

/// How often brokers that have been silent for a while are dialled.
const SUSPECTS_INTERVAL_MS: u64 = 500;
/// Records in one entry of what the controller does unasked; fencing a broker changes every partition that it is in.
const OWN_RECORDS_PER_ENTRY_MAX: usize = 1_000;
const REJECTED_TOLD_INTERVAL: Duration = Duration::from_secs(10);
/// A disk without room is tried again after this, and told of this often.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(200);
const NO_ROOM_TOLD_INTERVAL: Duration = Duration::from_secs(30);

impl ControllerNode {
    /// Takes what arrived, decides, and brings everything to rest: when it returns nothing waits for the disk.
    pub(super) fn turn(&mut self, batch: &mut Vec<Command>) -> Result<(), NodeError> {
        let now = self.now();
        self.controller.begin_turn(now);
        let mut inputs = Vec::with_capacity(batch.len() + 1);
        inputs.extend(
            self.transport
                .take_lost()
                .map(|peer| QuorumInput::Unreachable { peer }),
        );
        for command in batch.drain(..) {
            self.take(now, command, &mut inputs);
        }
        self.pursue_own_work(now, &mut inputs);
        let effects = self.quorum.handle_all(now, inputs);
        self.perform(effects)?;
        self.report();
        Ok(())
    }

    fn take(&mut self, now: Now, command: Command, inputs: &mut Vec<QuorumInput>) {
        match command {
            Command::Raft { from, messages } => {
                QuorumMetrics::count(&self.shared.metrics.messages_received, messages.len() as u64);
                inputs.extend(
                    messages
                        .into_iter()
                        .map(|bytes| QuorumInput::Message { from, bytes }),
                );
            }
            Command::Report(input) => {
                if let QuorumInput::Down { peer } = &input {
                    // In a combined process the broker is gone with the controller.
                    self.suspect(*peer);
                }
                inputs.push(input);
            }
            Command::Call(call) => self.call(now, call),
            Command::Suspect(broker) => self.suspect(broker),
            Command::Probed {
                broker,
                broker_epoch,
                refused,
            } => self.probed(now, broker, broker_epoch, refused),
            Command::Shutdown(done) => {
                info!(self.logger, "stopping"; "role" => ?self.role.role);
                self.stopping = Some((Instant::now(), done));
                inputs.push(QuorumInput::TransferLeadership { to: None });
            }
        }
    }

    fn call(&mut self, now: Now, call: QueuedCall) {
        if self.active.is_none() {
            let _gone = call.reply.send(Err(DispatchError::NotController {
                leader: self.role.leader,
            }));
            return;
        }
        QuorumMetrics::count(&self.shared.metrics.requests, 1);
        match call.job {
            Job::Decide(decide) => self.decide(now, decide, call.reply),
            Job::Voters(job) => self.change_voters(job, call.reply),
        }
    }

    fn decide(&mut self, now: Now, decide: super::command::Decide, reply: Reply) {
        let next_offset = self.next_offset();
        let Some(active) = &mut self.active else { return };
        let mut deciding = Deciding {
            controller: &mut self.controller,
            image: &active.latest,
            now,
            next_offset,
        };
        match decide(&mut deciding) {
            Ok((records, answer)) if records.is_empty() => active.answer(reply, answer),
            Ok((records, answer)) => {
                self.propose(records, Some((reply, answer)));
            }
            Err(error) => {
                let _gone = reply.send(Err(error));
            }
        }
    }

    pub(super) fn next_offset(&self) -> i64 {
        i64::try_from(self.quorum.last_index() + 1).expect("an index fits 63 bits")
    }

    /// Gives records to the quorum as one entry and says whether it took them; a refused proposal changes nothing here.
    pub(super) fn propose(&mut self, records: Vec<MetadataRecord>, reply: Option<(Reply, Bytes)>) -> bool {
        let Some(active) = &mut self.active else {
            return false;
        };
        match self.quorum.propose(batch_bytes(records.clone())) {
            Ok(at) => {
                QuorumMetrics::count(&self.shared.metrics.proposals, 1);
                active.proposed(at, &records, reply);
                true
            }
            Err(error) => {
                warn!(self.logger, "the quorum takes no records"; "error" => %error, "records" => records.len());
                if let Some((reply, _)) = reply {
                    let _gone = reply.send(Err(refusal(error, self.role.leader)));
                }
                false
            }
        }
    }

    /// Proposes what nobody asked for, in as many entries as it takes. Each stands without those after it: a broker is fenced
    /// by the last record about it, and is found due again if that one was not taken.
    fn propose_own(&mut self, records: &[MetadataRecord]) {
        for entry in records.chunks(OWN_RECORDS_PER_ENTRY_MAX) {
            if !self.propose(entry.to_vec(), None) {
                return;
            }
        }
    }

    /// What the active controller does unasked: sessions that ran out, leaders to be moved, brokers to be dialled.
    fn pursue_own_work(&mut self, now: Now, inputs: &mut Vec<QuorumInput>) {
        let Some(active) = &self.active else { return };
        if self
            .controller
            .next_deadline(&active.latest)
            .is_some_and(|due| due <= now.mono_ms)
        {
            let records = self.controller.tick(&active.latest, now);
            self.propose_own(&records);
        }
        if let Some(active) = self
            .active
            .as_ref()
            .filter(|_| now.mono_ms >= self.suspects_due_ms)
        {
            self.suspects_due_ms = now.mono_ms + SUSPECTS_INTERVAL_MS;
            for broker in self.controller.suspects(&active.latest, now) {
                self.suspect(broker);
            }
        }
        self.pursue_joining(inputs);
    }

    /// Dials a broker that may be dead, unless only its session is to tell.
    fn suspect(&mut self, broker_id: NodeId) {
        if !self.shared.settings.fencing_probe {
            return;
        }
        let Some(active) = &self.active else { return };
        let Some(broker) = active
            .latest
            .brokers
            .get(&broker_id)
            .filter(|broker| !broker.fenced)
        else {
            return;
        };
        if self.probing.insert(broker_id) {
            let endpoints = broker.endpoints.iter();
            let addresses = endpoints.map(|it| odradek_net::pool::join_address(&it.host, it.port));
            let commands = self.shared.commands.clone();
            let dial = probe::broker(commands, broker_id, broker.broker_epoch, addresses.collect());
            self.runtime.spawn(dial);
        }
    }

    /// A broker may have died with the controller that would have noticed.
    fn suspect_all(&mut self) {
        let Some(active) = &self.active else { return };
        let brokers: Vec<NodeId> = active.latest.brokers.keys().copied().collect();
        for broker in brokers {
            self.suspect(broker);
        }
    }

    fn probed(&mut self, now: Now, broker_id: NodeId, broker_epoch: i64, refused: bool) {
        self.probing.remove(&broker_id);
        let Some(active) = self.active.as_ref().filter(|_| refused) else {
            return;
        };
        let same = active
            .latest
            .brokers
            .get(&broker_id)
            .is_some_and(|b| b.broker_epoch == broker_epoch);
        if same {
            let records = self.controller.session_dropped(&active.latest, now, broker_id);
            self.propose_own(&records);
        }
    }

    pub(super) fn perform(&mut self, effects: QuorumEffects) -> Result<(), NodeError> {
        let mut queue = VecDeque::from([effects]);
        while let Some(effects) = queue.pop_front() {
            let snapshot_wanted = effects.snapshot_wanted;
            if let Some(number) = self.perform_one(effects)? {
                let now = self.now();
                queue.push_back(self.quorum.handle(now, QuorumInput::Persisted { number }));
            } else if snapshot_wanted && queue.is_empty() {
                queue.push_back(self.take_snapshot());
            }
        }
        self.become_active();
        // A leader's first records are proposed after its turn's effects: bring them down as well.
        if self.active.as_ref().is_some_and(|active| !active.is_idle()) {
            let now = self.now();
            let effects = self.quorum.handle(now, QuorumInput::Tick);
            if effects.persist.is_some() || !effects.messages.is_empty() || !effects.committed.is_empty() {
                return self.perform(effects);
            }
        }
        Ok(())
    }

    /// Does what one round of effects asks for; the number of a write that is now durable.
    fn perform_one(&mut self, effects: QuorumEffects) -> Result<Option<u64>, NodeError> {
        self.transport.send(effects.messages);
        let mut durable = None;
        if let Some(persist) = effects.persist {
            self.persist(&persist)?;
            durable = Some(persist.number);
            self.transport.send(persist.messages);
        }
        if let Some(restored) = effects.restored {
            self.restore(restored)?;
        }
        for entry in effects.committed {
            self.apply(entry)?;
        }
        if let Some(role) = effects.role {
            self.change_role(role);
        }
        if let Some(membership) = effects.membership {
            info!(self.logger, "the quorum has these voters"; "voters" => ?membership.voters,
                "learners" => ?membership.learners);
            self.membership_changed(&membership);
        }
        for rejected in effects.rejected {
            QuorumMetrics::count(&self.shared.metrics.messages_failed, 1);
            self.tell_of_rejected(rejected);
        }
        Ok(durable)
    }

    /// One line per reason and ten seconds: some of these come with every heartbeat.
    fn tell_of_rejected(&mut self, rejected: RejectedMessage) {
        let due = |told: &Instant| told.elapsed() >= REJECTED_TOLD_INTERVAL;
        if self.rejected_told.get(rejected.reason).is_none_or(due) {
            self.rejected_told.insert(rejected.reason, Instant::now());
            warn!(self.logger, "a raft message was thrown away"; "from" => rejected.from,
                "reason" => rejected.reason);
        }
    }

    fn persist(&mut self, persist: &Persist) -> Result<(), NodeError> {
        let begun = Instant::now();
        let mut told = None;
        while let Err(error) = self.store.persist(persist) {
            // To stand still is to step down: this node sends nothing and acknowledges nothing, so the others elect anew.
            if !error.is_no_room() || self.shared.stops.load(Ordering::Acquire) {
                return Err(error.into());
            }
            if told.is_none_or(|told: Instant| told.elapsed() >= NO_ROOM_TOLD_INTERVAL) {
                error!(self.logger, "no room for the metadata log: this controller stands still until there is";
                    "directory" => %self.shared.settings.metadata_log_dir.display(), "error" => %error);
                told = Some(Instant::now());
            }
            std::thread::sleep(NO_ROOM_PAUSE);
        }
        if told.is_some() {
            info!(self.logger, "there is room for the metadata log again");
        }
        if persist.must_sync {
            QuorumMetrics::count(&self.shared.metrics.syncs, 1);
            let elapsed_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            QuorumMetrics::count(&self.shared.metrics.sync_us, elapsed_us);
        }
        Ok(())
    }

    fn restore(&mut self, restored: RestoredSnapshot) -> Result<(), NodeError> {
        info!(self.logger, "took the leader's snapshot"; "index" => restored.index, "bytes" => restored.data.len());
        let snapshot = StoredSnapshot {
            index: restored.index,
            term: restored.term,
            data: restored.data,
            ..Default::default()
        };
        self.committed = image_of(Some(&snapshot))?;
        self.publish(MetadataContent::Snapshot);
        Ok(())
    }

    fn apply(&mut self, entry: CommittedEntry) -> Result<(), NodeError> {
        let index = entry.index;
        let records =
            batch_from_bytes(&entry.data).map_err(|source| NodeError::Undecodable { index, source })?;
        for record in &records {
            self.committed.apply(record);
        }
        set_position(&mut self.committed, entry.index, entry.term);
        self.publish(MetadataContent::Records(Arc::new(records)));
        if let Some(active) = &mut self.active {
            active.committed(entry.index, entry.term);
        }
        Ok(())
    }

    fn publish(&self, content: MetadataContent) {
        self.shared.log.publish(MetadataUpdate {
            offset: self.committed.offset,
            epoch: self.committed.epoch,
            content,
            image: Arc::new(self.committed.clone()),
        });
    }

    fn take_snapshot(&mut self) -> QuorumEffects {
        QuorumMetrics::count(&self.shared.metrics.snapshots, 1);
        let data = batch_bytes(self.committed.to_records());
        let index = u64::try_from(self.committed.offset).expect("an applied index");
        info!(self.logger, "took a snapshot"; "index" => index, "bytes" => data.len());
        let now = self.now();
        self.quorum.handle(now, QuorumInput::Snapshot { index, data })
    }

    fn change_role(&mut self, role: RoleChange) {
        let before = std::mem::replace(&mut self.role, role);
        let metrics = &self.shared.metrics;
        let stands = matches!(role.role, Role::Candidate | Role::Leader) && role.term > before.term;
        if stands {
            info!(self.logger, "standing for election"; "term" => role.term);
            QuorumMetrics::count(&metrics.elections, 1);
        }
        if role.leader.is_some() && (role.leader != before.leader || role.term != before.term) {
            QuorumMetrics::count(&metrics.leader_changes, 1);
            info!(self.logger, "the quorum has a leader"; "leader" => role.leader, "term" => role.term);
        }
        let lost = self
            .active
            .as_ref()
            .is_some_and(|active| role.role != Role::Leader || active.term != role.term);
        if lost {
            info!(self.logger, "no longer the active controller"; "term" => role.term, "leader" => role.leader);
            self.abandon();
        }
    }

    /// Refuses whatever waits for this node's leadership.
    pub(super) fn abandon(&mut self) {
        if let Some(active) = self.active.take() {
            active.abandon(self.role.leader);
        }
        self.abandon_joining();
        self.probing.clear();
    }

    /// A leader that has applied an entry of its own term knows all that was committed before it.
    fn become_active(&mut self) {
        if self.active.is_some() || !self.quorum.leads_with_all_applied() {
            return;
        }
        let now = self.now();
        let applied = u64::try_from(self.committed.offset).expect("an applied index");
        self.active = Some(Active::new(self.role.term, &self.committed, applied));
        info!(self.logger, "this node is the active controller"; "term" => self.role.term);
        // Whoever read here while another led has gone to it since, or comes back.
        self.shared.observers.lock().clear();
        let cluster_id = &self.shared.settings.cluster_id;
        let opening = self.controller.opening_records(&self.committed, cluster_id);
        if !opening.is_empty() {
            self.propose(opening, None);
        }
        if let Some(active) = &self.active {
            let newest_offset = self.shared.log.newest();
            self.controller.on_leadership(&active.latest, now, newest_offset);
        }
        self.suspect_all();
    }

    /// Shows the outside where this node is.
    fn report(&mut self) {
        let view = self.quorum.view();
        let metrics = &self.shared.metrics;
        QuorumMetrics::set(&metrics.term, view.role.term);
        QuorumMetrics::set(&metrics.commit, view.commit);
        QuorumMetrics::set(&metrics.applied, view.applied);
        QuorumMetrics::set(&metrics.log_end, view.last);
        QuorumMetrics::set(&metrics.log_bytes, self.quorum.log_bytes() as u64);
        metrics.role.store(role_number(view.role.role), Ordering::Relaxed);
        metrics
            .leader
            .store(view.role.leader.map_or(-1, i64::from), Ordering::Relaxed);
        metrics
            .active
            .store(i64::from(self.active.is_some()), Ordering::Relaxed);
        let leadership = Leadership {
            leader: view.role.leader,
            term: view.role.term,
            active: self.active.is_some(),
        };
        let status = QuorumStatus {
            node_id: self.shared.settings.node_id,
            role: view.role.role,
            term: view.role.term,
            leader: view.role.leader,
            active: leadership.active,
            commit: view.commit,
            applied: view.applied,
            log_end: view.last,
            membership: view.membership,
            peers: view.peers,
            observers: std::collections::BTreeMap::new(),
        };
        *self.shared.status.lock() = Arc::new(status);
        self.shared.leadership.send_if_modified(|known| {
            let changed = *known != leadership;
            *known = leadership;
            changed
        });
    }
}

fn role_number(role: Role) -> i64 {
    match role {
        Role::Follower => 0,
        Role::PreCandidate => 1,
        Role::Candidate => 2,
        Role::Leader => 3,
    }
}

pub(super) fn refusal(error: ProposeError, leader: Option<NodeId>) -> DispatchError {
    use odradek_common::error::{ApiError, ErrorCode};
    match error {
        ProposeError::NotLeader | ProposeError::Busy => DispatchError::NotController { leader },
        ProposeError::TooLarge { .. } | ProposeError::ChangeInProgress | ProposeError::InvalidChange => {
            DispatchError::Refused(ApiError::new(ErrorCode::PolicyViolation, error.to_string()))
        }
    }
}
