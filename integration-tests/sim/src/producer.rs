//! Producers with acks=all: idempotent ones, which send until they are acknowledged, and plain ones, which send once.

use std::collections::VecDeque;

use odradek_common::ids::NodeId;

use crate::env::{Env, Event};
use crate::log::ProducerBatch;
use crate::message::{Address, Channel, Key, Payload};

/// Producers have numbers from here on, above those of nodes.
pub const FIRST_PRODUCER: NodeId = 100;
const IN_FLIGHT_MAX: usize = 3;
const REQUEST_TIMEOUT_MS: u64 = 2_000;
const BACKOFF_MS: u64 = 50;
const STEP_MS: u64 = 20;

/// The producer that made a value.
#[must_use]
pub fn producer_of(value: u64) -> u64 {
    value >> 32
}

/// Which of its producer's values it is.
#[must_use]
pub fn sequence_of(value: u64) -> u64 {
    value & 0xffff_ffff
}

/// Every third producer is a plain one.
#[must_use]
pub fn is_idempotent(producer: u64) -> bool {
    producer % 3 != 2
}

/// A producer to one partition.
#[derive(Debug)]
pub struct Producer {
    at: usize,
    key: Key,
    values: u64,
    sequence: i32,
    pending: VecDeque<Pending>,
    leader: Option<NodeId>,
    rest_until_ms: u64,
    retries: bool,
}

#[derive(Debug)]
struct Pending {
    batch: ProducerBatch,
    /// The request's number, and when it counts as lost.
    sent: Option<(u64, u64)>,
    acknowledged: bool,
}

impl Producer {
    /// A producer that has sent nothing.
    #[must_use]
    pub fn new(at: usize, key: Key) -> Self {
        Self {
            at,
            key,
            values: 0,
            sequence: 0,
            pending: VecDeque::new(),
            leader: None,
            rest_until_ms: 0,
            // Until something was acknowledged a broker would take any sequence for the first.
            retries: true,
        }
    }

    /// True if everything was acknowledged or refused.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// The partition it writes to.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }

    fn address(&self) -> Address {
        Address {
            node: FIRST_PRODUCER + i32::try_from(self.at).expect("few"),
            process: 1,
        }
    }

    fn idempotent(&self) -> bool {
        is_idempotent(self.at as u64)
    }

    /// Its timers; `leader` is whom some broker's metadata names.
    pub fn step(&mut self, env: &mut Env, makes_more: bool, leader: Option<NodeId>) {
        env.schedule(env.now.mono_ms + STEP_MS, Event::Producer(self.at));
        if makes_more && self.pending.len() < 8 && env.rng.percent(30) {
            self.make(env);
        }
        let expired = |pending: &Pending| pending.sent.is_some_and(|(_, until)| until <= env.now.mono_ms);
        if self.pending.iter().any(expired) {
            self.give_up(env);
        }
        if env.now.mono_ms < self.rest_until_ms {
            return;
        }
        if self.pending.iter().all(|pending| pending.sent.is_none()) {
            self.leader = leader;
        }
        let Some(leader) = self.leader else { return };
        let window = if self.retries { 1 } else { IN_FLIGHT_MAX };
        let from = self.address();
        let waits = |pending: &&mut Pending| pending.sent.is_none() && !pending.acknowledged;
        for pending in self.pending.iter_mut().take(window).filter(waits) {
            let id = env.id();
            pending.sent = Some((id, env.now.mono_ms + REQUEST_TIMEOUT_MS));
            let payload = Payload::Produce {
                id,
                key: self.key,
                batch: pending.batch.clone(),
            };
            env.request(from, leader, Channel::Produce, payload);
        }
    }

    fn make(&mut self, env: &mut Env) {
        let count = env.rng.between(1, 3);
        let values = (0..count)
            .map(|n| (self.at as u64) << 32 | (self.values + n))
            .collect();
        self.values += count;
        let (producer_id, base_sequence) = if self.idempotent() {
            (i64::try_from(self.at).expect("few"), self.sequence)
        } else {
            (-1, -1)
        };
        self.sequence += i32::try_from(count).expect("few");
        self.pending.push_back(Pending {
            batch: ProducerBatch {
                producer_id,
                base_sequence,
                values,
            },
            sent: None,
            acknowledged: false,
        });
    }

    /// Whatever is under way counts as lost: plain producers leave it at that, others send it again, one at a time.
    fn give_up(&mut self, env: &mut Env) {
        if let Some(leader) = self.leader.take() {
            env.reconnect(self.address().node, leader, Channel::Produce);
        }
        if !self.idempotent() {
            self.pending
                .retain(|pending| pending.sent.is_none() && !pending.acknowledged);
        }
        for pending in &mut self.pending {
            pending.sent = None;
        }
        self.retries = true;
        self.rest_until_ms = env.now.mono_ms + BACKOFF_MS;
    }

    /// A broker answered.
    pub fn answered(
        &mut self,
        env: &mut Env,
        id: u64,
        result: Result<i64, odradek_common::error::ErrorCode>,
    ) {
        let asked = |pending: &Pending| pending.sent.is_some_and(|(sent, _)| sent == id);
        let Some(at) = self.pending.iter().position(asked) else {
            return;
        };
        match result {
            Ok(base_offset) => {
                let done = &mut self.pending[at];
                done.sent = None;
                done.acknowledged = true;
                env.checkers
                    .acknowledged
                    .acknowledged(self.key, base_offset, &done.batch.values);
                // The window moves with the oldest request, as a connection that answers in order has it.
                while self
                    .pending
                    .pop_front_if(|pending| pending.acknowledged)
                    .is_some()
                {}
                self.retries = false;
            }
            Err(code) => {
                env.digest(8, u64::from(code.code().unsigned_abs()));
                self.give_up(env);
            }
        }
    }
}
