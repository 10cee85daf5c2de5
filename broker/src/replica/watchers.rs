//! Who is told when a partition changes: fetches and sessions that have read all there was.
//!
//! Promises one mark per watcher and change, and none for what a watcher cannot see. The list is handed out as it is, so that
//! it is gone through without the partition's lock.

use std::sync::Arc;

use odradek_broker_core::fetch_session::SlotId;

use super::Offsets;
use super::reading::Isolation;
use crate::watch::{Change, Watch};

/// A reader and how far it may see.
#[derive(Clone)]
pub struct Watcher {
    /// What is marked.
    pub watch: Arc<Watch>,
    /// As which of its partitions.
    pub slot: SlotId,
    /// How far it reads.
    pub isolation: Isolation,
}

/// The watchers of one partition.
#[derive(Default)]
pub(super) struct Watchers {
    list: Arc<Vec<Watcher>>,
    /// The offsets that they were told last.
    told: Option<Offsets>,
}

/// What the watchers are to be told, after the partition's lock is gone.
pub(super) struct News {
    watchers: Arc<Vec<Watcher>>,
    log_end: Option<Change>,
    committed: Option<Change>,
    stable: Option<Change>,
}

impl Watchers {
    pub(super) fn add(&mut self, watcher: Watcher, now: Offsets) {
        // Nobody has looked before: what changed until now is no news to anybody.
        if self.list.is_empty() {
            self.told = Some(now);
        }
        Arc::make_mut(&mut self.list).push(watcher);
    }

    pub(super) fn remove(&mut self, watch: &Arc<Watch>, slot: SlotId) {
        let is_it = |watcher: &Watcher| watcher.slot == slot && Arc::ptr_eq(&watcher.watch, watch);
        if let Some(at) = self.list.iter().position(is_it) {
            Arc::make_mut(&mut self.list).swap_remove(at);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Compares with what was told before. `bytes_between` counts the bytes between two offsets, if that is known.
    pub(super) fn news(
        &mut self,
        now: Offsets,
        is_urgent: bool,
        bytes_between: impl Fn(i64, i64) -> Option<usize>,
    ) -> Option<News> {
        if self.list.is_empty() {
            return None;
        }
        let before = self.told.replace(now).unwrap_or(now);
        let urgent = is_urgent || now.log_start != before.log_start || now.log_end < before.log_end;
        if !urgent && now == before {
            return None;
        }
        let readable = |from: i64, to: i64| {
            // Unknown is enough: whoever is woken for nothing waits on.
            let bytes = if to > from {
                bytes_between(from, to).unwrap_or(usize::MAX)
            } else {
                0
            };
            Change::Readable(bytes)
        };
        let is_committed_news = urgent || now.high_watermark != before.high_watermark;
        let change = |is_news: bool, from: i64, to: i64| {
            let change = || {
                if urgent {
                    Change::Urgent
                } else {
                    readable(from, to)
                }
            };
            is_news.then(change)
        };
        let is_stable_news = is_committed_news || now.last_stable != before.last_stable;
        Some(News {
            watchers: self.list.clone(),
            log_end: change(true, before.log_end, now.log_end),
            committed: change(is_committed_news, before.high_watermark, now.high_watermark),
            stable: change(is_stable_news, before.last_stable, now.last_stable),
        })
    }
}

impl News {
    /// Tells everybody. Not to be called with the partition's lock held.
    pub(super) fn tell(self) {
        for watcher in self.watchers.iter() {
            let change = match watcher.isolation {
                Isolation::LogEnd => self.log_end,
                Isolation::ReadUncommitted => self.committed,
                Isolation::ReadCommitted => self.stable,
            };
            if let Some(change) = change {
                watcher.watch.mark(watcher.slot, change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Offsets = Offsets {
        log_start: 0,
        high_watermark: 5,
        last_stable: 5,
        log_end: 5,
    };

    /// What a reader of each isolation is told of a change, in bytes that are ten for each record.
    fn told(now: Offsets, is_urgent: bool) -> [Option<Change>; 3] {
        let isolations = [
            Isolation::LogEnd,
            Isolation::ReadUncommitted,
            Isolation::ReadCommitted,
        ];
        let mut watchers = Watchers::default();
        let watches: Vec<Arc<Watch>> = isolations.map(|_| Arc::default()).into();
        for (watch, isolation) in watches.iter().zip(isolations) {
            let watcher = Watcher {
                watch: watch.clone(),
                slot: 0,
                isolation,
            };
            watchers.add(watcher, START);
        }
        let news = watchers.news(now, is_urgent, |from, to| Some((to - from) as usize * 10));
        let found = news
            .as_ref()
            .map_or([None; 3], |news| [news.log_end, news.committed, news.stable]);
        if let Some(news) = news {
            news.tell();
        }
        for (watch, change) in watches.iter().zip(found) {
            let mut marked = Vec::new();
            watch.take(&mut marked);
            assert_eq!(marked.len(), usize::from(change.is_some()));
        }
        assert!(watchers.news(now, false, |_, _| None).is_none(), "it was told");
        found
    }

    #[test]
    fn readers_learn_what_they_can_see() {
        let appended = Offsets { log_end: 8, ..START };
        assert_eq!(told(appended, false), [Some(Change::Readable(30)), None, None]);
        let committed = Offsets {
            high_watermark: 8,
            ..appended
        };
        assert_eq!(
            told(committed, false),
            [
                Some(Change::Readable(30)),
                Some(Change::Readable(30)),
                Some(Change::Readable(0))
            ]
        );
        assert_eq!(told(START, false), [None; 3]);
    }

    #[test]
    fn whoever_waits_learns_of_deletion_truncation_and_errors_at_once() {
        let deleted = Offsets {
            log_start: 2,
            ..START
        };
        let truncated = Offsets { log_end: 4, ..START };
        assert_eq!(told(deleted, false), [Some(Change::Urgent); 3]);
        assert_eq!(told(truncated, false), [Some(Change::Urgent); 3]);
        assert_eq!(told(START, true), [Some(Change::Urgent); 3]);
    }

    #[test]
    fn whoever_left_is_told_nothing() {
        let mut watchers = Watchers::default();
        let watch: Arc<Watch> = Arc::default();
        for slot in 0..2 {
            let watcher = Watcher {
                watch: watch.clone(),
                slot,
                isolation: Isolation::LogEnd,
            };
            watchers.add(watcher, START);
        }
        watchers.remove(&watch, 0);
        let appended = Offsets { log_end: 8, ..START };
        watchers.news(appended, false, |_, _| None).unwrap().tell();
        let mut marked = Vec::new();
        watch.take(&mut marked);
        assert_eq!(marked, [1]);
    }
}
