//! The shards that this broker hosts, by partition of their topic, and the way of a request to its shard.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use odradek_broker_core::coordination::partition_for;
use odradek_common::error::ErrorCode;
use odradek_common::metadata::MetadataImage;
use parking_lot::Mutex;
use slog::Logger;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::load::{LoadTotals, Loads};
use super::shard::{self, Shard, ShardOrigin, ShardRequest, ShardRules, ShardShared};
use crate::clock;
use crate::replica::Replica;
use crate::replicas::{Replicas, RoleEvent};
use crate::vital;

/// Requests that wait for one shard; beyond, clients are asked to try again.
pub(super) const SHARD_QUEUE_MAX: usize = 1_000;
/// Shards of one coordinator that read their logs at once.
const LOADS_AT_ONCE_MAX: usize = 4;
/// How long a scrape waits for shards that are busy; it shows them as they were.
const SNAPSHOT_PATIENCE_MS: u64 = 500;

/// The shards of one coordinator.
pub(super) struct Hosting<S: Shard> {
    topic: &'static str,
    runtime: Handle,
    log: Logger,
    rules: ShardRules,
    loads: Arc<Loads>,
    /// Partitions of the topic; 0 while it does not exist.
    partitions: AtomicI32,
    shards: Mutex<Shards<S>>,
}

struct Shards<S: Shard> {
    hosted: BTreeMap<i32, Hosted<S>>,
    /// Held by a shard's task for as long as it lives: a successor begins when its predecessor has ended.
    turns: BTreeMap<i32, Arc<tokio::sync::Mutex<()>>>,
    stopped: bool,
}

/// A shard's task as requests see it; the task ends when this is dropped.
struct Hosted<S: Shard> {
    requests: mpsc::Sender<ShardRequest<S>>,
    shared: Arc<ShardShared<S>>,
    replica: Arc<Replica>,
    /// In which it began.
    leader_epoch: i32,
}

impl<S: Shard> Hosted<S> {
    /// True if a new epoch of that replica is nothing to this shard: the leader has stayed, and with it the log.
    fn outlives_epoch_of(&self, replica: &Arc<Replica>) -> bool {
        S::OUTLIVES_EPOCHS
            && Arc::ptr_eq(&self.replica, replica)
            && replica.has_led_since(self.leader_epoch)
            && !replica.is_offline()
            && !self.requests.is_closed()
    }
}

/// Makes a shard that begins in this leader epoch, has this way back to itself for what it sets off, and logs there.
pub(super) trait NewShard<S: Shard>: Fn(i32, &Arc<ShardShared<S>>, &Logger) -> S {}

impl<S: Shard, F: Fn(i32, &Arc<ShardShared<S>>, &Logger) -> S> NewShard<S> for F {}

impl<S: Shard> Hosting<S> {
    /// No shards yet; they come with the first metadata. Their tasks run on `runtime`.
    pub(super) fn new(topic: &'static str, runtime: Handle, rules: ShardRules, log: Logger) -> Self {
        Self {
            topic,
            runtime,
            log,
            rules,
            loads: Arc::new(Loads::new(LOADS_AT_ONCE_MAX)),
            partitions: AtomicI32::new(0),
            shards: Mutex::new(Shards {
                hosted: BTreeMap::new(),
                turns: BTreeMap::new(),
                stopped: false,
            }),
        }
    }

    /// Starts and ends shards as replicas of the topic change their roles. Does not block.
    pub(super) fn apply(
        &self,
        replicas: &Arc<Replicas>,
        image: &MetadataImage,
        events: &[RoleEvent],
        new_shard: impl NewShard<S>,
    ) {
        let partitions = image.topic(self.topic).map_or(0, |topic| topic.partitions.len());
        self.partitions
            .store(i32::try_from(partitions).unwrap_or(i32::MAX), Ordering::Release);
        for event in events {
            match event {
                RoleEvent::Leads(replica, leader_epoch) if &*replica.id.topic == self.topic => {
                    self.start(replicas, replica, *leader_epoch, &new_shard);
                }
                RoleEvent::Follows(replica, _, _) if &*replica.id.topic == self.topic => {
                    self.end(replica.id.partition);
                }
                RoleEvent::Stops(id, _) if &*id.topic == self.topic => self.end(id.partition),
                RoleEvent::Leads(..) | RoleEvent::Follows(..) | RoleEvent::Stops(..) => {}
            }
        }
    }

