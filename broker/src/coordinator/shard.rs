//! The task around one [`Shard`]: picks an input, lets the shard handle it, carries its effects out.
//!
//! Invariant: a decision is reported as stored when the high watermark has passed its records, and never before; a
//! decision that is in the log stays under way in the shard until then, even if whoever asked was told to try again.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use odradek_broker_core::coordination::{Append, AppendId, AppendKind, Effects, LogEntry, RequestToken};
use odradek_broker_log::append::LeaderBatch;
use odradek_common::error::ErrorCode;
use odradek_common::records::compression::Compression;
use odradek_common::time::Now;
use parking_lot::{Condvar, Mutex};
use slog::Logger;
use tokio::sync::{Notify, mpsc, oneshot};

use super::hosting::SHARD_QUEUE_MAX;
use super::load::{LoadError, Loaded, Loads, LogReader};
use super::write::{BatchRules, Packed, pack};
use crate::clock;
use crate::replica::{AppendRefusal, CommitWait, Replica};
use crate::replicas::{Replicas, error_chain};

/// Bytes of one shard that are in the log and not committed; beyond, requests wait in their queue.
const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;
/// A snapshot for metrics is taken at most this often, when somebody looks.
const SNAPSHOT_INTERVAL_MS: u64 = 1_000;

/// A log that could not be read is tried again after so long, and each time after twice as long, up to the greatest.
const LOAD_BACKOFF: Duration = Duration::from_millis(100);
const LOAD_BACKOFF_MAX: Duration = Duration::from_secs(10);

/// A coordinator's state machine for one partition of its topic, as its task drives it. Loaded by [`Shard::replay`] and
/// [`Shard::finish_loading`]; requests that come before are refused by it.
pub(super) trait Shard: Send + 'static {
    /// A request, with all that the state machine wants to know of who asks.
    type Request: Clone + Send + Sync + 'static;
    /// The answer.
    type Response: Send + 'static;
    /// What it is told beside requests.
    type Event: Send + 'static;
    /// What metrics show of it.
    type Snapshot: Clone + Default + Send + 'static;

    /// Whether it goes on while the same broker leads the partition in later epochs. Else it begins anew in each.
    const OUTLIVES_EPOCHS: bool;

    /// The answer that refuses a request.
    fn refuse(request: &Self::Request, code: ErrorCode) -> Self::Response;
    /// Whether the request may change what the snapshot shows without anything being appended.
    fn changes_at_once(request: &Self::Request) -> bool;
    /// Takes one committed entry of the log, in offset order.
    fn replay(&mut self, entry: &LogEntry);
    /// Forgets what was replayed: it is replayed from the beginning.
    fn restart_loading(&mut self);
    /// The log has been replayed up to the high watermark.
    fn finish_loading(&mut self, now: Now) -> Effects<Self::Response>;
    /// Handles one request; its answer comes in these or in later effects.
    fn handle(&mut self, now: Now, token: RequestToken, request: Self::Request) -> Effects<Self::Response>;
    /// Takes notice of an event.
    fn on_event(&mut self, now: Now, event: Self::Event) -> Effects<Self::Response>;
    /// Records that it handed out are committed, or never will be.
    fn on_appended(
        &mut self,
        now: Now,
        id: AppendId,
        result: Result<(), ErrorCode>,
    ) -> Effects<Self::Response>;
    /// Lets everything happen whose time has come. Called when nobody waits who asked before.
    fn tick(&mut self, now: Now) -> Effects<Self::Response>;
    /// When [`Shard::tick`] wants to be called, on the monotonic clock.
    fn next_deadline(&self) -> Option<u64>;
    /// Leadership is lost: whoever waits, and everybody who comes, is refused.
    fn resign(&mut self) -> Effects<Self::Response>;
    /// What metrics show.
    fn snapshot(&self) -> Self::Snapshot;
}

/// What every shard of a coordinator obeys.
#[derive(Clone, Debug)]
pub(super) struct ShardRules {
    /// Bytes of the log that are read at once.
    pub(super) load_buffer_bytes: usize,
    /// The codec of what is written.
    pub(super) compression: Compression,
}

