//! Fetching a damaged segment anew from another replica, as a consumer would: followers answer as well as leaders.
//!
//! No more is fetched in a second than is checked in one. A stop, a log that was cut or closed, and a move elsewhere end it after
//! the request that is under way.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use odradek_broker_log::compact::Go;
use odradek_broker_log::error::{AppendError, LogError};
use odradek_broker_log::repair::SegmentRepair;
use odradek_common::ids::NodeId;
use odradek_net::client::{ClientError, ClientSettings};
use odradek_net::exchange::Exchange;
use odradek_net::pool::join_address;

use super::{Attempt, Rounds};
use crate::broker::Broker;
use crate::clock;
use crate::connection_limits::connect_timeout;
use crate::replica::Replica;
use crate::replicas::error_chain;

#[cfg(test)]
mod tests;

/// Fetch with topic ids.
const FETCH_VERSION: i16 = 17;
/// Bytes of one answer; a larger batch comes whole.
const FETCH_BYTES: i32 = 4 << 20;
/// How long an answer may wait for records: a follower hears of what was committed last with its next fetch.
const FETCH_WAIT_MS: i32 = 1_000;

/// Why a segment was not replaced.
#[derive(Debug, thiserror::Error)]
enum HealingError {
    #[error("the broker cannot be reached, or does not answer")]
    Unreachable(#[from] ClientError),
    #[error("the broker answers error {0}")]
    Refused(i16),
    #[error("the broker has nothing at offset {0} that consumers may read")]
    Nothing(i64),
    #[error("what the broker sent does not fit: {0}")]
    Unfit(String),
    #[error("the log has changed meanwhile, or moves")]
    Overtaken,
    #[error("this broker stops, or the log is offline")]
    Stopped,
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<AppendError> for HealingError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Log(error) => Self::Log(error),
            error @ (AppendError::Refused(_) | AppendError::Corrupt(_) | AppendError::OutOfOrder { .. }) => {
                Self::Unfit(error.to_string())
            }
        }
    }
}

impl Rounds {
    /// Replaces the first damaged segment of a replica by what the first replica has of it that can be asked.
    pub(super) async fn heal(&self, replica: &Arc<Replica>) -> Attempt {
        let broker = &self.broker;
        let mut attempt = Attempt::NotMade;
        if replica.is_moving() || !replica.with(|p| p.log().can_repair()) {
            return attempt;
        }
        for peer in peers(broker, replica) {
            match self.heal_from(replica, peer).await {
                Ok(offsets) => {
                    slog::warn!(broker.log, "a damaged segment was replaced by what another replica has";
                        "partition" => %replica.id, "replica" => peer,
                        "from_offset" => offsets.start, "to_offset" => offsets.end);
                    return Attempt::Healed;
                }
                Err(HealingError::Stopped) => return Attempt::NotMade,
                Err(HealingError::Log(error)) => {
                    broker.replicas.log_failed(replica, &error);
                    return Attempt::Failed;
                }
                Err(error) => {
                    attempt = Attempt::Failed;
                    slog::info!(broker.log, "a damaged segment was not replaced"; "partition" => %replica.id,
                        "replica" => peer, "reason" => error_chain(&error));
                }
            }
        }
        attempt
    }

    async fn heal_from(&self, replica: &Replica, peer: NodeId) -> Result<Range<i64>, HealingError> {
        let mut exchange = connect(&self.broker, peer).await?;
        self.replace(replica, async |offset| {
            fetch(&mut exchange, replica, offset).await
        })
        .await
    }

