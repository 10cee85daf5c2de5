//! `odradek consume`: a console consumer. Records of one topic become lines of standard output.
//!
//! Reads partitions by itself, without a group: it commits nothing and shares with nobody. Survives leaders that move.

mod format;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use odradek_common::error::ErrorCode;
use odradek_common::records::record::{decoded_section, records};
use odradek_common::records::{batch, control};
use odradek_net::client::Client;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::waiting::Attempts;
use crate::client::{ClusterClient, Connection, EARLIEST, LATEST, retry_within, send_at_most, topic_name};
use crate::error::{CommandError, Outcome, check};
use format::LineFormat;

/// The last version of Fetch that names topics by name.
const BY_NAME_UNTIL: i16 = 12;
const FETCH_WAIT_MS: i32 = 500;
const FETCH_BYTES_MAX: i32 = 50 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;
const BATCH_BYTES_MAX: usize = 128 << 20;
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Flags of `odradek consume`.
#[derive(Debug, Args)]
pub struct ConsumeArguments {
    #[command(flatten)]
    connection: Connection,
    /// The topic.
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// Starts at the first record; otherwise at those that come.
    #[arg(long)]
    from_beginning: bool,
    /// Reads only this partition.
    #[arg(long, value_name = "PARTITION")]
    partition: Option<i32>,
    /// Starts at this offset: a number, earliest or latest. Without such an offset in the partition it is as with latest.
    #[arg(
        long,
        value_name = "OFFSET",
        value_parser = start,
        requires = "partition",
        conflicts_with = "from_beginning"
    )]
    offset: Option<Start>,
    /// Ends after so many records.
    #[arg(long, value_name = "COUNT")]
    max_messages: Option<u64>,
    /// Ends when no record comes for so long; without it a topic that does not exist is waited for a while.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// What a line shows: print.timestamp, print.partition, print.offset, print.key, print.headers, print.value = true
    /// or false; key.separator, line.separator, null.literal = text.
    #[arg(long = "property", visible_alias = "formatter-property", value_name = "KEY=VALUE", value_parser = format::property)]
    property: Vec<(String, String)>,
    /// read_committed leaves out records of aborted transactions and those that are not decided.
    #[arg(long, value_name = "LEVEL", default_value = "read_uncommitted", value_parser = ["read_committed", "read_uncommitted"])]
    isolation_level: String,
}

/// Where to start in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Earliest,
    Latest,
    At(i64),
}

fn start(text: &str) -> Result<Start, String> {
    match text.to_ascii_lowercase().as_str() {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        number => {
            let offset = number.parse::<i64>().ok().filter(|offset| *offset >= 0);
            let offset = offset.ok_or("earliest, latest or a number that is not negative is expected")?;
            Ok(Start::At(offset))
        }
    }
}

/// Carries out `odradek consume`.
pub async fn run(arguments: ConsumeArguments) -> Outcome {
    let client = ClusterClient::new(&arguments.connection)?;
    let limit = arguments.timeout_ms.map(Duration::from_millis);
    let mut consumer = Consumer {
        format: LineFormat::new(&arguments.property)?,
        positions: start_positions(&client, &arguments, limit.unwrap_or(client.timeout())).await?,
        topic: arguments.topic,
        reset_to_earliest: arguments.from_beginning,
        committed_only: arguments.isolation_level == "read_committed",
        left: arguments.max_messages,
        read: 0,
    };
    let interrupted = tokio::signal::ctrl_c();
    let result = tokio::select! {
        result = consumer.consume(&client, limit) => result,
        _ = interrupted => Ok(()),
    };
    eprintln!("Processed a total of {} messages", consumer.read);
    result
}

