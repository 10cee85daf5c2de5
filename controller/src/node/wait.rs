//! Waiting for a future on a thread that has no runtime.
//!
//! A runtime's timers wake a thread once more on the way to most deadlines, and this one waits many times a second for as long as
//! the process lives. Promises to poll the future again after each wake-up, and to return no later than the scheduler lets it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// What comes of the future within `limit`.
pub(super) fn for_at_most<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    let waker = Waker::from(Arc::new(Sleeper(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(outcome);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

struct Sleeper(Thread);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn what_comes_from_another_thread_ends_the_wait() {
        let (sender, mut receiver) = mpsc::channel(1);
        let sending = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            sender.blocking_send(7).expect("somebody waits");
        });
        assert_eq!(
            for_at_most(Duration::from_secs(60), receiver.recv()),
            Some(Some(7))
        );
        sending.join().expect("no panic");
        assert_eq!(for_at_most(Duration::from_secs(60), receiver.recv()), Some(None));
    }

    #[test]
    fn nothing_comes_and_the_wait_ends_all_the_same() {
        let limit = Duration::from_millis(20);
        let began = Instant::now();
        assert_eq!(for_at_most(limit, std::future::pending::<()>()), None);
        assert!(began.elapsed() >= limit);
    }
}