    /// Where the tasks run.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// What loading has taken.
    pub(super) fn loads(&self) -> LoadTotals {
        self.loads.totals()
    }

    /// Ends every shard; requests are answered NOT_COORDINATOR from now on.
    pub(super) fn stop(&self) {
        let mut shards = self.shards.lock();
        shards.stopped = true;
        shards.hosted.clear();
    }

    /// Has the shard of that key answer. The future may be dropped at any time: the request is carried out all the same.
    pub(super) async fn call(
        &self,
        key: &str,
        request: S::Request,
        patience: Option<Duration>,
    ) -> S::Response {
        match self.shard_of(key) {
            Some(requests) => ask(requests, request, patience).await,
            None => S::refuse(&request, ErrorCode::NotCoordinator),
        }
    }

    /// Has the shard of that partition answer.
    pub(super) async fn call_partition(
        &self,
        partition: i32,
        request: S::Request,
        patience: Duration,
    ) -> S::Response {
        let requests = {
            let shards = self.shards.lock();
            shards
                .hosted
                .get(&partition)
                .map(|hosted| hosted.requests.clone())
        };
        match requests {
            Some(requests) => ask(requests, request, Some(patience)).await,
            None => S::refuse(&request, ErrorCode::NotCoordinator),
        }
    }

    /// Has every shard answer, in the order of their partitions.
    pub(super) async fn call_all(&self, request: &S::Request, patience: Duration) -> Vec<S::Response> {
        let requests = |hosted: &Hosted<S>| hosted.requests.clone();
        let shards: Vec<_> = self.shards.lock().hosted.values().map(requests).collect();
        let asked = shards
            .into_iter()
            .map(|requests| ask(requests, request.clone(), Some(patience)));
        join_all(asked).await
    }

    /// What every shard shares with other threads.
    pub(super) fn shared(&self) -> Vec<Arc<ShardShared<S>>> {
        let shards = self.shards.lock();
        shards
            .hosted
            .values()
            .map(|hosted| hosted.shared.clone())
            .collect()
    }

    /// What metrics show of every shard, at most about a second old. Blocks for a moment while the shards come to it.
    pub(super) fn snapshots(&self) -> Vec<S::Snapshot> {
        let shards = self.shared();
        shards.iter().for_each(|shared| shared.want_snapshot());
        let until_ms = clock::mono_ms() + SNAPSHOT_PATIENCE_MS;
        shards.iter().map(|shared| shared.snapshot(until_ms)).collect()
    }

    /// The partition of the topic that holds a key; None while there is none.
    pub(super) fn partition_of(&self, key: &str) -> Option<i32> {
        let partitions = self.partitions.load(Ordering::Acquire);
        (partitions > 0).then(|| partition_for(key, partitions))
    }

    fn shard_of(&self, key: &str) -> Option<mpsc::Sender<ShardRequest<S>>> {
        let partition = self.partition_of(key)?;
        let shards = self.shards.lock();
        let hosted = shards.hosted.get(&partition)?;
        Some(hosted.requests.clone())
    }

    fn start(
        &self,
        replicas: &Arc<Replicas>,
        replica: &Arc<Replica>,
        leader_epoch: i32,
        new_shard: impl NewShard<S>,
    ) {
        let partition = replica.id.partition;
        let mut shards = self.shards.lock();
        let hosted = shards.hosted.get(&partition);
        if shards.stopped || hosted.is_some_and(|hosted| hosted.outlives_epoch_of(replica)) {
            return;
        }
        let (requests, queue) = mpsc::channel(SHARD_QUEUE_MAX);
        let shared = Arc::new(ShardShared::default());
        let turn = shards.turns.entry(partition).or_default().clone();
        let log = self
            .log
            .new(slog::o!("partition" => replica.id.to_string(), "leader_epoch" => leader_epoch));
        let shard = new_shard(leader_epoch, &shared, &log);
        let origin = ShardOrigin {
            replica: replica.clone(),
            leader_epoch,
            replicas: replicas.clone(),
            rules: self.rules.clone(),
            loads: self.loads.clone(),
            shared: shared.clone(),
            log,
        };
        let work = async move {
            let _turn = turn.lock().await;
            shard::run(origin, shard, queue).await;
        };
        self.runtime
            .spawn(vital::task("coordinator", self.log.clone(), work));
        let hosted = Hosted {
            requests,
            shared,
            replica: replica.clone(),
            leader_epoch,
        };
        shards.hosted.insert(partition, hosted);
    }

