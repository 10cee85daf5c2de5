//! ISR changes on their way to the controller: proposed by replicas, sent in batches, one request at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use kafka_protocol::messages::{AlterPartitionRequest, AlterPartitionResponse, BrokerId};
use odradek_broker_core::partition::IsrProposal;
use odradek_common::error::ErrorCode;
use odradek_common::ids::{NodeId, TopicPartition};
use odradek_common::metadata::MetadataImage;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::broker::Broker;
use crate::clock;
use crate::replica::Replica;

/// AlterPartition with broker epochs (KIP-903) and topic ids.
const ALTER_PARTITION_VERSION: i16 = 3;
/// Time for one request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before proposals whose outcome is open are sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Replicas whose ISR may change.
#[derive(Default)]
pub struct IsrUpdates {
    candidates: Mutex<BTreeMap<TopicPartition, Arc<Replica>>>,
    wake: Notify,
}

impl IsrUpdates {
    /// A follower of this replica caught up.
    pub fn expand(&self, replica: &Arc<Replica>) {
        self.candidates.lock().insert(replica.id.clone(), replica.clone());
        self.wake.notify_one();
    }

    /// Looks for laggards and sends what replicas propose, for ever.
    pub async fn run(self: Arc<Self>, broker: Arc<Broker>) {
        let mut shrinks_due = Instant::now();
        loop {
            let lag_max = u64::try_from(broker.config.load().replica.lag_time_max_ms).unwrap_or(0);
            let pause = Duration::from_millis((lag_max / 2).max(1));
            // Expansions wake this as often as followers fetch, and must not keep shrinks from their time.
            _ = tokio::time::timeout_at(shrinks_due, self.wake.notified()).await;
            let mut proposals = self.expansions(&broker);
            if Instant::now() >= shrinks_due {
                proposals.extend(shrinks(&broker));
                shrinks_due = Instant::now() + pause;
            }
            while !proposals.is_empty() {
                proposals = send(&broker, proposals).await;
            }
        }
    }

    fn expansions(&self, broker: &Broker) -> Vec<(Arc<Replica>, IsrProposal)> {
        let candidates = std::mem::take(&mut *self.candidates.lock());
        let image = broker.image();
        let eligible = |replica, epoch, directory| may_join(&image, replica, epoch, directory);
        let propose = |replica: Arc<Replica>| {
            let proposal = replica.propose_expansion(eligible)?;
            Some((replica, proposal))
        };
        candidates.into_values().filter_map(propose).collect()
    }
}

/// Whether the controller would let a replica of that broker join, as far as the metadata here tells.
fn may_join(image: &MetadataImage, replica: NodeId, broker_epoch: i64, directory: Uuid) -> bool {
    image.brokers.get(&replica).is_some_and(|broker| {
        !broker.fenced
            && !broker.in_controlled_shutdown
            && (broker_epoch < 0 || broker.broker_epoch == broker_epoch)
            && broker.has_online(directory)
    })
}

fn shrinks(broker: &Broker) -> Vec<(Arc<Replica>, IsrProposal)> {
    let now = clock::now();
    let propose = |replica: &Arc<Replica>| {
        let proposal = replica.propose_shrink(now)?;
        Some((replica.clone(), proposal))
    };
    broker.replicas.all().iter().filter_map(propose).collect()
}

/// Sends the proposals; gives back those whose outcome is open.
async fn send(
    broker: &Arc<Broker>,
    proposals: Vec<(Arc<Replica>, IsrProposal)>,
) -> Vec<(Arc<Replica>, IsrProposal)> {
    let request = request(broker, &proposals);
    let response = match broker
        .controller
        .send(ALTER_PARTITION_VERSION, &request, TIMEOUT)
        .await
    {
        Ok(response) if response.error_code == 0 => response,
        Ok(response) => {
            slog::warn!(broker.log, "ISR change not recorded"; "error" => response.error_code);
            tokio::time::sleep(RETRY_PAUSE).await;
            return still_pending(proposals);
        }
        Err(error) => {
            slog::warn!(broker.log, "ISR change not recorded"; "error" => %error);
            tokio::time::sleep(RETRY_PAUSE).await;
            return still_pending(proposals);
        }
    };
    let outcomes = outcomes(&response);
    let mut open = Vec::new();
    for (replica, proposal) in proposals {
        let Some(code) = outcomes.get(&(replica.topic_id, replica.id.partition)) else {
            continue;
        };
        if note(broker, &replica, &proposal, *code) == Outcome::Open {
            open.push((replica, proposal));
        }
    }
    if !open.is_empty() {
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    still_pending(open)
}

/// What an answer says of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is recorded, or overtaken: it counts until the image that is on its way decides. Any refusal but those below may
    /// answer the repetition of a request that was recorded, and members that were recorded must go on being waited for.
    UpToTheImage,
    /// The epochs were current, so that no controller has recorded it: the committed ISR stands.
    Refused,
    /// Whoever answered does not decide: it is to be sent again.
    Open,
}