/// A request and the way back.
pub(super) struct ShardRequest<S: Shard> {
    pub(super) request: S::Request,
    /// Its receiver may be gone: then nobody waits any more.
    pub(super) answer: oneshot::Sender<S::Response>,
}

/// What the task shares with other threads.
pub(super) struct ShardShared<S: Shard> {
    shown: Mutex<Shown<S::Snapshot>>,
    taken: Condvar,
    events: Mutex<Vec<S::Event>>,
    more_events: Notify,
}

impl<S: Shard> Default for ShardShared<S> {
    fn default() -> Self {
        Self {
            shown: Mutex::default(),
            taken: Condvar::new(),
            events: Mutex::default(),
            more_events: Notify::default(),
        }
    }
}

impl<S: Shard> ShardShared<S> {
    /// Tells the shard of an event; it takes notice when it comes to it. Events are not bounded here: each kind is bounded
    /// by what sets it off.
    pub(super) fn tell(&self, event: S::Event) {
        self.events.lock().push(event);
        self.more_events.notify_one();
    }

    /// Has the shard take a snapshot as soon as it comes to it, unless it has just taken one or coordinates nothing.
    pub(super) fn want_snapshot(&self) {
        let mut shown = self.shown.lock();
        let is_due = clock::mono_ms() >= shown.taken_ms + SNAPSHOT_INTERVAL_MS;
        if shown.is_served && is_due {
            shown.is_wanted = true;
            self.more_events.notify_one();
        }
    }

    /// What metrics show: as of the last [`Self::want_snapshot`] or about a second before. A shard that has not come to it
    /// by then is shown as it was. Blocks.
    pub(super) fn snapshot(&self, until_ms: u64) -> S::Snapshot {
        let mut shown = self.shown.lock();
        while shown.is_wanted {
            let left = Duration::from_millis(until_ms.saturating_sub(clock::mono_ms()));
            if self.taken.wait_for(&mut shown, left).timed_out() {
                break;
            }
        }
        shown.snapshot.clone()
    }

    /// Whether a snapshot was ever taken.
    #[cfg(test)]
    pub(super) fn was_looked_at(&self) -> bool {
        self.shown.lock().taken_ms > 0
    }
}

/// A shard as others see it.
#[derive(Default)]
struct Shown<T> {
    snapshot: T,
    taken_ms: u64,
    /// The shard's task takes snapshots.
    is_served: bool,
    /// Somebody waits for a newer one.
    is_wanted: bool,
}

/// What a shard's task begins with.
pub(super) struct ShardOrigin<S: Shard> {
    pub(super) replica: Arc<Replica>,
    /// In which it begins.
    pub(super) leader_epoch: i32,
    pub(super) replicas: Arc<Replicas>,
    pub(super) rules: ShardRules,
    pub(super) loads: Arc<Loads>,
    pub(super) shared: Arc<ShardShared<S>>,
    pub(super) log: Logger,
}

/// Coordinates one partition until the senders of `requests` are gone.
pub(super) async fn run<S: Shard>(
    origin: ShardOrigin<S>,
    shard: S,
    requests: mpsc::Receiver<ShardRequest<S>>,
) {
    let mut task = ShardTask {
        origin,
        shard,
        requests,
        next_token: 0,
        waiting: HashMap::new(),
        unwritten: Vec::new(),
        in_flight: FuturesUnordered::new(),
        in_flight_bytes: 0,
        has_changed: true,
    };
    if task.load_until_read().await == Next::Continue {
        task.serve().await;
    }
    task.resign();
}

/// Whether the task goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Continue,
    End,
}

/// Whether everything that waited has been handled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drained {
    Yes,
    No,
}

/// A batch whose outcome is known.
struct Written {
    ids: Vec<AppendId>,
    size_bytes: usize,
    result: Result<(), ErrorCode>,
}

type WrittenFuture = Pin<Box<dyn Future<Output = Written> + Send>>;

struct ShardTask<S: Shard> {
    origin: ShardOrigin<S>,
    shard: S,
    requests: mpsc::Receiver<ShardRequest<S>>,
    next_token: u64,
    waiting: HashMap<RequestToken, oneshot::Sender<S::Response>>,
    unwritten: Vec<Append>,
    in_flight: FuturesUnordered<WrittenFuture>,
    in_flight_bytes: usize,
    /// The snapshot is older than the state.
    has_changed: bool,
}