/// Where to start in each partition; asks for so long while the topic does not exist or has no leader.
async fn start_positions(
    client: &ClusterClient,
    arguments: &ConsumeArguments,
    patience: Duration,
) -> Outcome<BTreeMap<i32, i64>> {
    let begin = Instant::now();
    let partitions = partitions(client, arguments, patience).await?;
    let timestamp = match arguments.offset {
        Some(Start::Earliest) => EARLIEST,
        Some(Start::Latest) => LATEST,
        Some(Start::At(offset)) => {
            let at = |(_, partition)| (partition, offset);
            return Ok(partitions.into_iter().map(at).collect());
        }
        None if arguments.from_beginning => EARLIEST,
        None => LATEST,
    };
    let all_there = retry_within(patience.saturating_sub(begin.elapsed()), async || {
        let offsets = client.offsets(&partitions, timestamp).await?;
        if offsets.len() < partitions.len() {
            check(
                ErrorCode::LeaderNotAvailable.code(),
                Some("a partition has no leader now"),
            )?;
        }
        Ok(offsets)
    });
    Ok(all_there
        .await?
        .into_iter()
        .map(|((_, partition), offset)| (partition, offset))
        .collect())
}

/// The partitions to read.
async fn partitions(
    client: &ClusterClient,
    arguments: &ConsumeArguments,
    patience: Duration,
) -> Outcome<Vec<(String, i32)>> {
    let topic = &arguments.topic;
    let view = retry_within(patience, async || {
        let view = client.view(Some(&[topic.as_str()])).await?;
        view.topic(topic)?;
        Ok(view)
    })
    .await?;
    let all = view.topic(topic)?.partitions.iter();
    let wanted = all
        .map(|partition| partition.partition_index)
        .filter(|partition| arguments.partition.is_none_or(|wanted| wanted == *partition));
    let partitions: Vec<(String, i32)> = wanted.map(|partition| (topic.clone(), partition)).collect();
    if partitions.is_empty() {
        return Err(CommandError::refused(format!(
            "topic {topic} has no such partition"
        )));
    }
    Ok(partitions)
}

struct Consumer {
    topic: String,
    format: LineFormat,
    committed_only: bool,
    /// Where to go on when a position is out of range: at the first record, else at those that come.
    reset_to_earliest: bool,
    /// The next offset of each partition.
    positions: BTreeMap<i32, i64>,
    left: Option<u64>,
    read: u64,
}

type Fetched = (String, Outcome<FetchResponse>);

