//! Three nodes: replication, and what is left when some of them die.

mod compaction;
mod failover;
mod load;
mod replication;
mod restart;
mod start;
