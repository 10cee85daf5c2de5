//! What the metadata log tells its readers: an ordered stream of committed records, or a whole image for those who are
//! new or fell behind. Nothing is ever skipped without an image in its place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use odradek_common::metadata::MetadataImage;
use odradek_common::metadata::proto::MetadataRecord;
use parking_lot::Mutex;
use tokio::sync::watch;

/// How many committed updates are kept for readers that are a little behind; who is further behind gets an image.
pub const UPDATES_KEPT_MAX: usize = 1_024;

/// One step of the committed metadata.
#[derive(Clone, Debug)]
pub struct MetadataUpdate {
    /// The raft index of the entry (for an image: of the last entry in it).
    pub offset: i64,
    /// The raft term of that entry.
    pub epoch: i32,
    /// What happened.
    pub content: MetadataContent,
    /// The metadata with this update applied.
    pub image: Arc<MetadataImage>,
}

/// What an update carries.
#[derive(Clone, Debug)]
pub enum MetadataContent {
    /// The records of one committed entry, in order; never empty.
    Records(Arc<Vec<MetadataRecord>>),
    /// `MetadataUpdate::image` replaces whatever the reader had.
    Snapshot,
}

/// The committed metadata, as the one who applies it publishes it.
pub struct MetadataLog {
    tail: Mutex<Tail>,
    published: watch::Sender<i64>,
}

struct Tail {
    updates: VecDeque<MetadataUpdate>,
    /// Every update after this offset is in `updates`.
    complete_after: i64,
    offset: i64,
    epoch: i32,
    image: Arc<MetadataImage>,
}

impl MetadataLog {
    /// A log that starts with an image at an offset.
    #[must_use]
    pub fn new(offset: i64, epoch: i32, image: Arc<MetadataImage>) -> Arc<Self> {
        let tail = Tail {
            updates: VecDeque::new(),
            complete_after: offset,
            offset,
            epoch,
            image,
        };
        Arc::new(Self {
            tail: Mutex::new(tail),
            published: watch::Sender::new(offset),
        })
    }

    /// The newest image.
    #[must_use]
    pub fn image(&self) -> Arc<MetadataImage> {
        self.tail.lock().image.clone()
    }

    /// The offset up to which readers are served, and its epoch.
    #[must_use]
    pub fn offset(&self) -> (i64, i32) {
        let tail = self.tail.lock();
        (tail.offset, tail.epoch)
    }

    /// Adds an update. An entry without records moves the offset only: readers are not woken for it.
    pub fn publish(&self, update: MetadataUpdate) {
        let offset = update.offset;
        let wake = {
            let mut tail = self.tail.lock();
            assert!(
                offset >= tail.offset,
                "metadata offset goes back from {} to {offset}",
                tail.offset
            );
            tail.offset = offset;
            tail.epoch = update.epoch;
            tail.image = update.image.clone();
            match &update.content {
                MetadataContent::Snapshot => {
                    tail.updates.clear();
                    tail.complete_after = offset;
                    true
                }
                MetadataContent::Records(records) if records.is_empty() => false,
                MetadataContent::Records(_) => {
                    tail.updates.push_back(update);
                    if tail.updates.len() > UPDATES_KEPT_MAX
                        && let Some(dropped) = tail.updates.pop_front()
                    {
                        tail.complete_after = dropped.offset;
                    }
                    true
                }
            }
        };
        if wake {
            self.published.send_replace(offset);
        }
    }

    /// Up to `updates_max` updates after an offset; one image when they are no longer kept; none when there is nothing new,
    /// or when the reader is ahead of this node.
    #[must_use]
    pub fn read_after(&self, offset: i64, updates_max: usize) -> Vec<MetadataUpdate> {
        let tail = self.tail.lock();
        if offset < tail.complete_after {
            return vec![MetadataUpdate {
                offset: tail.offset,
                epoch: tail.epoch,
                content: MetadataContent::Snapshot,
                image: tail.image.clone(),
            }];
        }
        let from = tail.updates.partition_point(|update| update.offset <= offset);
        tail.updates
            .iter()
            .skip(from)
            .take(updates_max)
            .cloned()
            .collect()
    }

    /// As `read_after`, but waits for something new for at most `wait`.
    pub async fn fetch_after(&self, offset: i64, updates_max: usize, wait: Duration) -> Vec<MetadataUpdate> {
        let mut published = self.published.subscribe();
        let updates = self.read_after(offset, updates_max);
        if !updates.is_empty() {
            return updates;
        }
        let _timed_out = tokio::time::timeout(wait, published.changed()).await;
        self.read_after(offset, updates_max)
    }

    /// A stream of everything from here on, beginning with the image of now.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>) -> MetadataReceiver {
        MetadataReceiver {
            log: self.clone(),
            published: self.published.subscribe(),
            position: None,
        }
    }
}

/// A reader's place in the stream. It buffers nothing: a reader that falls behind the kept updates gets an image.
pub struct MetadataReceiver {
    log: Arc<MetadataLog>,
    published: watch::Receiver<i64>,
    position: Option<i64>,
}

impl MetadataReceiver {
    /// The next update; the first is always an image. `None` once the publisher is gone and all was read. Cancel-safe.
    pub async fn recv(&mut self) -> Option<MetadataUpdate> {
        loop {
            self.published.borrow_and_update();
            if let Some(update) = self.try_recv() {
                return Some(update);
            }
            if self.published.changed().await.is_err() {
                return self.try_recv();
            }
        }
    }

    /// The next update if there is one already.
    pub fn try_recv(&mut self) -> Option<MetadataUpdate> {
        let update = self
            .log
            .read_after(self.position.unwrap_or(-1), 1)
            .into_iter()
            .next()?;
        self.position = Some(update.offset);
        Some(update)
    }
}