impl<S: Shard> ShardTask<S> {
    /// Replays the log as often as it takes. What is in the way may pass: a segment that is being healed, a process without
    /// file descriptors. Clients wait meanwhile, since nobody else coordinates the partition while this broker leads it.
    async fn load_until_read(&mut self) -> Next {
        let mut backoff = LOAD_BACKOFF;
        loop {
            let error = match self.load().await {
                Ok(next) => return next,
                Err(error) => error,
            };
            if self.is_over(&error) {
                self.resign();
                return self.answer_for(None).await;
            }
            if !is_fenced(&error) {
                slog::error!(self.origin.log, "coordinator's log not read, nothing of this partition is coordinated yet";
                    "error" => error_chain(&error), "next_attempt_ms" => backoff.as_millis());
            }
            self.shard.restart_loading();
            if self.answer_for(Some(backoff)).await == Next::End {
                return Next::End;
            }
            backoff = (backoff * 2).min(LOAD_BACKOFF_MAX);
        }
    }

    /// Replays the log; requests are answered meanwhile, by a shard that says that it is loading.
    async fn load(&mut self) -> Result<Next, LoadError> {
        let started_ms = clock::mono_ms();
        let leader_epoch = match self.outlives_epochs() {
            true => self.origin.replica.image().leader_epoch,
            false => self.origin.leader_epoch,
        };
        let reader = LogReader {
            replica: self.origin.replica.clone(),
            leader_epoch,
            buffer_bytes: self.origin.rules.load_buffer_bytes,
        };
        let mut parts = reader.start(self.origin.loads.clone());
        let mut records = 0;
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.handle(request),
                    None => return Ok(Next::End),
                },
                loaded = parts.recv() => match loaded {
                    Some(Loaded::Entries(part)) => {
                        records += part.len();
                        part.iter().for_each(|entry| self.shard.replay(entry));
                    }
                    Some(Loaded::Done) => break,
                    Some(Loaded::Failed(error)) => return Err(error),
                    None => return Err(LoadError::Refused(ErrorCode::UnknownServerError)),
                },
            }
        }
        let effects = self.shard.finish_loading(clock::now());
        self.perform(effects);
        let load_ms = clock::mono_ms() - started_ms;
        self.origin.loads.loaded(load_ms);
        slog::debug!(self.origin.log, "coordinator's log read"; "records" => records, "ms" => load_ms);
        Ok(Next::Continue)
    }

    /// True if the log will not be read before the partition is led anew, here or elsewhere.
    fn is_over(&self, error: &LoadError) -> bool {
        if is_fenced(error) {
            slog::debug!(
                self.origin.log,
                "leadership moved while the coordinator's log was read"
            );
            return !self.outlives_epochs();
        }
        let is_offline = self.origin.replica.is_offline();
        if is_offline {
            slog::error!(self.origin.log, "coordinator's log offline, nothing of this partition is coordinated";
                "error" => error_chain(error));
        }
        is_offline
    }

    /// True if later epochs are those of the leader that this shard began with.
    fn outlives_epochs(&self) -> bool {
        S::OUTLIVES_EPOCHS && self.origin.replica.has_led_since(self.origin.leader_epoch)
    }

    /// Answers requests as the shard does without its log, for so long, or until there are none any more.
    async fn answer_for(&mut self, time: Option<Duration>) -> Next {
        let until = sleep_until(time.map(|time| clock::mono_ms() + time.as_millis() as u64));
        tokio::pin!(until);
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.handle(request),
                    None => return Next::End,
                },
                () = &mut until => return Next::Continue,
            }
        }
    }

    async fn serve(&mut self) {
        self.origin.shared.shown.lock().is_served = true;
        self.take_events();
        loop {
            self.write();
            let has_room = self.in_flight_bytes < IN_FLIGHT_BYTES_MAX;
            let wake_up = self.wake_up(has_room);
            tokio::select! {
                request = self.requests.recv(), if has_room => match request {
                    Some(request) => self.handle_in_order(request),
                    None => return,
                },
                Some(written) = self.in_flight.next() => self.on_written(&written),
                () = self.origin.shared.more_events.notified() => {
                    self.take_events();
                    self.take_snapshot();
                }
                () = sleep_until(wake_up), if wake_up.is_some() => {}
            }
            if self.drain() == Drained::Yes {
                self.tick();
            }
        }
    }

    /// Takes what is there already, so that its records share a batch.
    fn drain(&mut self) -> Drained {
        while let Some(Some(written)) = self.in_flight.next().now_or_never() {
            self.on_written(&written);
        }
        for _ in 0..SHARD_QUEUE_MAX {
            if self.in_flight_bytes >= IN_FLIGHT_BYTES_MAX {
                return Drained::No;
            }
            match self.requests.try_recv() {
                Ok(request) => self.handle_in_order(request),
                Err(_) => return Drained::Yes,
            }
        }
        // As many as the queue holds: whoever waits now has come meanwhile.
        Drained::Yes
    }

    /// Handles a request after all events that were there before: one may tell of what the request builds upon, as a topic that
    /// was deleted and is there again.
    fn handle_in_order(&mut self, request: ShardRequest<S>) {
        self.take_events();
        self.handle(request);
    }

    fn handle(&mut self, request: ShardRequest<S>) {
        let ShardRequest { request, answer } = request;
        let token = RequestToken(self.next_token);
        self.next_token += 1;
        self.waiting.insert(token, answer);
        if S::changes_at_once(&request) {
            self.has_changed = true;
        }
        let effects = self.shard.handle(clock::now(), token, request);
        self.perform(effects);
    }

    /// As in Kafka deadlines queue up behind requests: a member whose heartbeat waits here has not been silent.
    fn tick(&mut self) {
        let now = clock::now();
        let deadline_ms = self.shard.next_deadline();
        if deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now.mono_ms) {
            self.has_changed = true;
            let effects = self.shard.tick(now);
            self.perform(effects);
        }
    }

    fn take_events(&mut self) {
        let events = std::mem::take(&mut *self.origin.shared.events.lock());
        for event in events {
            let effects = self.shard.on_event(clock::now(), event);
            self.perform(effects);
        }
    }

    fn on_written(&mut self, written: &Written) {
        self.in_flight_bytes -= written.size_bytes;
        if written.result.is_err_and(|code| self.is_final(code)) {
            self.resign();
            return;
        }
        self.report(&written.ids, written.result);
    }

    fn report(&mut self, ids: &[AppendId], result: Result<(), ErrorCode>) {
        self.has_changed = true;
        for id in ids {
            let effects = self.shard.on_appended(clock::now(), *id, result);
            self.perform(effects);
        }
    }

    fn perform(&mut self, effects: Effects<S::Response>) {
        self.unwritten.extend(effects.appends);
        for (token, response) in effects.replies {
            let answer = self
                .waiting
                .remove(&token)
                .expect("each request is answered once");
            // Whoever asked may have gone.
            _ = answer.send(response);
        }
    }

    /// Appends what was decided since the last call.
    fn write(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        let rules = BatchRules {
            size_bytes_max: usize::try_from(self.origin.replica.config().max_message_bytes)
                .unwrap_or(usize::MAX),
            compression: self.origin.rules.compression,
            timestamp_ms: clock::now().wall_ms,
        };
        for packed in pack(&std::mem::take(&mut self.unwritten), rules) {
            match packed {
                Packed::TooLarge(id) => {
                    slog::warn!(self.origin.log, "the records of a decision do not fit into a batch";
                        "max.message.bytes" => rules.size_bytes_max);
                    self.report(&[id], Err(ErrorCode::RecordListTooLarge));
                }
                Packed::Batch {
                    ids,
                    records,
                    kind,
                    bytes,
                } => match self.append(&bytes, kind) {
                    Ok(committed) => {
                        self.origin.replica.traffic.appended(records, bytes.len());
                        self.await_commit(ids, bytes.len(), committed);
                    }
                    Err(code) if self.is_final(code) => return self.resign(),
                    Err(code) => self.report(&ids, Err(code)),
                },
            }
        }
    }

    fn append(&self, batch: &[u8], kind: AppendKind) -> Result<Option<CommitWait>, ErrorCode> {
        let replica = &self.origin.replica;
        let failed = |refusal: AppendRefusal| match refusal {
            AppendRefusal::Api(error) => error.code,
            AppendRefusal::Log(error) => {
                self.origin.replicas.log_failed(replica, &error);
                ErrorCode::KafkaStorageError
            }
        };
        let batch = LeaderBatch::whole(batch)
            .map_err(|error| failed(error.into()))?
            .of_coordinator();
        let mut batches = [match kind {
            AppendKind::Plain => batch,
            AppendKind::Transactional(writer) => batch.verified(writer.verification),
            AppendKind::EndOfTransaction(end) => batch.of_transaction_version(end.transaction_version),
        }];
        let mut waits = Vec::with_capacity(1);
        let appended = replica
            .append(clock::now(), &mut batches, Some(&mut waits))
            .map_err(failed)?;
        // Elected once more meanwhile: the successor of this task reads the batch and answers for it.
        if appended.leader_epoch != self.origin.leader_epoch && !self.outlives_epochs() {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        if let Some(error) = appended.failed {
            return Err(failed(AppendRefusal::Log(error)));
        }
        if let Some(Err(error)) = batches[0].take_outcome() {
            return Err(failed(error.into()));
        }
        Ok(waits.pop().flatten())
    }

    fn await_commit(&mut self, ids: Vec<AppendId>, size_bytes: usize, committed: Option<CommitWait>) {
        self.in_flight_bytes += size_bytes;
        self.in_flight.push(Box::pin(async move {
            let outcome = match committed {
                Some(committed) => committed.await,
                None => Ok(Ok(())),
            };
            let result = match outcome {
                // The high watermark has passed the records: every later leader has them.
                Ok(Ok(()) | Err(ErrorCode::NotEnoughReplicasAfterAppend)) => Ok(()),
                Ok(Err(code)) => Err(code),
                Err(_) => Err(ErrorCode::NotLeaderOrFollower),
            };
            Written {
                ids,
                size_bytes,
                result,
            }
        }));
    }

    /// True if nothing can be appended any more until the partition is led anew.
    fn is_final(&self, code: ErrorCode) -> bool {
        match code {
            ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch => true,
            _ => self.origin.replica.is_offline(),
        }
    }

    /// Answers whoever waits, and everybody who comes, NOT_COORDINATOR.
    fn resign(&mut self) {
        self.unwritten.clear();
        let effects = self.shard.resign();
        self.perform(effects);
        *self.origin.shared.shown.lock() = Shown::default();
        self.origin.shared.taken.notify_all();
    }

    /// Shows the shard as it is now, if somebody waits for that.
    fn take_snapshot(&mut self) {
        let shared = &self.origin.shared;
        if !shared.shown.lock().is_wanted {
            return;
        }
        let snapshot = self.has_changed.then(|| self.shard.snapshot());
        self.has_changed = false;
        let mut shown = shared.shown.lock();
        if let Some(snapshot) = snapshot {
            shown.snapshot = snapshot;
        }
        shown.taken_ms = clock::mono_ms();
        shown.is_wanted = false;
        shared.taken.notify_all();
    }

    /// When to go on even if nothing arrives. Without room for requests their deadlines wait with them.
    fn wake_up(&self, has_room: bool) -> Option<u64> {
        if !self.unwritten.is_empty() {
            return Some(0);
        }
        self.shard.next_deadline().filter(|_| has_room)
    }
}

/// True if the epoch that the log was to be read in is over.
fn is_fenced(error: &LoadError) -> bool {
    match error {
        LoadError::Refused(code) => matches!(
            code,
            ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch | ErrorCode::UnknownLeaderEpoch
        ),
        LoadError::Io(_) | LoadError::Batch { .. } | LoadError::Misplaced { .. } => false,
    }
}

/// Sleeps until that moment of the monotonic clock; for ever if there is none.
async fn sleep_until(mono_ms: Option<u64>) {
    match mono_ms {
        Some(mono_ms) => {
            tokio::time::sleep(Duration::from_millis(mono_ms.saturating_sub(clock::mono_ms()))).await
        }
        None => std::future::pending().await,
    }
}
