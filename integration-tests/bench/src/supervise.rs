//! The process above one that measures: however that one ends, the machine is left as it was, and no data stays.
//!
//! Settings of the kernel are held here, and all data lies below a folder of this process. Who measures is another process, whose
//! brokers die with it.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use odradek_cluster_tests::process;
use tempfile::TempDir;

use crate::kernel_settings;

/// Tells the process that measures where its data goes.
const DATA_VARIABLE: &str = "ODRADEK_BENCH_DATA";
/// What ends a run early.
const ENDS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
/// Looks for processes that are ending and still write, and the pause between two.
const REMOVE_ATTEMPTS: u32 = 250;
const REMOVE_PAUSE: Duration = Duration::from_millis(20);

/// Where data goes, in the process that measures.
pub fn data_folder() -> Option<PathBuf> {
    std::env::var_os(DATA_VARIABLE).map(PathBuf::from)
}

/// In the process that measures, before it starts threads and brokers: they are to hear the signals that the process above it keeps
/// for itself.
///
/// # Errors
/// The kernel refuses.
pub fn hear_signals() -> Result<()> {
    signals().thread_unblock().context("unblocking signals")
}

fn signals() -> SigSet {
    let mut signals = SigSet::from_iter(ENDS);
    signals.add(Signal::SIGCHLD);
    signals
}

/// Has another process do what this one was asked for, with its data below `data`.
///
/// # Errors
/// It cannot be started or waited for, or its data cannot be removed.
pub fn run(data: &Path, if_busy: IfBusy) -> Result<ExitCode> {
    let _alone = alone(&std::env::temp_dir().join("odradek-bench-lock"), if_busy)?;
    let signals = signals();
    // One that comes too early waits for its turn.
    signals.thread_block().context("blocking signals")?;
    std::fs::create_dir_all(data).with_context(|| format!("creating {}", data.display()))?;
    let folder = tempfile::Builder::new()
        .prefix("odradek-bench-")
        .tempdir_in(data)?;
    let _kernel_settings = kernel_settings::hold();
    let program = std::env::current_exe().context("this program's own path")?;
    let mut command = Command::new(program);
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    command.args(arguments).env(DATA_VARIABLE, folder.path());
    let mut child = process::spawn(command).context("starting the process that measures")?;
    let status = loop {
        if signals.wait().context("waiting for the process that measures")? == Signal::SIGCHLD {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
        } else {
            // It may be gone already: a terminal tells all of its processes.
            _ = child.kill();
            child.wait()?;
            break None;
        }
    };
    remove(folder)?;
    Ok(code_of(status))
}

/// What to do while another benchmark runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfBusy {
    /// To fail.
    Refuse,
    /// To begin when it is done.
    Wait,
}

/// Two would measure each other, and run out of memory: each writes to nearly all that is free. The lock goes with the file, which
/// may be another user's.
fn alone(path: &Path, if_busy: IfBusy) -> Result<File> {
    let lock = File::open(path).or_else(|_| File::create(path));
    let lock = lock.with_context(|| format!("creating {}", path.display()))?;
    if if_busy == IfBusy::Wait {
        lock.lock()
            .with_context(|| format!("locking {}", path.display()))?;
        return Ok(lock);
    }
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another benchmark runs on this machine (it has locked {}): wait until it is done",
            path.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

fn code_of(status: Option<ExitStatus>) -> ExitCode {
    const LEFT: &str =
        "the turns that were complete are in runs/ of --out, and `report` makes the table of them";
    let Some(status) = status else {
        println!("bench: interrupted; {LEFT}");
        return ExitCode::FAILURE;
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or_else(
        || {
            println!("bench: the process that measures was ended ({status}; the kernel does that if memory runs out); {LEFT}");
            ExitCode::FAILURE
        },
        ExitCode::from,
    )
}

/// Removes a folder that processes which are being killed may still write to.
fn remove(folder: TempDir) -> Result<()> {
    let path = folder.keep();
    for _ in 0..REMOVE_ATTEMPTS {
        if std::fs::remove_dir_all(&path).is_ok() {
            return Ok(());
        }
        std::thread::sleep(REMOVE_PAUSE);
    }
    std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = alone(&path, IfBusy::Refuse).unwrap();
        let refused = alone(&path, IfBusy::Refuse).unwrap_err().to_string();
        assert!(refused.starts_with("another benchmark runs"), "{refused}");
        let (tell, began) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let second = alone(&path, IfBusy::Wait).unwrap();
            tell.send(()).unwrap();
            drop(second);
        });
        assert!(began.try_recv().is_err());
        drop(first);
        waiting.join().unwrap();
        began.recv().unwrap();
    }
}
