//! Metadata for unit tests.

use std::sync::Arc;

use odradek_common::ids::NodeId;
use odradek_common::metadata::{BrokerImage, Endpoint, SecurityProtocol};
use uuid::Uuid;

/// A broker that can be reached on one listener, at `broker-<id>:9092`.
pub fn broker(id: NodeId, listener: &str, fenced: bool) -> Arc<BrokerImage> {
    let endpoint = Endpoint {
        listener: listener.into(),
        host: format!("broker-{id}").into(),
        port: 9092,
        security_protocol: SecurityProtocol::Plaintext,
    };
    Arc::new(BrokerImage {
        broker_id: id,
        broker_epoch: 1,
        incarnation_id: Uuid::nil(),
        endpoints: vec![endpoint],
        features: Vec::new(),
        rack: None,
        fenced,
        in_controlled_shutdown: false,
        log_dirs: Vec::new(),
    })
}
