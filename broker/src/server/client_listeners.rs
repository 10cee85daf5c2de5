//! The listeners of the broker role: bound from the start, which queues clients, and served once the metadata is this start's.
//!
//! Promises that nobody is answered from what the node knew before it stopped: topics and leaders of then would be believed.

use std::sync::Arc;

use odradek_net::listener::{BoundListener, Listener};
use odradek_net::service::Service;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Ground, STOP_GRACE};

/// Listeners that serve, or wait to.
pub(super) struct ClientListeners {
    opening: JoinHandle<Vec<Listener>>,
}

impl ClientListeners {
    /// Serves as soon as replicas have applied metadata that has this start's registration.
    pub(super) fn open_once_applied(
        ground: &Ground,
        bound: Vec<(String, BoundListener)>,
        service: Arc<dyn Service>,
        mut applied: watch::Receiver<i64>,
    ) -> Self {
        let contexts = bound
            .into_iter()
            .map(|(name, bound)| (ground.listener_context(&name), bound));
        let doors: Vec<_> = contexts.collect();
        let opening = tokio::spawn(async move {
            // Nothing is applied before the registration is known, which has an offset above 0.
            if applied.wait_for(|offset| *offset > 0).await.is_err() {
                return Vec::new();
            }
            let serve = |(context, bound): (_, BoundListener)| bound.start(&context, service.clone());
            doors.into_iter().map(serve).collect()
        });
        Self { opening }
    }

    /// Accepts nothing more, answers what was begun, and closes.
    pub(super) async fn stop(self) {
        // Does nothing to listeners that serve already.
        self.opening.abort();
        for listener in self.opening.await.iter().flatten() {
            listener.stop(STOP_GRACE).await;
        }
    }
}
