//! Producer ids: blocks of them from the controller, one at a time to producers.

use std::time::Duration;

use kafka_protocol::messages::{AllocateProducerIdsRequest, BrokerId};
use odradek_common::error::{ApiError, ErrorCode};
use tokio::sync::Mutex;

use crate::controller_channel::ControllerChannel;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The block in hand.
#[derive(Default)]
pub struct ProducerIds {
    block: Mutex<std::ops::Range<i64>>,
}

impl ProducerIds {
    /// An id that no producer of this cluster has had.
    ///
    /// # Errors
    /// The controller gave no block; the client tries again.
    pub async fn next(
        &self,
        controller: &ControllerChannel,
        node_id: i32,
        epoch: i64,
    ) -> Result<i64, ApiError> {
        let mut block = self.block.lock().await;
        if let Some(id) = block.next() {
            return Ok(id);
        }
        let request = AllocateProducerIdsRequest::default()
            .with_broker_id(BrokerId(node_id))
            .with_broker_epoch(epoch);
        let unavailable = |detail: String| ApiError::new(ErrorCode::CoordinatorLoadInProgress, detail);
        let response = controller
            .send(0, &request, TIMEOUT)
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        if response.error_code != 0 {
            return Err(unavailable(format!(
                "no block of producer ids: error {}",
                response.error_code
            )));
        }
        let start = response.producer_id_start.0;
        *block = start..start + i64::from(response.producer_id_len);
        block
            .next()
            .ok_or_else(|| unavailable("the controller sent an empty block of producer ids".to_owned()))
    }
}
