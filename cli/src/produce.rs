//! `odradek produce`: a console producer. Lines of standard input become records.
//!
//! Promises that every line is acknowledged or named as lost before it ends without success, in the order of the lines
//! within a partition, each once: it is an idempotent producer with one request per partition at a time.

mod batches;
mod partitioner;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest};
use odradek_common::error::ErrorCode;
use odradek_common::records::compression::Compression;
use tokio::sync::mpsc;

use crate::arguments::key_value;
use crate::client::waiting::Attempts;
use crate::client::{ClusterClient, Connection, send_at_most, topic_name};
use crate::error::{CommandError, Outcome, check};
use batches::{Batch, Batcher, Record};

/// The last version of Produce that names topics by name.
const BY_NAME_UNTIL: i16 = 12;
/// Lines that wait to be sent.
const LINES_MAX: usize = 4096;
const BATCH_BYTES_MAX: usize = 256 * 1024;
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// Flags of `odradek produce`.
#[derive(Debug, Args)]
pub struct ProduceArguments {
    #[command(flatten)]
    connection: Connection,
    /// The topic; it is made if the cluster makes topics on demand.
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// How a line is read: parse.key=true, key.separator=<text> (a tab if not given), null.marker=<text>.
    #[arg(long = "property", visible_alias = "reader-property", value_name = "KEY=VALUE", value_parser = key_value_exact)]
    property: Vec<(String, String)>,
    /// Acknowledgements to wait for: all, 1 or 0.
    #[arg(
        long = "request-required-acks",
        visible_alias = "acks",
        value_name = "ACKS",
        default_value = "all"
    )]
    acks: String,
    /// Compression of batches: none, gzip, snappy, lz4 or zstd.
    #[arg(long, value_name = "CODEC", num_args = 0..=1, default_value = "none", default_missing_value = "gzip")]
    compression_codec: String,
}

/// A property keeps the blanks of its value: a separator may be one.
fn key_value_exact(text: &str) -> Result<(String, String), String> {
    let (key, _) = key_value(text)?;
    let (_, value) = text.split_once('=').unwrap_or_default();
    Ok((key, value.to_owned()))
}

/// How lines become records.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LineFormat {
    key_separator: Option<String>,
    null_marker: Option<String>,
}

/// Who sends, so that the cluster drops what it has already.
struct Producer {
    topic: String,
    acks: i16,
    compression: Compression,
    /// Without an id when no acknowledgement from all is asked for.
    id: Option<(i64, i16)>,
    next_sequences: BTreeMap<i32, i32>,
}

/// Carries out `odradek produce`.
pub async fn run(arguments: ProduceArguments) -> Outcome {
    let format = line_format(&arguments.property)?;
    let client = ClusterClient::new(&arguments.connection)?;
    let acks = match arguments.acks.as_str() {
        "all" | "-1" => -1,
        "1" => 1,
        "0" => 0,
        other => {
            return Err(CommandError::refused(format!(
                "--request-required-acks {other}: all, 1 or 0 expected"
            )));
        }
    };
    let codec = &arguments.compression_codec;
    let compression = Compression::from_name(codec).ok_or_else(|| {
        CommandError::refused(format!(
            "--compression-codec {codec}: none, gzip, snappy, lz4 or zstd expected"
        ))
    })?;
    let partitions = partition_count(&client, &arguments.topic).await?;
    let id = if acks == -1 {
        Some(producer_id(&client).await?)
    } else {
        None
    };
    let topic = arguments.topic;
    let mut producer = Producer {
        topic,
        acks,
        compression,
        id,
        next_sequences: BTreeMap::new(),
    };
    let mut batcher = Batcher::new(partitions);
    let mut lines = read_lines();
    let mut number = 0_u64;
    while let Some(line) = lines.recv().await {
        number += 1;
        batcher.push(format.record(&line?, number)?);
        // What is there already travels together; an interactive line travels at once.
        while batcher.size_bytes() < BATCH_BYTES_MAX
            && let Ok(line) = lines.try_recv()
        {
            number += 1;
            batcher.push(format.record(&line?, number)?);
        }
        producer.send(&client, batcher.drain()).await?;
    }
    Ok(())
}

