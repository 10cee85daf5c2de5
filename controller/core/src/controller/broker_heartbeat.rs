//! BrokerHeartbeat: a broker lives, wants to serve, or wants to stop.

use kafka_protocol::messages::{BrokerHeartbeatRequest, BrokerHeartbeatResponse};
use odradek_common::error::{ApiError, ErrorCode};
use odradek_common::metadata::{BrokerImage, MetadataImage, PartitionImage};
use odradek_common::time::Now;
use slog::{debug, info, warn};
use uuid::Uuid;

use super::draft::Draft;
use super::fencing::{Departure, broker_change, has_leaderships};
use super::{Controller, Decision, check_broker_epoch};

/// What a heartbeat makes of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Same,
    Fence,
    Unfence,
    BeginShutdown,
    ShutDown,
}

impl Controller {
    /// Answers a heartbeat. `next_offset` is the offset in the metadata log that the records will have.
    pub fn broker_heartbeat(
        &mut self,
        image: &MetadataImage,
        now: Now,
        next_offset: i64,
        request: &BrokerHeartbeatRequest,
    ) -> Decision<BrokerHeartbeatResponse> {
        let response = BrokerHeartbeatResponse::default();
        match self.try_heartbeat(image, now, next_offset, request) {
            Ok(decision) => decision,
            Err(error) => {
                debug!(self.logger, "refusing a heartbeat"; "broker" => request.broker_id.0, "error" => %error);
                // A refused broker must not take itself for one that serves.
                Decision::answer(response.with_error_code(error.code()).with_is_fenced(true))
            }
        }
    }

    fn try_heartbeat(
        &mut self,
        image: &MetadataImage,
        now: Now,
        next_offset: i64,
        request: &BrokerHeartbeatRequest,
    ) -> Result<Decision<BrokerHeartbeatResponse>, ApiError> {
        let broker_id = request.broker_id.0;
        let Some(broker) = image.brokers.get(&broker_id) else {
            let detail = format!("broker {broker_id} must register before it sends heartbeats");
            return Err(ApiError::new(ErrorCode::BrokerIdNotRegistered, detail));
        };
        check_broker_epoch(image, broker_id, request.broker_epoch)?;
        let session = self.sessions.touch(broker_id, broker.broker_epoch, now);
        session.metadata_offset = request.current_metadata_offset;
        if broker.in_controlled_shutdown && !broker.fenced {
            // Unknown if another controller began it: whoever has all that was written before this one led knows of it.
            session.shutdown_offset.get_or_insert(self.inherited_offset);
        }
        let next = self.next_state(image, broker, request);
        let mut draft = Draft::new(image);
        self.enter(&mut draft, broker, next, now, next_offset);
        self.leave_offline_dirs(&mut draft, broker, &request.offline_log_dirs);
        let fenced = draft
            .image
            .brokers
            .get(&broker_id)
            .is_none_or(|broker| broker.fenced);
        let response = BrokerHeartbeatResponse::default()
            .with_is_caught_up(request.current_metadata_offset >= broker.broker_epoch)
            .with_is_fenced(fenced)
            .with_should_shut_down(next == Next::ShutDown);
        Ok(Decision {
            records: draft.records,
            response,
        })
    }

    fn next_state(
        &self,
        image: &MetadataImage,
        broker: &BrokerImage,
        request: &BrokerHeartbeatRequest,
    ) -> Next {
        if broker.fenced {
            let caught_up = request.current_metadata_offset >= broker.broker_epoch;
            return match (request.want_shut_down, request.want_fence) {
                (true, _) => Next::ShutDown,
                (false, false) if caught_up => Next::Unfence,
                (false, _) => Next::Same,
            };
        }
        if broker.in_controlled_shutdown {
            return match self.may_shut_down(image, broker) {
                true => Next::ShutDown,
                false => Next::Same,
            };
        }
        match (request.want_shut_down, request.want_fence) {
            (true, true) => Next::ShutDown,
            (true, false) if has_leaderships(image, broker.broker_id) => Next::BeginShutdown,
            (true, false) => Next::ShutDown,
            (false, true) => Next::Fence,
            (false, false) => Next::Same,
        }
    }

    /// It leads nothing more, and every other broker knows who leads instead.
    fn may_shut_down(&self, image: &MetadataImage, broker: &BrokerImage) -> bool {
        let session = self.sessions.get(broker.broker_id);
        let offset = session
            .and_then(|session| session.shutdown_offset)
            .unwrap_or(image.offset);
        !has_leaderships(image, broker.broker_id)
            && self.sessions.lowest_active_offset(image, broker.broker_id) >= offset
    }

    fn enter(&mut self, draft: &mut Draft, broker: &BrokerImage, next: Next, now: Now, next_offset: i64) {
        let broker_id = broker.broker_id;
        match next {
            Next::Same => {}
            Next::Unfence => {
                info!(self.logger, "unfencing a broker"; "broker" => broker_id);
                self.unfence(draft, broker);
            }
            Next::BeginShutdown => {
                info!(self.logger, "a broker begins its controlled shutdown"; "broker" => broker_id);
                self.leave_partitions(draft, broker_id, Departure::Leaving);
                draft.push(broker_change(broker, None, Some(true)));
                self.sessions
                    .touch(broker_id, broker.broker_epoch, now)
                    .shutdown_offset = Some(next_offset);
            }
            Next::Fence | Next::ShutDown => {
                info!(self.logger, "a broker leaves"; "broker" => broker_id, "shutdown" => next == Next::ShutDown);
                if !broker.fenced {
                    self.fence(draft, broker_id);
                }
            }
        }
    }

    /// A directory that failed takes the replicas in it out of their ISRs.
    fn leave_offline_dirs(&self, draft: &mut Draft, broker: &BrokerImage, offline: &[Uuid]) {
        let (failed, online): (Vec<Uuid>, Vec<Uuid>) =
            broker.log_dirs.iter().partition(|dir| offline.contains(dir));
        if failed.is_empty() {
            return;
        }
        warn!(self.logger, "log directories went offline";
            "broker" => broker.broker_id, "failed" => ?failed, "remaining" => online.len());
        let broker_id = broker.broker_id;
        let inside = |partition: &PartitionImage| {
            let mut placed = partition.replicas.iter().zip(&partition.directories);
            let in_failed = placed.any(|(replica, dir)| *replica == broker_id && failed.contains(dir));
            in_failed && (partition.isr.contains(&broker_id) || partition.leader == broker_id)
        };
        self.change_partitions(
            draft,
            |_, partition| inside(partition),
            |builder| builder.without(broker_id),
        );
        let Some(current) = draft.image.brokers.get(&broker_id) else {
            return;
        };
        let remaining = BrokerImage {
            log_dirs: online,
            ..(**current).clone()
        };
        draft.push(remaining.to_record());
    }
}