    /// Replaces the first damaged segment by what `fetch` finds from each offset on; returns which offsets that were.
    async fn replace(
        &self,
        replica: &Replica,
        fetch: impl AsyncFnMut(i64) -> Result<Fetched, HealingError>,
    ) -> Result<Range<i64>, HealingError> {
        let begun = replica.with(|p| {
            // Looked at under the lock, under which a move begins: the copy must not get a part from before, and one from after.
            if replica.is_moving() {
                return Ok(None);
            }
            p.log_mut().begin_repair(clock::now())
        });
        let Some(mut repair) = begun? else {
            return Err(HealingError::Overtaken);
        };
        match self.fetch_all(replica, &mut repair, fetch).await {
            // Its files went with the log.
            Err(HealingError::Log(_)) if repair.is_overtaken() => return Err(HealingError::Overtaken),
            fetched => fetched?,
        }
        let offsets = repair.offsets();
        if !replica.with(|p| p.log_mut().replace_segments(repair.into_segments()))? {
            return Err(HealingError::Overtaken);
        }
        if replica.with(|p| p.log().damaged_segments()) == 0 {
            self.broker.cleaning.retry(replica);
        }
        Ok(offsets)
    }

    async fn fetch_all(
        &self,
        replica: &Replica,
        repair: &mut SegmentRepair,
        mut fetch: impl AsyncFnMut(i64) -> Result<Fetched, HealingError>,
    ) -> Result<(), HealingError> {
        while let Some(offset) = repair.next_offset() {
            let Fetched {
                records,
                high_watermark,
            } = fetch(offset).await?;
            if repair.is_overtaken() {
                return Err(HealingError::Overtaken);
            }
            repair.append(clock::now(), &records)?;
            if records.is_empty() {
                repair.skip_to(high_watermark);
            }
            if repair.next_offset() == Some(offset) {
                return Err(HealingError::Nothing(offset));
            }
            if self.pay(replica, records.len() as u64) == Go::Stop {
                return Err(HealingError::Stopped);
            }
        }
        repair.finish(clock::now())?;
        Ok(())
    }
}

/// What another replica has answered.
struct Fetched {
    records: Bytes,
    /// Without records, there is nothing between the offset that was asked for and this one.
    high_watermark: i64,
}

/// The other replicas that are alive, members of the ISR first.
fn peers(broker: &Broker, replica: &Replica) -> Vec<NodeId> {
    let (image, partition) = (broker.image(), replica.image());
    let others = partition.replicas.iter().copied();
    let mut peers: Vec<NodeId> = others
        .filter(|id| *id != broker.node_id && image.is_alive(*id))
        .collect();
    peers.sort_by_key(|id| !partition.isr.contains(id));
    peers
}

async fn connect(broker: &Broker, peer: NodeId) -> Result<Exchange, HealingError> {
    let config = broker.config.load_full();
    let image = broker.image();
    let listener = &config.listeners.inter_broker_listener_name;
    let endpoint = image
        .brokers
        .get(&peer)
        .and_then(|broker| broker.endpoint(listener));
    let address = endpoint
        .map(|endpoint| join_address(&endpoint.host, endpoint.port))
        .unwrap_or_default();
    let settings = ClientSettings {
        client_id: format!("broker-{}-scrubber", broker.node_id),
        request_timeout: Duration::from_millis(u64::try_from(config.replica.socket_timeout_ms).unwrap_or(0)),
        connect_timeout: connect_timeout(&config),
        ..ClientSettings::default()
    };
    Ok(Exchange::connect(&address, settings).await?)
}

/// What another replica has from this offset on.
async fn fetch(exchange: &mut Exchange, replica: &Replica, offset: i64) -> Result<Fetched, HealingError> {
    let partition = FetchPartition::default()
        .with_partition(replica.id.partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(FETCH_BYTES);
    let topic = FetchTopic::default()
        .with_topic_id(replica.topic_id)
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_wait_ms(FETCH_WAIT_MS)
        .with_min_bytes(1)
        .with_max_bytes(FETCH_BYTES)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let response = exchange.send(FETCH_VERSION, &request).await?;
    if response.error_code != 0 {
        return Err(HealingError::Refused(response.error_code));
    }
    let mut topics = response.responses.into_iter();
    let Some(found) = topics
        .next()
        .and_then(|topic| topic.partitions.into_iter().next())
    else {
        return Err(HealingError::Nothing(offset));
    };
    if found.error_code != 0 {
        return Err(HealingError::Refused(found.error_code));
    }
    Ok(Fetched {
        records: found.records.unwrap_or_default(),
        high_watermark: found.high_watermark,
    })
}
