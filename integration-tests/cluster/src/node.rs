//! One node: its directory, its ports and its process, which may come and go.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wait::eventually;
use crate::{binary, process};

/// Until a node that was started is ready, on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Until a process that got SIGTERM has ended.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A node of a test's cluster. Dropped, it is killed.
#[derive(Debug)]
pub struct Node {
    /// `node.id`.
    pub id: i32,
    /// Where clients connect.
    pub port: u16,
    /// Where controllers and brokers connect.
    pub controller_port: u16,
    /// Where /metrics and /readyz are.
    pub metrics_port: u16,
    directory: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Node {
    /// A node that does not run yet.
    #[must_use]
    pub fn new(id: i32, directory: PathBuf, ports: [u16; 3]) -> Self {
        let [port, controller_port, metrics_port] = ports;
        Self {
            id,
            port,
            controller_port,
            metrics_port,
            directory,
            child: Mutex::new(None),
        }
    }

    /// `host:port` of the client listener.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its data, configuration and output are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `log.dirs`.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// `server.properties`.
    #[must_use]
    pub fn properties(&self) -> PathBuf {
        self.directory.join("server.properties")
    }

    /// What the process has logged, of all its runs.
    #[must_use]
    pub fn log_text(&self) -> String {
        let bytes = fs::read(self.directory.join("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts the process and does not wait.
    ///
    /// # Panics
    /// It runs already, or cannot be started.
    pub fn spawn(&self) {
        self.spawn_as(Command::new(binary::odradek()));
    }

    /// As [`Node::spawn`], with a command line that the node's arguments are added to.
    ///
    /// # Panics
    /// It runs already, or cannot be started.
    pub fn spawn_as(&self, mut command: Command) {
        let output = |name| {
            File::options()
                .append(true)
                .create(true)
                .open(self.directory.join(name))
                .expect("the test's directory can be written to")
        };
        command.arg("server").arg("--dev").arg(self.properties());
        command
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .stdin(std::process::Stdio::null());
        // Sanitised: variables of the caller must not configure the node.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KAFKA_") {
                command.env_remove(name);
            }
        }
        let mut child = self.lock();
        assert!(child.is_none(), "node {} runs already", self.id);
        *child = Some(process::spawn(command).expect("the binary can be started"));
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(&self) {
        self.spawn();
        self.ready().await;
    }

    /// Waits until /readyz answers 200.
    ///
    /// # Panics
    /// The process ends, or is not ready in time.
    pub async fn ready(&self) {
        let what = format!("node {} is ready", self.id);
        eventually(&what, READY_LIMIT, async || {
            if let Some(status) = self.ended() {
                panic!("node {} ended with {status}; it said:\n{}", self.id, self.tail());
            }
            match self.http("/readyz").await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("{status} {body}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Asks the metrics listener; the status and the body.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn http(&self, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream =
            TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.metrics_port))).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer
            .get(9..12)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, body.to_owned()))
    }

    /// The value of one sample of /metrics, by its whole name with labels.
    pub async fn metric(&self, sample: &str) -> Option<f64> {
        let (_, body) = self.http("/metrics").await.ok()?;
        let line = body
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    /// kill -9, and gone when this returns.
    pub fn kill(&self) {
        if let Some(mut child) = self.lock().take() {
            // Killing a process that has ended is what was wanted.
            _ = child.kill();
            _ = child.wait();
        }
    }

    /// SIGTERM, and how it ended.
    ///
    /// # Panics
    /// It does not run, or does not end in time.
    pub async fn stop(&self) -> ExitStatus {
        self.signal(Signal::TERM);
        let what = format!("node {} stops", self.id);
        let status = eventually(&what, STOP_LIMIT, async || {
            self.ended()
                .ok_or_else(|| format!("it runs; it said:\n{}", self.tail()))
        })
        .await;
        self.lock().take();
        status
    }

    /// Sends a signal to the running process.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process id is positive");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// The process.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.lock().as_ref().expect("the node runs").id()
    }

    /// Whether there is a process that has not been seen to end.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.lock().is_some() && self.ended().is_none()
    }

    /// How the process ended, if it did by itself.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        self.lock()
            .as_mut()?
            .try_wait()
            .expect("a child can be waited for")
    }

    /// Resident memory.
    ///
    /// # Panics
    /// The process is gone.
    #[must_use]
    pub fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("Linux tells VmRSS");
        let kilobytes: u64 = line
            .trim()
            .trim_end_matches("kB")
            .trim()
            .parse()
            .expect("VmRSS is a number of kB");
        kilobytes << 10
    }

    /// Files and sockets that the process has open.
    ///
    /// # Panics
    /// The process is gone.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        open.expect("the process runs").count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
