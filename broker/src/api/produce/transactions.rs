//! Requests whose transactions have yet to begin in a partition: they wait for the transaction's coordinator, and whatever
//! the connection has sent behind them waits with them, so that the order of the requests is that of the appends.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use odradek_common::records::batch::BatchHeader;
use odradek_net::service::Reply;
use tokio::sync::oneshot;

use super::request::{self, Item, Reader};
use super::{Incoming, Topic, Turn, run_one};
use crate::broker::Broker;
use crate::replica::Replica;
use crate::verification::{self, Operation, Transaction, Verified, Wanted};

/// What a request has to wait for.
struct Unverified {
    transaction: Transaction,
    wanted: Vec<Wanted>,
}

/// The first request that has to wait, by its place.
pub(super) fn first_unverified(broker: &Broker, incoming: &[Incoming]) -> Option<usize> {
    incoming.iter().position(|incoming| {
        // The only thing that is looked at of a request outside of transactions.
        request::has_transactional_id(incoming.call.api_version, &incoming.frame.body)
            && unverified(broker, incoming).is_some()
    })
}

/// Replies to requests one after the other: each is verified when the one before it has been appended.
pub(super) fn one_after_the_other(broker: &Arc<Broker>, incoming: Turn, replies: &mut Vec<Reply>) {
    let mut before: Option<oneshot::Receiver<()>> = None;
    for mut incoming in incoming {
        // The buffer that the frame lies in is lent to other connections meanwhile.
        incoming.frame.body = Bytes::copy_from_slice(&incoming.frame.body);
        incoming.timer = incoming.timer.parked();
        let (appended, turn) = oneshot::channel();
        let turn_before = before.replace(turn);
        let broker = broker.clone();
        replies.push(Reply::pending(async move {
            if let Some(turn) = turn_before {
                // It is over as well if the one before is given up.
                _ = turn.await;
            }
            let reply = verify_and_run(&broker, incoming).await;
            drop(appended);
            match reply {
                Reply::Done(response) => response,
                Reply::Pending(answer) | Reply::PendingOverlap(answer) => answer.await,
            }
        }));
    }
}

async fn verify_and_run(broker: &Arc<Broker>, incoming: Incoming) -> Reply {
    let verified = match unverified(broker, &incoming) {
        Some(Unverified { transaction, wanted }) => verification::verify(broker, &transaction, &wanted).await,
        None => Verified::default(),
    };
    run_one(broker, incoming, &verified)
}

/// None if everything in the request may be appended or refused at once.
fn unverified(broker: &Broker, incoming: &Incoming) -> Option<Unverified> {
    let version = incoming.call.api_version;
    let operation = Operation::of_produce(version);
    if !verification::is_required(broker, operation) {
        return None;
    }
    let (preamble, mut reader) = Reader::begin(version, &incoming.frame.body).ok()?;
    let transactional_id = StrBytes::from_string(preamble.transactional_id?.to_owned());
    let mut transaction: Option<Transaction> = None;
    let mut wanted: BTreeMap<(Arc<str>, i32), Wanted> = BTreeMap::new();
    let mut topic = Topic::none();
    // What cannot be read is refused when it is run.
    while let Some(item) = reader.next().ok()? {
        let (index, records) = match item {
            Item::Topic(named) => {
                topic = Topic::find(broker, named);
                continue;
            }
            Item::Partition(index, records) => (index, records),
        };
        let Some((header, replica)) = transactional_batch(broker, &topic, index, records) else {
            continue;
        };
        let transaction = transaction.get_or_insert_with(|| Transaction {
            transactional_id: transactional_id.clone(),
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            operation,
        });
        let is_its_own = (header.producer_id, header.producer_epoch)
            == (transaction.producer_id, transaction.producer_epoch);
        if is_its_own && verification::is_unverified(&replica, transaction, header.base_sequence) {
            let key = (replica.id.topic.clone(), index);
            wanted.insert(key, (replica, header.base_sequence));
        }
    }
    let wanted: Vec<Wanted> = wanted.into_values().collect();
    let transaction = transaction.filter(|_| !wanted.is_empty())?;
    Some(Unverified { transaction, wanted })
}

fn transactional_batch(
    broker: &Broker,
    topic: &Topic<'_>,
    index: i32,
    records: &[u8],
) -> Option<(BatchHeader, Arc<Replica>)> {
    let header = BatchHeader::parse(records).ok()?;
    if !header.is_transactional() || !header.has_producer_id() {
        return None;
    }
    let replica = topic.replica(broker, index).ok()?;
    Some((header, replica))
}