impl Consumer {
    async fn consume(&mut self, client: &ClusterClient, limit: Option<Duration>) -> Outcome {
        let mut last_record = Instant::now();
        let mut lookups = Attempts::endless();
        loop {
            match self.leaders(client).await {
                Ok(mut leaders) if !leaders.is_empty() => {
                    lookups = Attempts::endless();
                    let before = self.read;
                    let moved = self
                        .fetch_until_moved(client, &mut leaders, &mut last_record, limit)
                        .await?;
                    if !moved {
                        return Ok(());
                    }
                    if self.read == before {
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
                // Without a limit there is always another attempt.
                Ok(_) => _ = lookups.pause("no partition to read has a leader now").await,
                Err(error) => _ = lookups.pause(&error.to_string()).await,
            }
            if limit.is_some_and(|limit| last_record.elapsed() >= limit) {
                return Ok(());
            }
        }
    }

    /// The partitions to read, by the address of their leader.
    async fn leaders(&self, client: &ClusterClient) -> Outcome<BTreeMap<String, Vec<i32>>> {
        let view = client.view(Some(&[&self.topic])).await?;
        let mut leaders: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for partition in self.positions.keys() {
            let leader = view
                .leader(&self.topic, *partition)
                .and_then(|leader| view.brokers.get(&leader));
            if let Some(address) = leader {
                leaders.entry(address.clone()).or_default().push(*partition);
            }
        }
        Ok(leaders)
    }

    /// Keeps one fetch under way at each leader. True when leaders have to be looked up again, false at the end.
    async fn fetch_until_moved(
        &mut self,
        client: &ClusterClient,
        leaders: &mut BTreeMap<String, Vec<i32>>,
        last_record: &mut Instant,
        limit: Option<Duration>,
    ) -> Outcome<bool> {
        let mut fetches: JoinSet<Fetched> = JoinSet::new();
        for (address, partitions) in leaders.iter() {
            self.fetch(client, &mut fetches, address, partitions).await?;
        }
        while let Some(fetched) = fetches.join_next().await {
            let Ok((address, response)) = fetched else {
                return Ok(true);
            };
            let Ok(response) = response else { return Ok(true) };
            let before = self.read;
            let moved = self.take(client, response).await?;
            if self.read > before {
                *last_record = Instant::now();
            }
            if self.left == Some(0) || limit.is_some_and(|limit| last_record.elapsed() >= limit) {
                return Ok(false);
            }
            if moved {
                return Ok(true);
            }
            if let Some(partitions) = leaders.get_mut(&address) {
                // Whoever was first is last now, so that nobody starves behind a large partition.
                partitions.rotate_left(1);
                let partitions = partitions.clone();
                self.fetch(client, &mut fetches, &address, &partitions).await?;
            }
        }
        Ok(true)
    }

    async fn fetch(
        &self,
        client: &ClusterClient,
        fetches: &mut JoinSet<Fetched>,
        address: &str,
        partitions: &[i32],
    ) -> Outcome {
        let partition = |partition: &i32| {
            FetchPartition::default()
                .with_partition(*partition)
                .with_fetch_offset(self.positions[partition])
                .with_partition_max_bytes(PARTITION_BYTES_MAX)
        };
        let topic = FetchTopic::default()
            .with_topic(topic_name(&self.topic))
            .with_partitions(partitions.iter().map(partition).collect());
        let request = FetchRequest::default()
            .with_replica_id((-1).into())
            .with_max_wait_ms(FETCH_WAIT_MS)
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES_MAX)
            .with_isolation_level(i8::from(self.committed_only))
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let address = address.to_owned();
        let leader: Result<Arc<Client>, CommandError> = client.at(&address).await;
        fetches.spawn(async move {
            let response = match leader {
                Ok(leader) => send_at_most(&leader, BY_NAME_UNTIL, request).await,
                Err(error) => Err(error),
            };
            (address, response)
        });
        Ok(())
    }

    /// Prints what came; true when a leader has moved.
    async fn take(&mut self, client: &ClusterClient, response: FetchResponse) -> Outcome<bool> {
        check(response.error_code, None)?;
        let mut moved = false;
        let mut out = std::io::stdout().lock();
        for partition in response.responses.iter().flat_map(|topic| &topic.partitions) {
            match check(partition.error_code, None) {
                Ok(()) => self.print(&mut out, partition)?,
                Err(error) if error.code == ErrorCode::OffsetOutOfRange => {
                    self.reset(client, partition.partition_index).await?;
                    moved = true;
                }
                Err(error) if error.code.is_retriable() => moved = true,
                Err(error) => return Err(error.into()),
            }
        }
        out.flush()
            .map_err(CommandError::io("cannot write to standard output"))?;
        Ok(moved)
    }

    /// Goes on where auto.offset.reset of kafka-console-consumer says, aloud. Without a leader it is tried again.
    async fn reset(&mut self, client: &ClusterClient, partition: i32) -> Outcome {
        let key = (self.topic.clone(), partition);
        let asked = std::slice::from_ref(&key);
        let earliest = client.offsets(asked, EARLIEST).await?.get(&key).copied();
        let latest = client.offsets(asked, LATEST).await?.get(&key).copied();
        if let Some((earliest, latest)) = earliest.zip(latest) {
            eprintln!("{}", self.reset_within(partition, earliest, latest));
        }
        Ok(())
    }

    /// Sets a position that is out of range anew, and says so.
    fn reset_within(&mut self, partition: i32, earliest: i64, latest: i64) -> String {
        let (policy, offset) = if self.reset_to_earliest {
            ("earliest", earliest)
        } else {
            ("latest", latest)
        };
        let before = self.positions.insert(partition, offset).unwrap_or_default();
        format!(
            "Offset {before} is out of range in partition {partition} of topic {}, which goes from {earliest} to {latest}: \
             reading on from the {policy} offset, {offset}",
            self.topic
        )
    }

    fn print(&mut self, out: &mut impl Write, partition: &PartitionData) -> Outcome {
        let Some(bytes) = &partition.records else {
            return Ok(());
        };
        let position = self
            .positions
            .get(&partition.partition_index)
            .copied()
            .unwrap_or_default();
        let mut next = position;
        let mut aborted = Aborted::new(partition, self.committed_only);
        let damaged = |what: &dyn std::fmt::Display| {
            CommandError::refused(format!(
                "partition {} is damaged at offset {position}: {what}",
                partition.partition_index
            ))
        };
        for (header, bytes) in complete_batches(bytes) {
            let skip = aborted.skips(&header, bytes);
            if !skip && !header.is_control() {
                let (header, section) =
                    decoded_section(bytes, BATCH_BYTES_MAX).map_err(|error| damaged(&error))?;
                for record in records(&header, &section) {
                    let record = record.map_err(|error| damaged(&error))?;
                    if record.offset < position || self.left == Some(0) {
                        continue;
                    }
                    self.format
                        .write(out, partition.partition_index, &header, &record)
                        .map_err(CommandError::io("cannot write to standard output"))?;
                    self.read += 1;
                    self.left = self.left.map(|left| left - 1);
                }
            }
            next = next.max(header.next_offset());
        }
        self.positions.insert(partition.partition_index, next);
        Ok(())
    }
}

/// The whole batches of a response, which may end in a part of one.
fn complete_batches(bytes: &[u8]) -> Vec<(batch::BatchHeader, &[u8])> {
    let mut all = Vec::new();
    let mut rest = bytes;
    while let Ok(header) = batch::BatchHeader::parse(rest) {
        let size = header.size_bytes();
        if rest.len() < size {
            break;
        }
        all.push((header, &rest[..size]));
        rest = &rest[size..];
    }
    all
}

/// The transactions of a response that were aborted.
struct Aborted {
    /// First offset and producer id, the lowest offset last.
    starts: Vec<(i64, i64)>,
    open: std::collections::BTreeSet<i64>,
}

impl Aborted {
    fn new(partition: &PartitionData, committed_only: bool) -> Self {
        let listed = partition.aborted_transactions.iter().flatten();
        let mut starts: Vec<(i64, i64)> = listed
            .filter(|_| committed_only)
            .map(|it| (it.first_offset, it.producer_id.0))
            .collect();
        starts.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            starts,
            open: std::collections::BTreeSet::new(),
        }
    }

