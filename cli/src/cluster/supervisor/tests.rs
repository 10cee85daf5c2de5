//! The supervisor with shell scripts in place of nodes.

use std::os::unix::fs::PermissionsExt;

use super::*;

const NODES: i32 = 3;

/// A cluster of "nodes" that are shell scripts, which say `up <name>` in their logs and `told` at SIGTERM.
struct Scene {
    _directory: tempfile::TempDir,
    layout: Layout,
    supervisor: Supervisor,
    received: mpsc::Receiver<Event>,
}

fn scene() -> Scene {
    let directory = tempfile::tempdir().expect("a directory");
    let layout = Layout::new(directory.path()).expect("fits");
    for id in 1..=NODES {
        fs::create_dir_all(layout.node(id).directory).expect("makes");
    }
    let (events, received) = mpsc::channel(16);
    Scene {
        supervisor: Supervisor::new(layout.clone(), events),
        layout,
        received,
        _directory: directory,
    }
}

impl Scene {
    /// One that ends at SIGTERM.
    fn program(&self, name: &str) -> PathBuf {
        self.script(name, "exit 0")
    }

    fn script(&self, name: &str, when_told: &str) -> PathBuf {
        let path = self.layout.root.join(name);
        let script = format!(
            "#!/bin/sh\ntrap 'echo told; {when_told}' TERM\necho up {name}\nwhile :; do sleep 0.01; done\n"
        );
        fs::write(&path, script).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("sets");
        path
    }

    fn log(&self, id: i32) -> String {
        fs::read_to_string(self.layout.node(id).log).unwrap_or_default()
    }

    async fn until_log_has(&self, text: &str) {
        self.until_log_of(1, text).await;
    }

    async fn until_log_of(&self, id: i32, text: &str) {
        while !self.log(id).contains(text) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn a_request_restarts_a_node_with_another_program() {
    let mut scene = scene();
    let (first, second) = (scene.program("first"), scene.program("second"));
    scene.supervisor.start(1, &first).expect("starts");
    scene.until_log_has("up first").await;
    let files = scene.layout.node(1);
    let before = processes::read_pid(&files.pid).expect("written");
    fs::write(&files.restart, second.display().to_string()).expect("writes");
    scene.supervisor.take_requests();
    let Some(Event::Ended { id, status }) = scene.received.recv().await else {
        panic!("it ends")
    };
    assert_eq!(status.as_ref().expect("a status").code(), Some(0));
    scene.supervisor.ended(id, &status);
    scene.until_log_has("up second").await;
    assert_ne!(processes::read_pid(&files.pid).expect("written"), before);
    assert!(!files.restart.exists());
    scene.supervisor.stop(&mut scene.received).await;
    assert!(!files.pid.exists());
}

#[tokio::test]
async fn a_request_for_a_program_that_is_not_there_says_so() {
    let mut scene = scene();
    let files = scene.layout.node(1);
    scene.supervisor.nodes.insert(1, Node::default());
    fs::write(&files.restart, "/nowhere/odradek").expect("writes");
    scene.supervisor.take_requests();
    let reason = fs::read_to_string(&files.restart_failed).expect("written");
    assert!(reason.contains("/nowhere/odradek"), "{reason}");
}

#[tokio::test]
async fn the_last_node_that_dies_ends_the_cluster() {
    let mut scene = scene();
    let program = scene.program("only");
    scene.supervisor.start(1, &program).expect("starts");
    scene.until_log_has("up only").await;
    let pid = processes::read_pid(&scene.layout.node(1).pid).expect("written");
    processes::signal(pid, Signal::KILL).expect("kills");
    let error = scene
        .supervisor
        .until_stopped(&mut scene.received)
        .await
        .expect_err("none is left");
    assert!(error.to_string().contains("no node is left"));
}

#[tokio::test]
async fn whoever_asks_again_for_the_end_does_not_wait_for_it() {
    let mut scene = scene();
    let stubborn = scene.script("stubborn", ":");
    for id in 1..=NODES {
        scene.supervisor.start(id, &stubborn).expect("starts");
        scene.until_log_of(id, "up stubborn").await;
    }
    let again = scene.supervisor.events.clone();
    again.send(Event::StopRequested).await.expect("is received");
    scene.supervisor.stop(&mut scene.received).await;
    assert!(scene.supervisor.alive().is_empty());
    for id in 2..=NODES {
        assert!(!scene.log(id).contains("told"), "node {id} was asked to stop");
    }
}
