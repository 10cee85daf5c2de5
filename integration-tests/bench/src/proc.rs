//! What processes use: CPU time of user and system, from the kernel's clock of each process, and memory, from /proc.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::time::ClockId;
use nix::unistd::Pid;

use crate::clock::{self, Nanos, SECOND};
use crate::metric::{Figures, Metric};

/// Memory is looked at this often.
const SAMPLE_EVERY: Nanos = SECOND / 4;
/// kthreadd, whose children are the kernel's threads.
const KERNEL_THREADS_PARENT: u32 = 2;

/// What processes used between two moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// User and system time of all of them.
    pub cpu_seconds: f64,
    /// What the kernel's threads ran, for whomever.
    pub kernel_seconds: f64,
    /// Time between the two moments.
    pub elapsed_seconds: f64,
    /// Memory of all of them at the end.
    pub rss_bytes: u64,
    /// The most memory of all of them between the two moments, looked at four times a second.
    pub rss_peak_bytes: u64,
}

impl Usage {
    /// Sets memory and the share of a core.
    pub fn add_to(&self, figures: &mut Figures) {
        figures.set(Metric::Rss, self.rss_bytes as f64 / f64::from(1 << 20));
        figures.set(Metric::RssPeak, self.rss_peak_bytes as f64 / f64::from(1 << 20));
        figures.set(Metric::CpuShare, 100.0 * self.cpu_seconds / self.elapsed_seconds);
    }
}

/// CPU seconds that a process has used, user and system, its threads that have ended included.
///
/// To the nanosecond, where /proc counts in hundredths of a second, which is more than a small load costs. Only of a thread that
/// runs just now in another process it may lack the time since the kernel's last tick.
///
/// # Errors
/// There is no such process.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let process = i32::try_from(pid).context("a process id above those of the kernel")?;
    let now = ClockId::pid_cpu_clock_id(Pid::from_raw(process)).and_then(ClockId::now);
    let now = now.with_context(|| format!("reading the CPU clock of process {pid}"))?;
    Ok(Duration::from(now).as_secs_f64())
}

/// Resident memory of a process.
///
/// # Errors
/// There is no such process.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    status_bytes(&text, "VmRSS:").with_context(|| format!("{path} has no VmRSS"))
}

fn status_bytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Nanoseconds that each kernel thread has run, by its number. What they do is in no process's time: writing back, above all.
fn kernel_threads() -> Result<HashMap<u32, u64>> {
    let mut threads = HashMap::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Threads come and go.
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        if parent(&read("stat")) == Some(KERNEL_THREADS_PARENT)
            && let Some(nanos) = run_nanos(&read("schedstat"))
        {
            threads.insert(pid, nanos);
        }
    }
    Ok(threads)
}

/// The parent's number in the text of /proc/PID/stat.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The first field of /proc/PID/schedstat.
fn run_nanos(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// What all of them ran between two looks.
fn ran_seconds(before: &HashMap<u32, u64>, after: &HashMap<u32, u64>) -> f64 {
    let ran = after
        .iter()
        .map(|(pid, nanos)| nanos.saturating_sub(before.get(pid).copied().unwrap_or(0)));
    ran.sum::<u64>() as f64 / SECOND as f64
}

/// CPU seconds that all these processes have used.
///
/// # Errors
/// One of them has ended.
pub fn total_cpu_seconds(pids: &[u32]) -> Result<f64> {
    sum(pids, cpu_seconds)
}

/// Resident memory of all these processes.
///
/// # Errors
/// One of them has ended.
pub fn total_rss_bytes(pids: &[u32]) -> Result<u64> {
    sum(pids, rss_bytes)
}

fn sum<T: std::iter::Sum>(pids: &[u32], of: impl Fn(u32) -> Result<T>) -> Result<T> {
    pids.iter().map(|&pid| of(pid)).sum()
}

/// A thread that looks at processes from one moment to another.
#[derive(Debug)]
pub struct Watch {
    thread: JoinHandle<Result<Usage>>,
    cancelled: Arc<AtomicBool>,
}

/// Watches processes from `from` to `to`.
pub fn watch(pids: Vec<u32>, from: Nanos, to: Nanos) -> Watch {
    let cancelled = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancelled);
    let thread = std::thread::spawn(move || look(&pids, from, to, &flag));
    Watch { thread, cancelled }
}

impl Watch {
    /// What was used; waits for nothing beyond the end of the watched time.
    ///
    /// # Errors
    /// A process has ended, or the load ended before the watched time did.
    pub fn finish(self) -> Result<Usage> {
        self.cancelled.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the thread that watches processes panicked"))?
    }
}

