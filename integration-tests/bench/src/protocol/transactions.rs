//! What a producer asks a coordinator for: its identity, and the end of a transaction.
//!
//! Answers that ask for patience are followed by another question; all others that are no success are errors.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kafka_protocol::messages::{
    EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest, ProducerId, TransactionalId,
};

use super::produce::Identity;
use super::text;
use crate::admin::Admin;
use crate::clock::{self, Nanos, SECOND};

const FIND_COORDINATOR: i16 = 4;
const INIT_PRODUCER_ID: i16 = 5;
/// The first version that gives each transaction an epoch of its own.
const END_TXN: i16 = 5;
/// FindCoordinator's word for a transaction coordinator.
const TRANSACTION_KEY: i8 = 1;
/// Longer than any transaction of a workload lasts.
const TRANSACTION_TIMEOUT_MS: i32 = 60_000;
/// A coordinator is there within this.
const READY_LIMIT: Nanos = 120 * SECOND;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(2);

/// The last transaction of this producer is not yet over on every partition.
pub const CONCURRENT_TRANSACTIONS: i16 = 51;
const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;

/// Asks until the answer is not to ask again.
fn patiently<T>(what: &str, mut ask: impl FnMut() -> Result<(i16, T)>) -> Result<T> {
    let limit = clock::now() + READY_LIMIT;
    loop {
        match ask()? {
            (0, answer) => return Ok(answer),
            (
                error @ (CONCURRENT_TRANSACTIONS
                | COORDINATOR_LOAD_IN_PROGRESS
                | COORDINATOR_NOT_AVAILABLE
                | NOT_COORDINATOR),
                _,
            ) => {
                ensure!(clock::now() < limit, "{what}: error {error} for two minutes");
                std::thread::sleep(PAUSE);
            }
            (error, _) => bail!("{what}: error {error}"),
        }
    }
}

/// A connection to the coordinator of a transactional id.
///
/// # Errors
/// There is none.
pub fn coordinator(broker: SocketAddr, transactional_id: &str) -> Result<Admin> {
    let mut admin = Admin::open(broker)?;
    let request = FindCoordinatorRequest::default()
        .with_key_type(TRANSACTION_KEY)
        .with_coordinator_keys(vec![text(transactional_id)]);
    let address = patiently("FindCoordinator", || {
        let found = admin.ask(FIND_COORDINATOR, &request)?.coordinators;
        let found = found.first().context("an answer for the one key")?;
        Ok((found.error_code, format!("{}:{}", found.host, found.port)))
    })?;
    Admin::open(address.parse().context("a coordinator's address")?)
}

/// The identity of an idempotent producer, or with a transactional id, of a transactional one.
///
/// # Errors
/// It was refused.
pub fn init_producer_id(admin: &mut Admin, transactional_id: Option<&str>) -> Result<Identity> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(transactional_id.map(|id| TransactionalId(text(id))))
        .with_transaction_timeout_ms(TRANSACTION_TIMEOUT_MS)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    patiently("InitProducerId", || {
        let answer = admin.ask(INIT_PRODUCER_ID, &request)?;
        let identity = Identity {
            producer_id: answer.producer_id.0,
            epoch: answer.producer_epoch,
        };
        Ok((answer.error_code, identity))
    })
}

/// Ends a transaction; the identity that the next one has.
///
/// # Errors
/// It was refused.
pub fn end_txn(
    coordinator: &mut Admin,
    transactional_id: &str,
    identity: Identity,
    committed: bool,
) -> Result<Identity> {
    let request = EndTxnRequest::default()
        .with_transactional_id(TransactionalId(text(transactional_id)))
        .with_producer_id(ProducerId(identity.producer_id))
        .with_producer_epoch(identity.epoch)
        .with_committed(committed);
    patiently("EndTxn", || {
        let answer = coordinator.ask(END_TXN, &request)?;
        let next = Identity {
            producer_id: answer.producer_id.0,
            epoch: answer.producer_epoch,
        };
        Ok((answer.error_code, next))
    })
}
