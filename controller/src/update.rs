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
/// How many records these updates may have together.
pub const RECORDS_KEPT_MAX: usize = 50_000;

/// One step of the committed metadata.
#[derive(Clone, Debug)]
pub struct MetadataUpdate {
    /// The raft index of the entry (for an image: of the last entry in it).
    pub offset: i64,
    /// The raft term of that entry.
    pub epoch: i32,
    /// What happened.
    pub content: MetadataContent,
    /// The metadata with this update applied, and perhaps later ones: whoever needs each state in turn applies the records.
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
    updates: VecDeque<Kept>,
    records: usize,
    /// Every update after this offset is in `updates`.
    complete_after: i64,
    offset: i64,
    epoch: i32,
    image: Arc<MetadataImage>,
}

/// An update without its image: a thousand images of a large topic would be a thousand lists of its partitions.
struct Kept {
    offset: i64,
    epoch: i32,
    records: Arc<Vec<MetadataRecord>>,
}

impl Tail {
    fn keep(&mut self, kept: Kept) {
        self.records += kept.records.len();
        self.updates.push_back(kept);
        while self.updates.len() > UPDATES_KEPT_MAX || self.records > RECORDS_KEPT_MAX {
            let Some(dropped) = self.updates.pop_front() else {
                return;
            };
            self.records -= dropped.records.len();
            self.complete_after = dropped.offset;
        }
    }
}

impl MetadataLog {
    /// A log that starts with an image at an offset.
    #[must_use]
    pub fn new(offset: i64, epoch: i32, image: Arc<MetadataImage>) -> Arc<Self> {
        let tail = Tail {
            updates: VecDeque::new(),
            records: 0,
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

    /// Whether a reader that has everything up to an offset lacks nothing; entries without records are nothing to lack.
    #[must_use]
    pub fn is_everything(&self, offset: i64) -> bool {
        offset >= self.newest()
    }

    /// The offset of the newest update: a reader that has it lacks nothing.
    #[must_use]
    pub fn newest(&self) -> i64 {
        let tail = self.tail.lock();
        tail.updates
            .back()
            .map_or(tail.complete_after, |kept| kept.offset)
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
            match update.content {
                MetadataContent::Snapshot => {
                    tail.updates.clear();
                    tail.records = 0;
                    tail.complete_after = offset;
                    true
                }
                MetadataContent::Records(records) if records.is_empty() => false,
                MetadataContent::Records(records) => {
                    tail.keep(Kept {
                        offset,
                        epoch: update.epoch,
                        records,
                    });
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
        let from = tail.updates.partition_point(|kept| kept.offset <= offset);
        let updates = tail
            .updates
            .iter()
            .skip(from)
            .take(updates_max)
            .map(|kept| MetadataUpdate {
                offset: kept.offset,
                epoch: kept.epoch,
                content: MetadataContent::Records(kept.records.clone()),
                image: tail.image.clone(),
            });
        updates.collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(log: &MetadataLog, offset: i64, records: usize) {
        let image = MetadataImage {
            offset,
            ..MetadataImage::default()
        };
        log.publish(MetadataUpdate {
            offset,
            epoch: 1,
            content: MetadataContent::Records(Arc::new(vec![MetadataRecord::default(); records])),
            image: Arc::new(image),
        });
    }

    fn offsets(updates: &[MetadataUpdate]) -> Vec<(i64, bool)> {
        let is_image = |update: &MetadataUpdate| matches!(update.content, MetadataContent::Snapshot);
        updates
            .iter()
            .map(|update| (update.offset, is_image(update)))
            .collect()
    }

    #[test]
    fn readers_get_everything_or_an_image() {
        let log = MetadataLog::new(
            5,
            1,
            Arc::new(MetadataImage {
                offset: 5,
                ..MetadataImage::default()
            }),
        );
        let mut reader = log.subscribe();
        assert_eq!(
            offsets(&[reader.try_recv().expect("the image of now")]),
            [(5, true)]
        );
        publish(&log, 6, 1);
        publish(&log, 7, 0);
        publish(&log, 8, 2);
        let read = [reader.try_recv().expect("6"), reader.try_recv().expect("8")];
        assert_eq!(offsets(&read), [(6, false), (8, false)]);
        assert!(reader.try_recv().is_none());
        // An empty entry moves the offset only; a reader that is ahead waits.
        publish(&log, 9, 0);
        assert!(log.read_after(8, 10).is_empty() && log.read_after(20, 10).is_empty());
        assert!(log.is_everything(8) && !log.is_everything(7));
        for offset in 10..10 + 2 * i64::try_from(UPDATES_KEPT_MAX).expect("small") {
            publish(&log, offset, 1);
        }
        let end = log.offset().0;
        assert_eq!(offsets(&[reader.try_recv().expect("an image")]), [(end, true)]);
        assert!(reader.try_recv().is_none());
        publish(&log, end + 1, RECORDS_KEPT_MAX + 1);
        assert_eq!(offsets(&log.read_after(end, 10)), [(end + 1, true)]);
    }
}
