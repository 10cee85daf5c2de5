//! Classic consumer groups: requests and time in, records and answers out.

#[path = "groups/admin.rs"]
mod admin;
#[path = "groups/failover.rs"]
mod failover;
#[path = "groups/harness.rs"]
mod harness;
#[path = "groups/leaving.rs"]
mod leaving;
#[path = "groups/offsets.rs"]
mod offsets;
#[path = "groups/rebalance.rs"]
mod rebalance;
#[path = "groups/records.rs"]
mod records;
#[path = "groups/static_members.rs"]
mod static_members;
#[path = "groups/transactions.rs"]
mod transactions;
#[path = "groups/versions.rs"]
mod versions;
