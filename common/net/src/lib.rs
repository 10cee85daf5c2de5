//! The network shell that brokers and controllers share: worker threads, listeners, connections, framing, and the client for
//! node-to-node traffic.
//!
//! It promises bounded memory whatever arrives on a socket, responses in the order of the requests, and a closed connection with
//! one log line for input that is no Kafka request. It does not know any API: a [`service::Service`] answers the requests.

pub mod budget;
pub mod client;
pub mod connection;
pub mod exchange;
pub mod listener;
mod log_limit;
pub mod pool;
pub mod residency;
pub mod sendfile;
pub mod service;
pub mod wire;
pub mod worker;