fn look(pids: &[u32], from: Nanos, to: Nanos, cancelled: &AtomicBool) -> Result<Usage> {
    sleep_in_steps(from, cancelled)?;
    let began = clock::now();
    let before = sum(pids, cpu_seconds)?;
    let kernel_before = kernel_threads()?;
    let mut rss_peak_bytes = 0;
    let mut next = began + SAMPLE_EVERY;
    while next < to {
        sleep_in_steps(next, cancelled)?;
        rss_peak_bytes = rss_peak_bytes.max(sum(pids, rss_bytes)?);
        next += SAMPLE_EVERY;
    }
    sleep_in_steps(to, cancelled)?;
    let after: f64 = sum(pids, cpu_seconds)?;
    let ended = clock::now();
    let kernel_after = kernel_threads()?;
    let rss_bytes = sum(pids, rss_bytes)?;
    Ok(Usage {
        cpu_seconds: after - before,
        kernel_seconds: ran_seconds(&kernel_before, &kernel_after),
        elapsed_seconds: (ended - began) as f64 / SECOND as f64,
        rss_bytes,
        rss_peak_bytes: rss_peak_bytes.max(rss_bytes),
    })
}

/// Sleeps until `at`, or fails soon after the load has ended early.
fn sleep_in_steps(at: Nanos, cancelled: &AtomicBool) -> Result<()> {
    loop {
        let now = clock::now();
        if now >= at {
            return Ok(());
        }
        if cancelled.load(Ordering::Relaxed) {
            return Err(anyhow!("the load ended before its window did"));
        }
        clock::sleep_until(at.min(now + SAMPLE_EVERY));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;

    use super::*;
    use crate::clock::MILLISECOND;

    /// What each burning thread of a test uses.
    const BURNT: Nanos = 3 * MILLISECOND;

    /// Has a thread of this process run for a while and end.
    fn burn_in_a_thread() {
        let burn = || {
            let until =
                Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap()) + Duration::from_nanos(BURNT);
            while Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap()) < until {}
        };
        std::thread::spawn(burn).join().unwrap();
    }

    #[test]
    fn milliseconds_of_threads_that_have_ended_are_seen() {
        let pid = std::process::id();
        // A clock that goes by hundredths of a second may be right once.
        for _ in 0..5 {
            let before = cpu_seconds(pid).unwrap();
            burn_in_a_thread();
            let used = cpu_seconds(pid).unwrap() - before;
            assert!(used >= 0.002, "{used} s");
        }
    }

    #[test]
    fn a_process_that_waits_uses_nothing_and_adds_nothing_to_another() {
        let mut child = std::process::Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        // What comes back says that it runs.
        stdin.write_all(b"x\n").unwrap();
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let (own, idle) = (std::process::id(), child.id());
        while !fs::read_to_string(format!("/proc/{idle}/stat"))
            .unwrap()
            .contains(") S ")
        {
            std::thread::yield_now();
        }
        let (before, idle_before) = (
            total_cpu_seconds(&[own, idle]).unwrap(),
            cpu_seconds(idle).unwrap(),
        );
        for _ in 0..5 {
            burn_in_a_thread();
        }
        let idle_used = cpu_seconds(idle).unwrap() - idle_before;
        let used = total_cpu_seconds(&[own, idle]).unwrap() - before;
        drop(stdin);
        child.wait().unwrap();
        assert!(
            idle_before > 0.0 && idle_used < 0.002,
            "{idle_before} s, {idle_used} s more"
        );
        assert!(used >= 0.015, "{used} s of both");
        cpu_seconds(idle).unwrap_err();
    }

    #[test]
    fn kernel_threads_are_told_by_their_parent() {
        let stat = "9 (kworker/0:1H (x)) I 2 0 0 0 -1 69238880 0 0 0 0 0 1 0 0 0 -20 1";
        assert_eq!(parent(stat), Some(KERNEL_THREADS_PARENT));
        assert_eq!(run_nanos("1500000000 7 3\n"), Some(1_500_000_000));
        let (before, after) = (
            HashMap::from([(1, 5), (2, 7)]),
            HashMap::from([(2, 1_000_000_007), (3, 500_000_000)]),
        );
        assert!(
            (ran_seconds(&before, &after) - 1.5).abs() < 1e-9,
            "one has ended and one has begun"
        );
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(
            status_bytes("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"),
            Some(2 << 20)
        );
    }

    #[test]
    fn this_process_is_seen() {
        let usage = watch(
            vec![std::process::id()],
            clock::now(),
            clock::now() + SECOND / 100,
        );
        clock::sleep_until(clock::now() + SECOND / 20);
        let usage = usage.finish().unwrap();
        assert!(
            usage.rss_bytes > 100_000 && usage.elapsed_seconds > 0.0,
            "{usage:?}"
        );
    }
}
