//! Transactions: requests in, records, markers and answers out.

#[path = "transactions/harness.rs"]
mod harness;

#[path = "transactions/ends.rs"]
mod ends;
#[path = "transactions/failover.rs"]
mod failover;
#[path = "transactions/model.rs"]
mod model;
#[path = "transactions/partitions.rs"]
mod partitions;
#[path = "transactions/producers.rs"]
mod producers;
#[path = "transactions/records.rs"]
mod records;
#[path = "transactions/time.rs"]
mod time;
