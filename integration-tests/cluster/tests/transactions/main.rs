//! Transactions on one node and on three: what producers are told, what consumers see, and what is left when a coordinator dies.

mod command_line;
mod coordinator;
mod failover;
mod producer;
mod visibility;
