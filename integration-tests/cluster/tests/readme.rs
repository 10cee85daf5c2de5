//! The commands of README.md do what it says: each block is run as it stands there, against a cluster of the README's first
//! command. Only the ports are other ones, and where the data is kept.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use odradek_cluster_tests::cluster::free_port;
use odradek_cluster_tests::wait::{eventually, holds};
use odradek_cluster_tests::{binary, process};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Where README.md says that the cluster is.
const BASE_PORT: u16 = 9092;
/// From a base port to the ports of its metrics.
const TO_METRICS: u16 = 312;
const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn readme() -> String {
    fs::read_to_string(repository().join("README.md")).expect("README.md is there")
}

/// The blocks of a language, in order.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = text.split(&fence).skip(1);
    parts
        .map(|rest| {
            rest.split("```")
                .next()
                .expect("split has a first part")
                .to_owned()
        })
        .collect()
}

/// The README's first command, on ports and in a directory of its own.
struct Cluster {
    child: Child,
    base_port: u16,
    directory: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let base_port = base_port();
        let file = |name| File::create(directory.path().join(name)).expect("the directory is new");
        let mut command = Command::new(binary::odradek());
        command
            .args(["cluster", "--nodes", "3"])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .arg("--base-port")
            .arg(base_port.to_string());
        command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"));
        let child = process::spawn(command).expect("the binary can be started");
        let mut cluster = Self {
            child,
            base_port,
            directory,
        };
        eventually("the cluster is ready", READY_LIMIT, async || {
            assert_eq!(
                cluster.child.try_wait().expect("a child"),
                None,
                "{}",
                cluster.said()
            );
            holds(cluster.said().contains("bootstrap servers"), cluster.said())
        })
        .await;
        cluster
    }

    fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        read("stdout") + &read("stderr")
    }

    /// README.md's text with this cluster's ports.
    fn here(&self, text: &str) -> String {
        let mut here = text.to_owned();
        for node in 0..3 {
            for shift in [2 * node, TO_METRICS + node] {
                let there = format!("127.0.0.1:{}", BASE_PORT + shift);
                here = here.replace(&there, &format!("127.0.0.1:{}", self.base_port + shift));
            }
        }
        here
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut path = binary::odradek()
            .parent()
            .expect("the binary is in a directory")
            .as_os_str()
            .to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        Command::new(program)
            .args(arguments)
            .env("PATH", path)
            .current_dir(repository())
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// Ctrl-C.
    async fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id is positive");
        kill_process(pid, Signal::INT).expect("a child can be signalled");
        eventually("Ctrl-C stops all nodes", STOP_LIMIT, async || {
            let ended = self.child.try_wait().expect("a child can be waited for");
            let status = ended.ok_or_else(|| self.said())?;
            assert!(status.success(), "{status}: {}", self.said());
            Ok(())
        })
        .await;
        for port in ports(self.base_port) {
            assert!(is_free(port), "somebody still listens on {port}");
        }
    }
}

fn ports(base: u16) -> impl Iterator<Item = u16> {
    (base..base + 6).chain(base + TO_METRICS..base + TO_METRICS + 3)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn base_port() -> u16 {
    std::iter::repeat_with(free_port)
        .take(1_000)
        .find(|base| ports(*base).all(is_free))
        .expect("six ports in a row are free somewhere")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A program of a block that is not installed.
fn missing(block: &str) -> Option<String> {
    let commands = block.lines().flat_map(|line| line.split('|'));
    let programs = commands.filter_map(|command| command.split_whitespace().next());
    let mut programs = programs.filter(|program| *program != "odradek");
    let is_missing = |program: &&str| {
        let found = Command::new("bash")
            .args(["-c", "command -v \"$0\"", program])
            .output();
        !found.expect("there is bash").status.success()
    };
    programs.find(is_missing).map(str::to_owned)
}

#[tokio::test]
async fn every_block_of_commands_works() {
    let readme = readme();
    let cluster = Cluster::start().await;
    let said = cluster.said();
    for port in ports(cluster.base_port) {
        assert!(
            said.contains(&format!("127.0.0.1:{port}")),
            "{port} is not told: {said}"
        );
    }
    let mut answers = String::new();
    for block in blocks(&readme, "sh") {
        if block.starts_with("make ") {
            continue;
        }
        if let Some(program) = missing(&block) {
            eprintln!("not run, because there is no {program}:\n{block}");
            continue;
        }
        let output = cluster.run("bash", &["-euo", "pipefail", "-c", &cluster.here(&block)]);
        assert!(output.status.success(), "{block}\n{}", text(&output));
        answers += &text(&output);
    }
    assert!(answers.contains("PartitionCount: 3"), "{answers}");
    assert!(
        missing("kcat").is_some() || answers.contains("hello"),
        "{answers}"
    );
    python(&cluster, &readme);
    cluster.stop().await;
}

fn python(cluster: &Cluster, readme: &str) {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let installed = home.join(".cache/odradek/clients/venv/bin/python");
    let interpreter = if installed.exists() {
        installed
    } else {
        "python3".into()
    };
    let interpreter = interpreter.to_string_lossy();
    let has_client = Command::new(&*interpreter)
        .args(["-c", "import confluent_kafka"])
        .output();
    for block in blocks(readme, "python") {
        if !has_client.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("not run, because there is no confluent-kafka:\n{block}");
            continue;
        }
        let output = cluster.run(&interpreter, &["-c", &cluster.here(&block)]);
        assert!(output.status.success(), "{block}\n{}", text(&output));
        assert!(text(&output).contains("hello"), "{block}\n{}", text(&output));
    }
}

/// `make cluster` is what the other test starts; `make test` is what runs this.
#[test]
fn every_target_of_make_is_there() {
    let mut targets = Vec::new();
    for block in blocks(&readme(), "sh") {
        for line in block.lines() {
            targets.extend(line.strip_prefix("make ").map(str::to_owned));
        }
    }
    assert_eq!(targets, ["cluster", "test"], "the README's two commands");
    for target in targets {
        let output = Command::new("make")
            .args(["--dry-run", &target])
            .current_dir(repository())
            .output()
            .expect("make can be started");
        let recipe = text(&output);
        assert!(output.status.success(), "make {target}: {recipe}");
        let holds = match &*target {
            "cluster" => recipe.contains("odradek cluster --nodes 3"),
            _ => recipe.contains("test --workspace"),
        };
        assert!(holds, "make {target}: {recipe}");
    }
}

#[test]
fn links_lead_to_files() {
    for link in readme().split("](").skip(1) {
        let target = link.split(')').next().expect("split has a first part");
        if !target.starts_with("http") {
            assert!(repository().join(target).exists(), "{target} is not there");
        }
    }
}
