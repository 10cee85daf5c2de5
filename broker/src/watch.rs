//! What waits for partitions to change: a fetch session, or one fetch that is parked.
//!
//! Promises that a change is never missed: it is marked whether or not somebody waits, and whoever waits is woken once, when
//! so many bytes may have come that the wait is over, or at once when there is something else to tell. Does not know what
//! changed; whoever is woken looks at the partitions that are marked, and at no others.

use std::task::{Context, Poll, Waker};

use odradek_broker_core::fetch_session::SlotId;
use parking_lot::Mutex;

/// Partitions that changed since they were last looked at, and who is told.
#[derive(Default)]
pub struct Watch {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    marked: Vec<SlotId>,
    /// By slot, so that a partition is marked once however often it changes.
    is_marked: Vec<bool>,
    /// Bytes that the wait lacks.
    missing_bytes: usize,
    is_urgent: bool,
    waker: Option<Waker>,
}

/// How a partition changed, as one kind of reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// So many more bytes can be read, at most. With none, only offsets changed, which nobody need be woken for.
    Readable(usize),
    /// Leadership, an error, the log start: whoever waits must be answered.
    Urgent,
}

impl Watch {
    /// A partition changed.
    pub fn mark(&self, slot: SlotId, change: Change) {
        let waker = {
            let mut state = self.state.lock();
            state.mark(slot);
            match change {
                Change::Readable(bytes) => state.missing_bytes = state.missing_bytes.saturating_sub(bytes),
                Change::Urgent => state.is_urgent = true,
            }
            if state.is_over() { state.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Moves the marked partitions to `into`, which is empty; they can be marked again.
    pub fn take(&self, into: &mut Vec<SlotId>) {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.marked, into);
        for slot in into.iter() {
            state.is_marked[*slot as usize] = false;
        }
        state.is_urgent = false;
    }

    /// Begins to wait for so many bytes; false if something changed since [`Watch::take`].
    pub fn park(&self, missing_bytes: usize) -> bool {
        let mut state = self.state.lock();
        state.missing_bytes = missing_bytes.max(1);
        state.marked.is_empty()
    }

    /// Ready when the wait is over.
    pub fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.is_over() {
            return Poll::Ready(());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl State {
    fn mark(&mut self, slot: SlotId) {
        let at = slot as usize;
        if self.is_marked.len() <= at {
            self.is_marked.resize(at + 1, false);
        }
        if !self.is_marked[at] {
            self.is_marked[at] = true;
            self.marked.push(slot);
        }
    }

    fn is_over(&self) -> bool {
        self.is_urgent || self.missing_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Waiting {
        watch: Watch,
        wakes: Arc<Wakes>,
    }

    impl Waiting {
        fn for_bytes(bytes: usize) -> Self {
            let waiting = Self {
                watch: Watch::default(),
                wakes: Arc::default(),
            };
            assert!(waiting.watch.park(bytes));
            assert!(!waiting.is_over());
            waiting
        }

        fn is_over(&self) -> bool {
            let waker = self.wakes.clone().into();
            self.watch.poll_over(&mut Context::from_waker(&waker)).is_ready()
        }

        fn wakes(&self) -> usize {
            self.wakes.0.load(Ordering::SeqCst)
        }

        fn marked(&self) -> Vec<SlotId> {
            let mut marked = Vec::new();
            self.watch.take(&mut marked);
            marked
        }
    }

    #[test]
    fn bytes_of_all_partitions_add_up_to_one_wake() {
        let waiting = Waiting::for_bytes(100);
        for (slot, bytes) in [(3, 40), (1, 40), (3, 0)] {
            waiting.watch.mark(slot, Change::Readable(bytes));
            assert!(!waiting.is_over());
        }
        assert_eq!(waiting.wakes(), 0);
        waiting.watch.mark(1, Change::Readable(40));
        waiting.watch.mark(3, Change::Readable(40));
        assert_eq!(waiting.wakes(), 1);
        assert!(waiting.is_over());
        assert_eq!(waiting.marked(), [3, 1]);
        assert!(waiting.marked().is_empty());
    }

    #[test]
    fn what_is_urgent_wakes_whatever_is_missing() {
        let waiting = Waiting::for_bytes(usize::MAX);
        waiting.watch.mark(0, Change::Urgent);
        assert_eq!(waiting.wakes(), 1);
        assert_eq!(waiting.marked(), [0]);
        assert!(waiting.watch.park(1));
        assert!(!waiting.is_over(), "it was told once");
    }

    #[test]
    fn nobody_waits_over_a_change_that_came_before() {
        let watch = Watch::default();
        watch.mark(0, Change::Readable(5));
        assert!(!watch.park(10));
        watch.take(&mut Vec::new());
        assert!(watch.park(10));
    }
}
