//! Judges what clients saw: histories in, anomalies out.
//!
//! A history is what clients did and were told, in the order of real time as far as one observer can tell; an anomaly names
//! the promise that was broken and the values that show it. Nothing here talks to a broker, and nothing is forgiven because
//! of a fault that happened meanwhile: what a fault may cost is said by the outcomes that clients did not learn.

pub mod transactions;
