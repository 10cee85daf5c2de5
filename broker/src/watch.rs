//! What waits for partitions to change: a fetch session, or one fetch that is parked.
//!
//! Promises that a change is never missed: it is marked whether or not somebody waits, and whoever waits is woken once, when
//! so many bytes may have come that the wait is over, or at once when there is something else to tell. Does not know what
//! changed; whoever is woken looks at the partitions that are marked, and at no others.
//!
//! One round waits, the one that was begun last: whoever waits for an earlier one is woken, and waits no more.

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
    round: u64,
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

    /// Begins a round: whoever waits for an earlier one is woken. Moves the marked partitions as [`Watch::take`] does.
    pub fn begin_round(&self, round: u64, into: &mut Vec<SlotId>) {
        let superseded = {
            let mut state = self.state.lock();
            state.round = round;
            state.take(into)
        };
        if let Some(waker) = superseded {
            waker.wake();
        }
    }

    /// Moves the marked partitions to `into`, which is empty; they can be marked again.
    pub fn take(&self, into: &mut Vec<SlotId>) {
        // Of the round itself, which does not wait while it takes.
        let _waker = self.state.lock().take(into);
    }

    /// Begins to wait for so many bytes; false if something changed since [`Watch::take`], or a later round has begun.
    pub fn park(&self, round: u64, missing_bytes: usize) -> bool {
        let mut state = self.state.lock();
        if state.round != round {
            return false;
        }
        state.missing_bytes = missing_bytes.max(1);
        state.marked.is_empty()
    }

    /// Ready when the wait is over, or a later round has begun.
    pub fn poll_over(&self, round: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.round != round || state.is_over() {
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

    /// Whoever is registered waits no more.
    fn take(&mut self, into: &mut Vec<SlotId>) -> Option<Waker> {
        std::mem::swap(&mut self.marked, into);
        for slot in into.iter() {
            self.is_marked[*slot as usize] = false;
        }
        self.is_urgent = false;
        self.waker.take()
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

    impl Wakes {
        fn count(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    /// Without a session there is one round.
    const ROUND: u64 = 0;

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
            assert!(waiting.watch.park(ROUND, bytes));
            assert!(!waiting.is_over());
            waiting
        }

        fn is_over(&self) -> bool {
            is_over(&self.watch, ROUND, &self.wakes)
        }

        fn wakes(&self) -> usize {
            self.wakes.count()
        }

        fn marked(&self) -> Vec<SlotId> {
            let mut marked = Vec::new();
            self.watch.take(&mut marked);
            marked
        }
    }

    fn is_over(watch: &Watch, round: u64, wakes: &Arc<Wakes>) -> bool {
        let waker = wakes.clone().into();
        let mut context = Context::from_waker(&waker);
        watch.poll_over(round, &mut context).is_ready()
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
        assert!(waiting.watch.park(ROUND, 1));
        assert!(!waiting.is_over(), "it was told once");
    }

    #[test]
    fn nobody_waits_over_a_change_that_came_before() {
        let watch = Watch::default();
        watch.mark(0, Change::Readable(5));
        assert!(!watch.park(ROUND, 10));
        watch.take(&mut Vec::new());
        assert!(watch.park(ROUND, 10));
    }

    #[test]
    fn a_round_wakes_the_one_before_and_is_not_disturbed_by_it() {
        let watch = Watch::default();
        let (first, second) = (Arc::<Wakes>::default(), Arc::<Wakes>::default());
        let mut marked = Vec::new();
        watch.begin_round(1, &mut marked);
        assert!(watch.park(1, 100));
        assert!(!is_over(&watch, 1, &first));
        watch.begin_round(2, &mut marked);
        assert_eq!(first.count(), 1);
        assert!(watch.park(2, 10));
        assert!(!is_over(&watch, 2, &second));
        assert!(!watch.park(1, 100));
        assert!(is_over(&watch, 1, &first));
        watch.mark(0, Change::Readable(10));
        assert_eq!((first.count(), second.count()), (1, 1));
        assert!(is_over(&watch, 2, &second));
    }

    #[test]
    fn nobody_is_woken_whose_wait_is_over() {
        let watch = Watch::default();
        let wakes = Arc::<Wakes>::default();
        assert!(watch.park(ROUND, 1));
        assert!(!is_over(&watch, ROUND, &wakes));
        // Its time is up.
        watch.take(&mut Vec::new());
        watch.begin_round(ROUND + 1, &mut Vec::new());
        assert_eq!(wakes.count(), 0);
    }
}