    /// Whether a batch belongs to an aborted transaction; batches have to come in order.
    fn skips(&mut self, header: &batch::BatchHeader, bytes: &[u8]) -> bool {
        while let Some(&(first, producer)) = self.starts.last()
            && first <= header.last_offset()
        {
            self.open.insert(producer);
            self.starts.pop();
        }
        if !header.is_transactional() || !self.open.contains(&header.producer_id) {
            return false;
        }
        if header.is_control() {
            let key = decoded_section(bytes, BATCH_BYTES_MAX)
                .ok()
                .and_then(|(header, section)| {
                    let record = records(&header, &section).next()?.ok()?;
                    control::ControlRecordType::decode_key(record.key?).ok()
                });
            if key == Some(control::ControlRecordType::Abort) {
                self.open.remove(&header.producer_id);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use odradek_common::records::builder::BatchBuilder;

    fn consumer(position: i64, left: Option<u64>) -> Consumer {
        Consumer {
            topic: "t".to_owned(),
            format: LineFormat::new(&[]).expect("fits"),
            committed_only: true,
            reset_to_earliest: false,
            positions: BTreeMap::from([(0, position)]),
            left,
            read: 0,
        }
    }

    fn batch(base_offset: i64, values: &[&str], transaction: Option<i64>) -> Bytes {
        let mut builder = BatchBuilder::new(base_offset);
        if let Some(producer_id) = transaction {
            builder = builder.producer(producer_id, 0, 0).transactional();
        }
        for value in values {
            builder.append(1, None, Some(value.as_bytes()), &[]);
        }
        builder.build()
    }

    fn printed(consumer: &mut Consumer, records: Vec<u8>, aborted: Vec<(i64, i64)>) -> String {
        use kafka_protocol::messages::fetch_response::AbortedTransaction;
        let aborted = aborted.into_iter().map(|(producer_id, first)| {
            AbortedTransaction::default()
                .with_producer_id(producer_id.into())
                .with_first_offset(first)
        });
        let data = PartitionData::default()
            .with_records(Some(records.into()))
            .with_aborted_transactions(Some(aborted.collect()));
        let mut out = Vec::new();
        consumer.print(&mut out, &data).expect("prints");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn records_before_the_position_and_parts_of_batches_are_left_out() {
        let mut bytes = batch(5, &["a", "b", "c"], None).to_vec();
        let second = batch(8, &["d"], None);
        bytes.extend_from_slice(&second[..second.len() - 1]);
        let mut consumer = consumer(6, None);
        assert_eq!(printed(&mut consumer, bytes, Vec::new()), "b\nc\n");
        assert_eq!(consumer.positions[&0], 8);
    }

    #[test]
    fn an_offset_is_a_word_or_not_negative() {
        assert_eq!(start("Latest"), Ok(Start::Latest));
        assert_eq!(start("earliest"), Ok(Start::Earliest));
        assert_eq!(start("7"), Ok(Start::At(7)));
        for wrong in ["-1", "first", ""] {
            assert!(start(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn out_of_range_it_goes_on_at_the_end_unless_all_is_wanted_and_says_so() {
        let mut consumer = consumer(99, None);
        let said = consumer.reset_within(0, 3, 10);
        assert_eq!(consumer.positions[&0], 10);
        assert_eq!(
            said,
            "Offset 99 is out of range in partition 0 of topic t, which goes from 3 to 10: reading on from the latest offset, 10"
        );
        consumer.reset_to_earliest = true;
        let said = consumer.reset_within(0, 12, 20);
        assert_eq!(consumer.positions[&0], 12);
        assert!(
            said.ends_with("reading on from the earliest offset, 12"),
            "{said}"
        );
    }

    #[test]
    fn no_more_records_are_printed_than_asked_for() {
        let mut consumer = consumer(0, Some(2));
        assert_eq!(
            printed(
                &mut consumer,
                batch(0, &["a", "b", "c"], None).to_vec(),
                Vec::new()
            ),
            "a\nb\n"
        );
        assert_eq!(consumer.left, Some(0));
    }

    #[test]
    fn aborted_transactions_are_left_out() {
        use odradek_common::records::control::{EndTransactionMarker, TransactionResult};
        let marker = |offset: i64, result: TransactionResult| {
            let marker = EndTransactionMarker {
                result,
                coordinator_epoch: 0,
            };
            let mut bytes = marker.to_batch(1, 7, 0).to_vec();
            odradek_common::records::batch::set_base_offset(&mut bytes, offset);
            bytes
        };
        let mut bytes = batch(0, &["lost"], Some(7)).to_vec();
        bytes.extend(batch(1, &["other"], Some(8)));
        bytes.extend(marker(2, TransactionResult::Abort));
        bytes.extend(batch(3, &["kept"], Some(7)));
        bytes.extend(marker(4, TransactionResult::Commit));
        let mut consumer = consumer(0, None);
        assert_eq!(printed(&mut consumer, bytes, vec![(7, 0)]), "other\nkept\n");
        assert_eq!(consumer.positions[&0], 5);
    }
}