fn line_format(properties: &[(String, String)]) -> Outcome<LineFormat> {
    let mut format = LineFormat {
        key_separator: None,
        null_marker: None,
    };
    let mut separator = "\t".to_owned();
    for (key, value) in properties {
        match key.as_str() {
            "parse.key" if value.trim() == "true" => format.key_separator = Some(String::new()),
            "parse.key" => {}
            "key.separator" => separator.clone_from(value),
            "null.marker" => format.null_marker = Some(value.clone()),
            other => {
                return Err(CommandError::refused(format!(
                    "--property {other} is unknown; there are parse.key, key.separator and null.marker"
                )));
            }
        }
    }
    if let Some(of_key) = &mut format.key_separator {
        *of_key = separator;
    }
    Ok(format)
}

impl LineFormat {
    fn record(&self, line: &str, number: u64) -> Outcome<Record> {
        let field = |text: &str| {
            let null = self.null_marker.as_deref() == Some(text);
            (!null).then(|| Bytes::copy_from_slice(text.as_bytes()))
        };
        let (key, value) = match &self.key_separator {
            None => (None, field(line)),
            Some(separator) => {
                let (key, value) = line.split_once(separator.as_str()).ok_or_else(|| {
                    CommandError::refused(format!(
                        "No key separator {separator:?} found on line number {number}"
                    ))
                })?;
                (field(key), field(value))
            }
        };
        Ok(Record {
            timestamp_ms: now_ms(),
            key,
            value,
        })
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Lines of standard input, from a thread of its own: reading a terminal cannot be cancelled.
fn read_lines() -> mpsc::Receiver<Outcome<String>> {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(CommandError::io("cannot read standard input"));
            let last = line.is_err();
            if sender.blocking_send(line).is_err() || last {
                break;
            }
        }
    });
    receiver
}

async fn partition_count(client: &ClusterClient, topic: &str) -> Outcome<usize> {
    let count = client.retry(async || {
        let names = [topic];
        let request = kafka_protocol::messages::MetadataRequest::default()
            .with_topics(Some(vec![
                kafka_protocol::messages::metadata_request::MetadataRequestTopic::default()
                    .with_name(Some(topic_name(names[0]))),
            ]))
            .with_allow_auto_topic_creation(true);
        let response = client.ask(request).await?;
        let view = crate::client::ClusterView::from(response);
        Ok(view.topic(topic)?.partitions.len())
    });
    let count = count.await?;
    if count == 0 {
        return Err(CommandError::refused(format!("topic {topic} has no partitions")));
    }
    Ok(count)
}

async fn producer_id(client: &ClusterClient) -> Outcome<(i64, i16)> {
    client
        .retry(async || {
            let request = InitProducerIdRequest::default()
                .with_transactional_id(None)
                .with_transaction_timeout_ms(i32::MAX)
                .with_producer_id((-1).into())
                .with_producer_epoch(-1);
            let response = client.ask(request).await?;
            check(response.error_code, None)?;
            Ok((response.producer_id.0, response.producer_epoch))
        })
        .await
}

impl Producer {
    /// Sends one batch to each of its partitions and waits until all are acknowledged.
    async fn send(&mut self, client: &ClusterClient, batches: Vec<Batch>) -> Outcome {
        let mut attempts = Attempts::within(DELIVERY_TIMEOUT);
        let mut waiting = Vec::new();
        for batch in batches {
            let sequence = self.next_sequences.entry(batch.partition).or_default();
            let producer = self.id.map(|(id, epoch)| (id, epoch, *sequence));
            let count = i32::try_from(batch.records.len()).unwrap_or(i32::MAX);
            *sequence = odradek_common::records::batch::increment_sequence(*sequence, count);
            waiting.push((batch.partition, batch.encode(self.compression, producer)));
        }
        loop {
            let failed = self.attempt(client, &waiting).await?;
            let Some((_, reason)) = failed.first() else {
                return Ok(());
            };
            if !attempts.pause(reason).await {
                return Err(CommandError::refused(format!(
                    "{} batch(es) were not acknowledged within {} s: {reason}",
                    failed.len(),
                    DELIVERY_TIMEOUT.as_secs()
                )));
            }
            waiting.retain(|(partition, _)| failed.iter().any(|(it, _)| it == partition));
        }
    }

