//! The tasks that the broker role cannot be without, each with its name: one that panics ends the process.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use slog::Logger;

use crate::broker::Broker;
use crate::coordinator::transactions::TransactionCoordinators;
use crate::lifecycle::Lifecycle;
use crate::vital;

/// One of them, before it runs.
pub(super) struct Task {
    what: &'static str,
    work: BoxFuture<'static, ()>,
}

impl Task {
    fn new(what: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Self {
        let work = work.boxed();
        Self { what, work }
    }

    /// What a runtime is to poll.
    pub(super) fn run(self, log: &Logger) -> impl Future<Output = ()> + Send + use<> {
        vital::task(self.what, log.clone(), self.work)
    }
}

/// All of them. `reading` brings the metadata to a node that has no controller of its own.
pub(super) fn of_broker(
    broker: &Arc<Broker>,
    lifecycle: Lifecycle,
    reading: Option<impl Future<Output = ()> + Send + 'static>,
) -> Vec<Task> {
    let (isr, assignments) = (broker.isr.clone(), broker.replicas.assignments().clone());
    let mut tasks = vec![
        Task::new("ISR updates", isr.run(broker.clone())),
        Task::new(
            "transaction markers",
            TransactionCoordinators::write_markers(broker.clone()),
        ),
        Task::new("directory assignments", assignments.run(broker.clone())),
        Task::new("lifecycle", lifecycle.run()),
    ];
    tasks.extend(reading.map(|reading| Task::new("metadata reader", reading)));
    tasks
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use odradek_controller::client::{MetadataReader, RemoteMetadata};
    use tokio::sync::watch;
    use uuid::Uuid;

    use super::*;
    use crate::fixtures::LoneBroker;

    /// Which of the tasks the child is to run.
    const CHILD: &str = "ODRADEK_TEST_TASKS_CHILD";
    const TASKS: usize = 5;
    const SIGABRT: i32 = 6;

    /// On a runtime without a timer, where every one of them panics.
    fn run_without_a_timer(which: usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let folder = tempfile::tempdir().unwrap();
        let mut lone = LoneBroker::at(folder.path());
        // In a directory that the metadata does not name: there is something to be told.
        lone.create("t", LoneBroker::NODE);
        let (_stop, stopping) = watch::channel(false);
        let (lifecycle, _state) = Lifecycle::new(lone.broker.clone(), Vec::new(), -1, stopping);
        let reader = MetadataReader {
            node_id: LoneBroker::NODE,
            directory_id: Uuid::from_u128(1),
            cluster_id: String::new(),
        };
        let (_remote, reading) =
            RemoteMetadata::new(reader, vec!["127.0.0.1:1".to_owned()], &lone.broker.log);
        let mut tasks = of_broker(&lone.broker, lifecycle, Some(reading));
        assert_eq!(tasks.len(), TASKS, "each is tried");
        let task = tasks.swap_remove(which).run(&lone.broker.log);
        // The runtime takes a task's panic for its outcome.
        _ = runtime.block_on(runtime.spawn(task));
    }

    #[test]
    fn each_ends_the_process_when_it_panics() {
        if let Ok(which) = std::env::var(CHILD) {
            return run_without_a_timer(which.parse().unwrap());
        }
        // What a child leaves behind when it dies.
        let folder = tempfile::tempdir().unwrap();
        let run = |which: usize| {
            Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "server::tasks::tests::each_ends_the_process_when_it_panics",
                ])
                .env(CHILD, which.to_string())
                .env("TMPDIR", folder.path())
                .env("RUST_BACKTRACE", "0")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let children: Vec<_> = (0..TASKS).map(run).collect();
        for (which, mut child) in children.into_iter().enumerate() {
            let ended = child.wait().unwrap();
            assert_eq!(ended.signal(), Some(SIGABRT), "task {which}: {ended}");
        }
    }
}
