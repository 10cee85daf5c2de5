//! Followers: one task per leader fetches for every partition that follows it, in one incremental session.
//!
//! The task decides nothing about logs: it hands what the leader says to the replica, which appends or truncates.

mod session;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use odradek_common::ids::{NodeId, TopicPartition};
use odradek_common::metadata::{MetadataDelta, MetadataImage};
use odradek_net::pool::join_address;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::replica::Replica;
use crate::replicas::RoleEvent;
use crate::vital;

/// Wake-ups that may wait for a task: one says it all.
const COMMANDS_MAX: usize = 1;

/// The fetching tasks by leader.
pub struct Fetchers {
    /// Where tasks run, by turns.
    runtimes: Vec<Handle>,
    listener: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    broker: Weak<Broker>,
    tasks: BTreeMap<NodeId, Task>,
    following: BTreeMap<TopicPartition, NodeId>,
}

struct Task {
    shared: Arc<Shared>,
    wake: mpsc::Sender<()>,
}

/// What the publisher tells a task.
#[derive(Default)]
struct Shared {
    assignment: Mutex<Assignment>,
}

/// Partitions to fetch and where from.
#[derive(Default)]
struct Assignment {
    /// Raised at every change.
    version: u64,
    address: Option<String>,
    partitions: BTreeMap<TopicPartition, Followed>,
}

/// One partition to fetch.
#[derive(Clone)]
struct Followed {
    replica: Arc<Replica>,
    leader_epoch: i32,
}

impl Followed {
    /// Whether it is this replica, followed in this epoch.
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.replica, &other.replica) && self.leader_epoch == other.leader_epoch
    }
}

impl Fetchers {
    /// Tasks run on `runtimes`, of which there is at least one, and reach leaders through their endpoint of `listener`.
    #[must_use]
    pub fn new(runtimes: Vec<Handle>, listener: String) -> Arc<Self> {
        Arc::new(Self {
            runtimes,
            listener,
            state: Mutex::default(),
        })
    }

    /// The broker whose replicas are fetched for; needed before the first publication.
    pub fn attach(&self, broker: &Arc<Broker>) {
        self.state.lock().broker = Arc::downgrade(broker);
    }

    /// Adds and removes partitions as roles changed, and follows leaders that moved to another address.
    pub fn publish(&self, delta: &MetadataDelta, image: &MetadataImage, events: &[RoleEvent]) {
        let mut state = self.state.lock();
        for event in events {
            match event {
                RoleEvent::Leads(replica, _) => state.unfollow(&replica.id),
                RoleEvent::Stops(id, _) => state.unfollow(id),
                RoleEvent::Follows(replica, leader, leader_epoch) => {
                    state.unfollow(&replica.id);
                    let followed = Followed {
                        replica: replica.clone(),
                        leader_epoch: *leader_epoch,
                    };
                    self.follow(&mut state, *leader, followed, image);
                }
            }
        }
        for broker in &delta.brokers {
            if let Some(task) = state.tasks.get(broker) {
                task.set_address(self.address(image, *broker));
            }
        }
        state.drop_idle();
    }

    fn follow(&self, state: &mut State, leader: NodeId, followed: Followed, image: &MetadataImage) {
        let id = followed.replica.id.clone();
        if !state.tasks.contains_key(&leader) {
            let (wake, woken) = mpsc::channel(COMMANDS_MAX);
            let shared = Arc::new(Shared::default());
            // Without a broker there is nothing to fetch for.
            let Some(broker) = state.broker.upgrade() else {
                return;
            };
            let work = task::run(state.broker.clone(), leader, shared.clone(), woken);
            let run = vital::task("fetcher", broker.log.clone(), work);
            let turn = usize::try_from(leader).unwrap_or(0) % self.runtimes.len();
            self.runtimes[turn].spawn(run);
            state.tasks.insert(leader, Task { shared, wake });
        }
        let task = &state.tasks[&leader];
        task.set_address(self.address(image, leader));
        task.change(|assignment| _ = assignment.partitions.insert(id.clone(), followed));
        state.following.insert(id, leader);
    }

    fn address(&self, image: &MetadataImage, leader: NodeId) -> Option<String> {
        let endpoint = image.brokers.get(&leader)?.endpoint(&self.listener)?;
        Some(join_address(&endpoint.host, endpoint.port))
    }

    /// Ends every task.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.tasks.clear();
        state.following.clear();
    }
}

impl State {
    fn unfollow(&mut self, id: &TopicPartition) {
        if let Some(leader) = self.following.remove(id)
            && let Some(task) = self.tasks.get(&leader)
        {
            task.change(|assignment| _ = assignment.partitions.remove(id));
        }
    }

    /// A task without partitions ends when its channel closes.
    fn drop_idle(&mut self) {
        self.tasks
            .retain(|_, task| !task.shared.assignment.lock().partitions.is_empty());
    }
}

impl Task {
    fn change(&self, change: impl FnOnce(&mut Assignment)) {
        let mut assignment = self.shared.assignment.lock();
        change(&mut assignment);
        assignment.version += 1;
        drop(assignment);
        // A full channel already holds a wake-up.
        _ = self.wake.try_send(());
    }

    fn set_address(&self, address: Option<String>) {
        if self.shared.assignment.lock().address != address {
            self.change(|assignment| assignment.address = address);
        }
    }
}
