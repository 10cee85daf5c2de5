//! Committed metadata for nodes without a controller of their own.

use std::time::Duration;

use odradek_common::ids::NO_NODE;
use odradek_common::metadata::batch_bytes;
use odradek_net::service::{Reply, RequestFrame};
use prost::Message;
use uuid::Uuid;

use super::raft::{answer, uuid};
use crate::handle::{ControllerHandle, Shared, wall_ms};
use crate::proto::{ControllerNode, FetchMetadataRequest, FetchMetadataResponse, MetadataEntry};
use crate::status::Observer;
use crate::update::{MetadataContent, MetadataUpdate};

/// The private API key of fetching metadata.
pub const FETCH_METADATA_KEY: i16 = 10_001;

const UPDATES_MAX: usize = 256;
const WAIT_MS_MAX: i32 = 30_000;
const OBSERVERS_MAX: usize = 10_000;
/// Who has not asked for so long is no observer any more; Kafka's time.
const OBSERVER_SILENT_MS_MAX: i64 = 300_000;

pub(super) fn fetch(handle: &ControllerHandle, mut request: RequestFrame) -> Reply {
    let decoded = FetchMetadataRequest::decode(request.body.clone());
    request.release_memory();
    let handle = handle.clone();
    Reply::pending(async move {
        let response = match decoded {
            Ok(fetch) => serve(&handle, &fetch).await,
            Err(error) => refused(&handle.shared, format!("the request does not decode: {error}")),
        };
        answer(&request, &response)
    })
}

async fn serve(handle: &ControllerHandle, request: &FetchMetadataRequest) -> FetchMetadataResponse {
    let shared = &handle.shared;
    let own = &shared.settings.cluster_id;
    if !request.cluster_id.is_empty() && request.cluster_id != *own {
        return refused(
            shared,
            format!("this is cluster {own}, not {}", request.cluster_id),
        );
    }
    note_observer(shared, request);
    let updates_max = usize::try_from(request.updates_max).unwrap_or(0).min(UPDATES_MAX);
    let wait_ms = u64::try_from(request.wait_ms.clamp(0, WAIT_MS_MAX)).unwrap_or(0);
    // Who asks for no updates asks about the cluster only.
    let updates = match updates_max {
        0 => Vec::new(),
        _ => {
            handle
                .fetch_metadata(request.after_offset, updates_max, Duration::from_millis(wait_ms))
                .await
        }
    };
    let mut size_bytes = 0;
    let entries = updates.iter().map(entry).take_while(|entry| {
        let first = size_bytes == 0;
        size_bytes += entry.batch.len();
        first || size_bytes <= shared.settings.fetch_bytes_max
    });
    FetchMetadataResponse {
        entries: entries.collect(),
        ..about(shared)
    }
}

fn entry(update: &MetadataUpdate) -> MetadataEntry {
    let (batch, snapshot) = match &update.content {
        MetadataContent::Records(records) => (batch_bytes(records.to_vec()), false),
        MetadataContent::Snapshot => (batch_bytes(update.image.to_records()), true),
    };
    MetadataEntry {
        offset: update.offset,
        epoch: update.epoch,
        batch,
        snapshot,
    }
}

fn refused(shared: &Shared, refused: String) -> FetchMetadataResponse {
    FetchMetadataResponse {
        refused,
        ..about(shared)
    }
}

fn about(shared: &Shared) -> FetchMetadataResponse {
    let leadership = shared.leadership();
    let image = shared.log.image();
    let controllers = image.controllers.values().filter_map(|controller| {
        let endpoint = controller.endpoints.first()?;
        Some(ControllerNode {
            node_id: controller.node_id,
            host: endpoint.host.to_string(),
            port: u32::from(endpoint.port),
        })
    });
    FetchMetadataResponse {
        refused: String::new(),
        cluster_id: shared.settings.cluster_id.clone(),
        leader: leadership.leader.unwrap_or(NO_NODE),
        epoch: i32::try_from(leadership.term).unwrap_or(i32::MAX),
        entries: Vec::new(),
        controllers: controllers.collect(),
    }
}

fn note_observer(shared: &Shared, request: &FetchMetadataRequest) {
    if request.node_id < 0 || request.updates_max <= 0 {
        return;
    }
    let now_ms = wall_ms();
    let caught_up = shared.log.is_everything(request.after_offset);
    let mut observers = shared.observers.lock();
    observers.retain(|_, observer| now_ms - observer.last_fetch_ms < OBSERVER_SILENT_MS_MAX);
    if observers.len() >= OBSERVERS_MAX && !observers.contains_key(&request.node_id) {
        return;
    }
    let observer = observers.entry(request.node_id).or_insert(Observer {
        directory_id: Uuid::nil(),
        offset: request.after_offset,
        last_fetch_ms: now_ms,
        last_caught_up_ms: -1,
    });
    observer.directory_id = uuid(&request.directory_id);
    observer.offset = request.after_offset;
    observer.last_fetch_ms = now_ms;
    if caught_up {
        observer.last_caught_up_ms = now_ms;
    }
}
