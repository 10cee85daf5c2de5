//! Producer ids: blocks of them from the controller, one at a time to producers.

use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kafka_protocol::messages::{AllocateProducerIdsRequest, BrokerId};
use odradek_common::error::{ApiError, ErrorCode};
use tokio::sync::Mutex;

use crate::controller_channel::ControllerChannel;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The block in hand.
#[derive(Default)]
pub struct ProducerIds {
    block: Mutex<Block>,
    /// Requests for a block that have ended.
    asked: AtomicU64,
}

#[derive(Default)]
struct Block {
    ids: std::ops::Range<i64>,
    /// What came of the last request, if it brought nothing.
    refused: Option<ApiError>,
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
        self.next_of(|| Self::ask(controller, node_id, epoch)).await
    }

    /// One request for all who wait: those who came before it ended share what it brings, be it a refusal.
    async fn next_of<F: Future<Output = Result<Range<i64>, ApiError>>>(
        &self,
        ask: impl FnOnce() -> F,
    ) -> Result<i64, ApiError> {
        let asked = self.asked.load(Ordering::Acquire);
        let mut block = self.block.lock().await;
        if let Some(id) = block.ids.next() {
            return Ok(id);
        }
        if self.asked.load(Ordering::Acquire) > asked
            && let Some(refused) = &block.refused
        {
            return Err(refused.clone());
        }
        let asked = ask().await;
        self.asked.fetch_add(1, Ordering::AcqRel);
        block.refused = asked.as_ref().err().cloned();
        block.ids = asked?;
        block
            .ids
            .next()
            .ok_or_else(|| unavailable("the controller sent an empty block of producer ids".to_owned()))
    }

    async fn ask(controller: &ControllerChannel, node_id: i32, epoch: i64) -> Result<Range<i64>, ApiError> {
        let request = AllocateProducerIdsRequest::default()
            .with_broker_id(BrokerId(node_id))
            .with_broker_epoch(epoch);
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
        Ok(start..start + i64::from(response.producer_id_len))
    }
}

fn unavailable(detail: String) -> ApiError {
    ApiError::new(ErrorCode::CoordinatorLoadInProgress, detail)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn those_who_wait_share_one_request_and_its_refusal() {
        let ids = ProducerIds::default();
        let asked = AtomicU64::new(0);
        let (given_up, silence) = tokio::sync::oneshot::channel::<()>();
        let silence = silence.shared();
        let silent = || async {
            asked.fetch_add(1, Ordering::SeqCst);
            _ = silence.clone().await;
            Err(unavailable("nobody answers".to_owned()))
        };
        let all = join_all((0..10).map(|_| ids.next_of(silent)));
        let (refused, sent) = tokio::join!(all, async { given_up.send(()) });
        assert!(sent.is_ok() && refused.iter().all(Result::is_err));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        // Whoever comes later asks again, and a block serves all who wait.
        let block = || async {
            asked.fetch_add(1, Ordering::SeqCst);
            Ok(40..45)
        };
        let given = join_all((0..6).map(|_| ids.next_of(block))).await;
        let given: Vec<i64> = given.into_iter().map(Result::unwrap).collect();
        assert_eq!(given, [40, 41, 42, 43, 44, 40], "the sixth needs another block");
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }
}