    fn end(&self, partition: i32) {
        self.shards.lock().hosted.remove(&partition);
    }
}

/// Asks one shard; with patience, no longer than that. It is asked before the answer is waited for.
fn ask<S: Shard>(
    requests: mpsc::Sender<ShardRequest<S>>,
    request: S::Request,
    patience: Option<Duration>,
) -> impl Future<Output = S::Response> {
    let copy = request.clone();
    let (answer, response) = oneshot::channel();
    let refused = match requests.try_send(ShardRequest { request, answer }) {
        Ok(()) => None,
        // No code that says that it loads: some requests are answered then as if all were well, and are not in the queue.
        Err(mpsc::error::TrySendError::Full(_)) => Some(ErrorCode::CoordinatorNotAvailable),
        Err(mpsc::error::TrySendError::Closed(_)) => Some(ErrorCode::NotCoordinator),
    };
    // The shard ends when its senders are gone: whoever waits must not be one of them.
    drop(requests);
    async move {
        match refused {
            Some(code) => S::refuse(&copy, code),
            None => await_answer::<S>(copy, response, patience).await,
        }
    }
}

async fn await_answer<S: Shard>(
    request: S::Request,
    response: oneshot::Receiver<S::Response>,
    patience: Option<Duration>,
) -> S::Response {
    let answered = match patience {
        None => response.await,
        Some(patience) => match tokio::time::timeout(patience, response).await {
            Ok(answered) => answered,
            Err(_) => return S::refuse(&request, ErrorCode::CoordinatorNotAvailable),
        },
    };
    answered.unwrap_or_else(|_| S::refuse(&request, ErrorCode::NotCoordinator))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::future::FutureExt;
    use odradek_broker_core::coordination::{AppendId, Effects, LogEntry, RequestToken};
    use odradek_common::time::Now;

    use super::*;

    /// Never runs; requests are numbers, answers are codes.
    struct NoShard;

    impl Shard for NoShard {
        type Request = u32;
        type Response = ErrorCode;
        type Event = ();
        type Snapshot = ();

        const OUTLIVES_EPOCHS: bool = false;

        fn refuse(_: &u32, code: ErrorCode) -> ErrorCode {
            code
        }

        fn changes_at_once(_: &u32) -> bool {
            unreachable!()
        }

        fn replay(&mut self, _: &LogEntry) {}

        fn restart_loading(&mut self) {}

        fn finish_loading(&mut self, _: Now) -> Effects<ErrorCode> {
            unreachable!()
        }

        fn handle(&mut self, _: Now, _: RequestToken, _: u32) -> Effects<ErrorCode> {
            unreachable!()
        }

        fn on_event(&mut self, _: Now, (): ()) -> Effects<ErrorCode> {
            unreachable!()
        }

        fn on_appended(&mut self, _: Now, _: AppendId, _: Result<(), ErrorCode>) -> Effects<ErrorCode> {
            unreachable!()
        }

        fn tick(&mut self, _: Now) -> Effects<ErrorCode> {
            unreachable!()
        }

        fn next_deadline(&self) -> Option<u64> {
            None
        }

        fn resign(&mut self) -> Effects<ErrorCode> {
            unreachable!()
        }

        fn snapshot(&self) {}
    }

    /// Heartbeats and SyncGroups have answers of their own for a shard that loads; a full one has not even seen them.
    #[tokio::test]
    async fn a_shard_with_a_full_queue_is_not_one_that_loads() {
        let (requests, _queue) = mpsc::channel(1);
        let first = ask::<NoShard>(requests.clone(), 1, None);
        let second = ask::<NoShard>(requests, 2, None);
        assert_eq!(second.await, ErrorCode::CoordinatorNotAvailable);
        assert!(first.now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_shard_is_asked_at_once_and_not_kept_by_whoever_waits() {
        let (requests, mut queue) = mpsc::channel(1);
        let mut answer = pin!(ask::<NoShard>(requests, 7, None));
        let request = queue.recv().await.unwrap();
        assert_eq!(request.request, 7);
        assert!(queue.recv().await.is_none(), "the last sender is gone");
        assert!(answer.as_mut().now_or_never().is_none());
        assert!(request.answer.send(ErrorCode::UnknownMemberId).is_ok());
        assert_eq!(answer.await, ErrorCode::UnknownMemberId);
    }
}
