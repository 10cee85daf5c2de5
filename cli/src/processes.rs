//! Processes of nodes: pid files, signals, and the end of children whose parent is gone.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal};

/// Names, for a node that `odradek cluster` starts, the process that it must not outlive.
const PARENT_VARIABLE: &str = "ODRADEK_PARENT_PID";

/// Makes a command's process end together with this one, however this one ends. To be started from the main thread: the
/// kernel watches the thread that starts a child.
pub fn end_with_this_process(command: &mut Command) {
    command.env(PARENT_VARIABLE, std::process::id().to_string());
}

/// Keeps the promise of [`end_with_this_process`] in the child: the kernel kills it when its parent ends.
pub fn obey_parent() -> io::Result<()> {
    let Some(parent) = std::env::var(PARENT_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
    else {
        return Ok(());
    };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before the kernel was asked.
    let alive = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) == Some(parent);
    if alive {
        Ok(())
    } else {
        Err(io::Error::other("the process that started this one has ended"))
    }
}

/// The process of a pid file, whether it runs or not.
pub fn read_pid(file: &Path) -> Option<Pid> {
    fs::read_to_string(file)
        .ok()?
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
}

/// Writes a pid file, whole or not at all.
pub fn write_pid(file: &Path, pid: u32) -> io::Result<()> {
    let temporary = file.with_extension("tmp");
    fs::write(&temporary, format!("{pid}\n"))?;
    fs::rename(temporary, file)
}

/// Whether a process runs that has this file among its arguments; numbers are given to new processes in time.
pub fn runs_with(pid: Pid, argument: &Path) -> bool {
    let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    let Ok(command) = fs::read(process.join("cmdline")) else {
        return false;
    };
    // A process that has ended and waits for its parent has no command line.
    command
        .split(|byte| *byte == 0)
        .any(|it| it == argument.as_os_str().as_encoded_bytes())
}

/// The running process of a pid file, if it was started on that configuration.
pub fn running(pid_file: &Path, configuration: &Path) -> Option<Pid> {
    read_pid(pid_file).filter(|pid| runs_with(*pid, configuration))
}

/// Sends a signal; a process that has ended already is as good.
pub fn signal(pid: Pid, signal: Signal) -> io::Result<()> {
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_names_a_process_only_while_it_runs_on_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let (pid_file, configuration) = (
            directory.path().join("pid"),
            directory.path().join("server.properties"),
        );
        assert_eq!(running(&pid_file, &configuration), None);
        let script = "read line";
        let mut child = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&configuration)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("there is a shell");
        write_pid(&pid_file, child.id()).expect("writes");
        while running(&pid_file, &configuration).is_none() {
            // The child has not become the shell yet.
            assert!(child.try_wait().expect("a child").is_none());
            std::thread::yield_now();
        }
        assert_eq!(running(&pid_file, Path::new("/other")), None);
        drop(child.stdin.take());
        child.wait().expect("ends");
        assert_eq!(running(&pid_file, &configuration), None);
    }
}
