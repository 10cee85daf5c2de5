//! Threads and tasks that a broker cannot be without: one that panics ends the process, and the next start recovers.
//!
//! A broker that went on without them would keep its heartbeats, and so its leaderships, and answer from metadata of the past, never
//! acknowledge, or never delete.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures::FutureExt;
use slog::Logger;

/// Time for the last line of the log to be written.
const LAST_LINE: Duration = Duration::from_millis(200);

/// Does the work of a thread.
pub(crate) fn work(what: &'static str, log: &Logger, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        end_process(what, log);
    }
}

/// Does the work of a task. One that is dropped has not panicked.
pub(crate) async fn task(what: &'static str, log: Logger, work: impl Future<Output = ()>) {
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        end_process(what, &log);
    }
}

fn end_process(what: &'static str, log: &Logger) -> ! {
    slog::crit!(log, "an invariant does not hold: the process ends, and its next start recovers"; "where" => what);
    // Another thread writes the line.
    std::thread::sleep(LAST_LINE);
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const CHILD: &str = "ODRADEK_TEST_VITAL_CHILD";
    const SIGABRT: i32 = 6;

    fn child_dies(name: &str) {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(SIGABRT), "{child:?}");
    }

    fn log() -> Logger {
        Logger::root(slog::Discard, slog::o!())
    }

    #[test]
    fn a_thread_that_panics_ends_the_process_and_one_that_ends_does_not() {
        if std::env::var_os(CHILD).is_some() {
            return work("a thread", &log(), || panic!("an invariant"));
        }
        work("a thread", &log(), || ());
        child_dies("vital::tests::a_thread_that_panics_ends_the_process_and_one_that_ends_does_not");
    }

    #[test]
    fn a_task_that_panics_ends_the_process_and_one_that_is_dropped_does_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        if std::env::var_os(CHILD).is_some() {
            // The runtime takes a task's panic for its outcome.
            let spawned = runtime.spawn(task("a task", log(), async { panic!("an invariant") }));
            _ = runtime.block_on(spawned);
            return;
        }
        let spawned = runtime.spawn(task("a task", log(), std::future::pending()));
        spawned.abort();
        assert!(runtime.block_on(spawned).unwrap_err().is_cancelled());
        child_dies("vital::tests::a_task_that_panics_ends_the_process_and_one_that_is_dropped_does_not");
    }
}
