//! One memory budget for everything that sockets have delivered and nobody has finished with.
//!
//! Promises that received request bytes stay below the budget, save a sixteenth of it and one frame more: one frame at a time may
//! overdraw it so that it gets finished at all, and what was read so may wait for its answer while others are read, because its answer
//! may depend on theirs. Does not fail anybody: a reader without budget waits until bytes come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

/// The part of a budget that frames may owe which have left the overdraft, but not yet memory.
const DEBT_SHARE: i64 = 16;
/// Nobody in the overdraft.
const NOBODY: u64 = 0;

/// Bytes that request frames may take up together; cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    size_bytes: i64,
    available: AtomicI64,
    /// The account that may go below zero; connection ids start at 1.
    overdraft: AtomicU64,
    waiting: AtomicUsize,
    waiters: Mutex<BTreeMap<u64, Waker>>,
}

impl MemoryBudget {
    /// A budget of `size_bytes`.
    #[must_use]
    pub fn new(size_bytes: usize) -> Self {
        let size_bytes = i64::try_from(size_bytes).unwrap_or(i64::MAX);
        Self {
            inner: Arc::new(Inner {
                size_bytes,
                available: AtomicI64::new(size_bytes),
                overdraft: AtomicU64::new(NOBODY),
                waiting: AtomicUsize::new(0),
                waiters: Mutex::new(BTreeMap::new()),
            }),
        }
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        let used = self.inner.size_bytes - self.inner.available.load(Ordering::Acquire);
        usize::try_from(used).unwrap_or(0)
    }

    /// Connections that wait for budget.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner.waiting.load(Ordering::SeqCst)
    }

    /// A lease over so many bytes, if they are left. Who has none must do without: nobody waits here.
    #[must_use]
    pub fn try_lease(&self, bytes: usize) -> Option<Lease> {
        (bytes == 0 || self.take(bytes, bytes) == bytes).then(|| self.lease(bytes))
    }

    /// Takes from `least` to `most` bytes; 0 when fewer than `least` are left.
    pub(crate) fn take(&self, least: usize, most: usize) -> usize {
        let wanted = i64::try_from(most).unwrap_or(i64::MAX);
        let least = i64::try_from(least).unwrap_or(i64::MAX).max(1);
        let mut available = self.inner.available.load(Ordering::SeqCst);
        loop {
            let granted = wanted.min(available);
            if granted < least {
                return 0;
            }
            match self.inner.available.compare_exchange_weak(
                available,
                available - granted,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return usize::try_from(granted).expect("granted is positive and at most `most`"),
                Err(current) => available = current,
            }
        }
    }

    /// Takes `bytes` below zero if `account` holds the overdraft, or nobody does and little is overdrawn yet; 0 otherwise.
    ///
    /// The second condition keeps the frames that have left the overdraft, but not yet memory, from piling up. That they may
    /// owe something lets a request through that such a frame's answer waits for.
    pub(crate) fn overdraw(&self, account: u64, bytes: usize) -> usize {
        let debt_max = self.inner.size_bytes / DEBT_SHARE;
        if !self.is_overdrawn_by(account) && self.inner.available.load(Ordering::Acquire) < -debt_max {
            return 0;
        }
        let holder =
            self.inner
                .overdraft
                .compare_exchange(NOBODY, account, Ordering::SeqCst, Ordering::SeqCst);
        if holder.is_err_and(|holder| holder != account) {
            return 0;
        }
        self.inner
            .available
            .fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::AcqRel);
        bytes
    }

    /// Leaves the overdraft, if `account` holds it.
    pub(crate) fn end_overdraft(&self, account: u64) {
        if self
            .inner
            .overdraft
            .compare_exchange(account, NOBODY, Ordering::SeqCst, Ordering::Acquire)
            .is_ok()
        {
            self.wake();
        }
    }

    /// Whether `account` holds the overdraft.
    fn is_overdrawn_by(&self, account: u64) -> bool {
        self.inner.overdraft.load(Ordering::Acquire) == account
    }

    /// Gives bytes back.
    pub(crate) fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.inner.available.fetch_add(bytes, Ordering::SeqCst);
        self.wake();
    }

    /// Remembers whom to wake when bytes come back; the caller must try once more after this.
    ///
    /// One stores that it waits and then looks at what is there, the other stores what is there and then looks who waits: all four are
    /// of one order (SeqCst), so that one of them sees the other.
    pub(crate) fn wait(&self, account: u64, waker: &Waker) {
        let mut waiters = self.inner.waiters.lock();
        waiters.insert(account, waker.clone());
        self.inner.waiting.store(waiters.len(), Ordering::SeqCst);
    }

    /// Forgets a waiter.
    pub(crate) fn stop_waiting(&self, account: u64) {
        let mut waiters = self.inner.waiters.lock();
        waiters.remove(&account);
        self.inner.waiting.store(waiters.len(), Ordering::Release);
    }

    /// A lease over bytes that were taken before.
    pub(crate) fn lease(&self, bytes: usize) -> Lease {
        Lease {
            budget: self.clone(),
            bytes,
        }
    }

    fn wake(&self) {
        if self.waiting() == 0 {
            return;
        }
        let waiters = {
            let mut waiters = self.inner.waiters.lock();
            self.inner.waiting.store(0, Ordering::Release);
            std::mem::take(&mut *waiters)
        };
        waiters.into_values().for_each(Waker::wake);
    }
}

/// Bytes of a budget that come back when this is dropped.
#[derive(Debug)]
pub struct Lease {
    budget: MemoryBudget,
    bytes: usize,
}

impl Lease {
    /// So many of its bytes as a lease of their own.
    ///
    /// # Panics
    /// It has not so many.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        assert!(bytes <= self.bytes, "{bytes} bytes of a lease of {}", self.bytes);
        self.bytes -= bytes;
        self.budget.lease(bytes)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}