impl Outcome {
    fn of(code: i16) -> Self {
        match ErrorCode::try_from_code(code) {
            Some(ErrorCode::IneligibleReplica | ErrorCode::InvalidRequest) => Self::Refused,
            Some(ErrorCode::NotController) => Self::Open,
            Some(_) | None => Self::UpToTheImage,
        }
    }
}

fn note(broker: &Broker, replica: &Replica, proposal: &IsrProposal, code: i16) -> Outcome {
    let outcome = Outcome::of(code);
    let isr: Vec<i32> = proposal.isr.iter().map(|member| member.0).collect();
    if code == 0 {
        slog::info!(broker.log, "ISR changed"; "partition" => %replica.id, "isr" => ?isr);
        return outcome;
    }
    slog::info!(broker.log, "ISR change refused"; "partition" => %replica.id, "isr" => ?isr, "error" => code);
    if outcome == Outcome::Refused {
        replica.with(|p| p.proposal_refused(clock::now(), proposal.partition_epoch));
    }
    outcome
}

fn still_pending(proposals: Vec<(Arc<Replica>, IsrProposal)>) -> Vec<(Arc<Replica>, IsrProposal)> {
    let again = |(replica, _): (Arc<Replica>, IsrProposal)| {
        let proposal = replica.with(|p| p.pending_proposal())?;
        (!replica.is_offline()).then_some((replica, proposal))
    };
    proposals.into_iter().filter_map(again).collect()
}

fn request(broker: &Broker, proposals: &[(Arc<Replica>, IsrProposal)]) -> AlterPartitionRequest {
    let mut topics: BTreeMap<Uuid, Vec<PartitionData>> = BTreeMap::new();
    for (replica, proposal) in proposals {
        let isr = proposal.isr.iter().map(|(id, epoch)| {
            let own = *id == broker.node_id;
            BrokerState::default()
                .with_broker_id(BrokerId(*id))
                .with_broker_epoch(if own { broker.epoch() } else { *epoch })
        });
        let partition = PartitionData::default()
            .with_partition_index(replica.id.partition)
            .with_leader_epoch(proposal.leader_epoch)
            .with_partition_epoch(proposal.partition_epoch)
            .with_new_isr_with_epochs(isr.collect());
        topics.entry(replica.topic_id).or_default().push(partition);
    }
    let topics = topics
        .into_iter()
        .map(|(id, partitions)| TopicData::default().with_topic_id(id).with_partitions(partitions));
    AlterPartitionRequest::default()
        .with_broker_id(BrokerId(broker.node_id))
        .with_broker_epoch(broker.epoch())
        .with_topics(topics.collect())
}

fn outcomes(response: &AlterPartitionResponse) -> BTreeMap<(Uuid, i32), i16> {
    let topics = response.topics.iter();
    topics
        .flat_map(|topic| {
            topic
                .partitions
                .iter()
                .map(|p| ((topic.topic_id, p.partition_index), p.error_code))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use odradek_common::ids::LOST_DIRECTORY;
    use odradek_common::metadata::BrokerImage;

    use super::*;

    #[test]
    fn a_replica_joins_with_its_broker_s_epoch_and_a_directory_that_works() {
        let directory = Uuid::from_u128(100);
        let broker = BrokerImage {
            broker_id: 2,
            broker_epoch: 7,
            incarnation_id: Uuid::nil(),
            endpoints: Vec::new(),
            features: Vec::new(),
            rack: None,
            fenced: false,
            in_controlled_shutdown: false,
            log_dirs: vec![directory],
        };
        let mut image = MetadataImage::default();
        image.brokers.insert(2, Arc::new(broker));
        let may = |epoch, directory| may_join(&image, 2, epoch, directory);
        assert!(may(7, directory) && may(-1, directory) && may(7, Uuid::nil()));
        assert!(!may(6, directory) && !may(7, Uuid::from_u128(101)) && !may(7, LOST_DIRECTORY));
        assert!(!may_join(&image, 3, -1, directory));
    }

    #[test]
    fn only_a_refusal_under_current_epochs_takes_a_proposal_back() {
        let of = |code: ErrorCode| Outcome::of(code.code());
        assert_eq!(of(ErrorCode::IneligibleReplica), Outcome::Refused);
        // The first copy was recorded and its answer lost: the member is in the ISR, whatever the second copy is told.
        assert_eq!(of(ErrorCode::InvalidUpdateVersion), Outcome::UpToTheImage);
        assert_eq!(of(ErrorCode::FencedLeaderEpoch), Outcome::UpToTheImage);
        assert_eq!(of(ErrorCode::NotController), Outcome::Open);
        assert_eq!(Outcome::of(0), Outcome::UpToTheImage);
    }
}
