//! When each broker was last heard of. Soft state: a new active controller starts it from the image.

use std::collections::BTreeMap;

use odradek_common::ids::NodeId;
use odradek_common::metadata::MetadataImage;
use odradek_common::time::Now;

/// A live broker speaks to a new active controller sooner than this; one that died together with the last does not.
const UNHEARD_MS: u64 = 250;

/// Turns that lie further apart than this part of the timeout do so because the process stood still.
const STANDSTILL_PART: u64 = 3;

/// What is known of one broker beside the image.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// The incarnation's epoch.
    pub(super) broker_epoch: i64,
    pub(super) last_contact_ms: u64,
    /// False until this controller itself heard the broker.
    pub(super) heard: bool,
    /// The metadata offset it said it had applied; -1 before the first heartbeat.
    pub(super) metadata_offset: i64,
    /// Once it asked to stop: the offset that the others must have applied, so that they know its leaderships moved.
    pub(super) shutdown_offset: Option<i64>,
}

impl Session {
    fn opened(broker_epoch: i64, now: Now, heard: bool) -> Self {
        Self {
            broker_epoch,
            last_contact_ms: now.mono_ms,
            heard,
            metadata_offset: -1,
            shutdown_offset: None,
        }
    }
}

pub(super) struct Sessions {
    timeout_ms: u64,
    by_broker: BTreeMap<NodeId, Session>,
    last_turn_ms: u64,
}

impl Sessions {
    pub(super) fn new(timeout_ms: u64) -> Self {
        Self {
            timeout_ms,
            by_broker: BTreeMap::new(),
            last_turn_ms: 0,
        }
    }

    pub(super) fn reset(&mut self, image: &MetadataImage, now: Now) {
        self.by_broker.clear();
        self.last_turn_ms = now.mono_ms;
        self.adopt(image, now);
    }

    /// What brokers sent while nobody took it in has yet to be read: their sessions last as much longer.
    pub(super) fn begin_turn(&mut self, now: Now) {
        let since_ms = now.mono_ms.saturating_sub(self.last_turn_ms);
        self.last_turn_ms = now.mono_ms;
        if since_ms > self.timeout_ms / STANDSTILL_PART {
            for session in self.by_broker.values_mut() {
                session.last_contact_ms = (session.last_contact_ms + since_ms).min(now.mono_ms);
            }
        }
    }

    /// Every unfenced broker has a session, so that none is beyond the timeout. A session outlives fencing, because the records
    /// that fence may yet be refused: only a broker that is no longer registered loses it.
    pub(super) fn adopt(&mut self, image: &MetadataImage, now: Now) {
        self.by_broker.retain(|id, _| image.brokers.contains_key(id));
        for (id, broker) in image.brokers.iter().filter(|(_, broker)| !broker.fenced) {
            self.by_broker
                .entry(*id)
                .or_insert_with(|| Session::opened(broker.broker_epoch, now, false));
        }
    }

    /// The session of that incarnation, opened if need be, with a contact right now.
    pub(super) fn touch(&mut self, broker: NodeId, broker_epoch: i64, now: Now) -> &mut Session {
        let opened = Session::opened(broker_epoch, now, true);
        let session = self.by_broker.entry(broker).or_insert_with(|| opened.clone());
        if session.broker_epoch != broker_epoch {
            *session = opened;
        }
        session.last_contact_ms = now.mono_ms;
        session.heard = true;
        session
    }

    pub(super) fn get(&self, broker: NodeId) -> Option<&Session> {
        self.by_broker.get(&broker)
    }

    /// True if this controller itself heard the broker within the session timeout.
    pub(super) fn is_live(&self, broker: NodeId, now: Now) -> bool {
        self.get(broker)
            .is_some_and(|session| session.heard && !self.is_expired(session, now))
    }

    fn is_expired(&self, session: &Session, now: Now) -> bool {
        now.mono_ms > session.last_contact_ms + self.timeout_ms
    }

    /// Unfenced brokers whose session has run out, longest silent first.
    pub(super) fn expired(&self, image: &MetadataImage, now: Now) -> Vec<NodeId> {
        let mut expired: Vec<(u64, NodeId)> = self
            .unfenced(image)
            .filter(|(_, session)| self.is_expired(session, now))
            .map(|(id, session)| (session.last_contact_ms, id))
            .collect();
        expired.sort_unstable();
        expired.into_iter().map(|(_, id)| id).collect()
    }

    /// Unfenced brokers that have been silent for longer than `silent_ms`, or that a new active controller has yet to hear.
    pub(super) fn silent(&self, image: &MetadataImage, now: Now, silent_ms: u64) -> Vec<NodeId> {
        let silent = |session: &Session| {
            let patience_ms = if session.heard {
                silent_ms
            } else {
                silent_ms.min(UNHEARD_MS)
            };
            now.mono_ms >= session.last_contact_ms + patience_ms
        };
        self.unfenced(image)
            .filter(|(_, session)| silent(session))
            .map(|(id, _)| id)
            .collect()
    }

    /// When the first session runs out.
    pub(super) fn next_expiry_ms(&self, image: &MetadataImage) -> Option<u64> {
        self.unfenced(image)
            .map(|(_, session)| session.last_contact_ms + self.timeout_ms + 1)
            .min()
    }

    /// The lowest metadata offset among brokers that may lead, `except` one; the highest number if there is none.
    pub(super) fn lowest_active_offset(&self, image: &MetadataImage, except: NodeId) -> i64 {
        let active = image
            .brokers
            .keys()
            .filter(|id| **id != except && image.is_active(**id));
        active
            .map(|id| self.get(*id).map_or(-1, |session| session.metadata_offset))
            .min()
            .unwrap_or(i64::MAX)
    }

    fn unfenced<'a>(&'a self, image: &'a MetadataImage) -> impl Iterator<Item = (NodeId, &'a Session)> {
        self.by_broker
            .iter()
            .filter(|(id, _)| image.is_alive(**id))
            .map(|(id, session)| (*id, session))
    }
}