    /// Sends to each leader what it leads; tells what has to be sent again and why.
    async fn attempt(&self, client: &ClusterClient, batches: &[(i32, Bytes)]) -> Outcome<Vec<(i32, String)>> {
        let view = match client.view(Some(&[&self.topic])).await {
            Ok(view) => view,
            Err(error) => return Ok(batches.iter().map(|(it, _)| (*it, error.to_string())).collect()),
        };
        let mut by_leader: BTreeMap<&str, Vec<(i32, Bytes)>> = BTreeMap::new();
        let mut failed = Vec::new();
        for (partition, bytes) in batches {
            let leader = view
                .leader(&self.topic, *partition)
                .and_then(|leader| view.brokers.get(&leader));
            match leader {
                Some(address) => by_leader
                    .entry(address)
                    .or_default()
                    .push((*partition, bytes.clone())),
                None => failed.push((*partition, format!("partition {partition} has no leader"))),
            }
        }
        for (address, batches) in by_leader {
            match self.send_to(client, address, &batches).await {
                Ok(refused) => failed.extend(refused),
                Err(error) if error.is_retriable() => {
                    failed.extend(
                        batches
                            .iter()
                            .map(|(partition, _)| (*partition, error.to_string())),
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(failed)
    }

    async fn send_to(
        &self,
        client: &ClusterClient,
        address: &str,
        batches: &[(i32, Bytes)],
    ) -> Outcome<Vec<(i32, String)>> {
        let partition = |(partition, bytes): &(i32, Bytes)| {
            PartitionProduceData::default()
                .with_index(*partition)
                .with_records(Some(bytes.clone()))
        };
        let topic = TopicProduceData::default()
            .with_name(topic_name(&self.topic))
            .with_partition_data(batches.iter().map(partition).collect());
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(self.acks)
            .with_timeout_ms(client.timeout_ms())
            .with_topic_data(vec![topic]);
        let leader = client.at(address).await?;
        if self.acks == 0 {
            // Nobody answers: what follows on the connection shows that it was read.
            let _ = tokio::time::timeout(
                Duration::from_millis(1),
                send_at_most(&leader, BY_NAME_UNTIL, request),
            )
            .await;
            return Ok(Vec::new());
        }
        let response = send_at_most(&leader, BY_NAME_UNTIL, request).await?;
        let mut failed = Vec::new();
        for partition in response
            .responses
            .iter()
            .flat_map(|topic| &topic.partition_responses)
        {
            match check(partition.error_code, partition.error_message.as_deref()) {
                Ok(()) => {}
                Err(error) if error.code == ErrorCode::DuplicateSequenceNumber => {}
                Err(error) if error.code.is_retriable() => failed.push((partition.index, error.detail)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn a_line_is_a_value_or_a_key_and_a_value() {
        let plain = line_format(&[]).expect("fits");
        let record = plain.record("a\tb", 1).expect("fits");
        assert_eq!((record.key, record.value.as_deref()), (None, Some(&b"a\tb"[..])));
        let keyed = [
            pair("key.separator", ": "),
            pair("parse.key", "true"),
            pair("null.marker", "-"),
        ];
        let keyed = line_format(&keyed).expect("fits");
        let record = keyed.record("k: -", 1).expect("fits");
        assert_eq!((record.key.as_deref(), record.value), (Some(&b"k"[..]), None));
        assert!(
            keyed
                .record("no separator", 7)
                .expect_err("no key")
                .to_string()
                .contains("line number 7")
        );
        assert!(line_format(&[pair("nonsense", "1")]).is_err());
    }

    #[test]
    fn a_property_keeps_the_blanks_of_its_value() {
        assert_eq!(key_value_exact("key.separator= "), Ok(pair("key.separator", " ")));
    }
}
