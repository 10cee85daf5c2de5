//! One node as a child process: starting it, its end, and the last it said.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::Pid;

use super::layout::NodeFiles;
use crate::error::{CommandError, Outcome};
use crate::processes;

const TAIL_LINES: usize = 10;
const TAIL_BYTES: u64 = 16 * 1024;

/// Who starts a node decides when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// The node ends with the process that started it.
    OfParent,
    /// The node goes on by itself.
    OfItsOwn,
}

/// The command that runs a node: its log goes to its file, and the keys of its terminal do not reach it.
pub fn command(program: &Path, files: &NodeFiles, life: Life) -> Outcome<Command> {
    let open = || OpenOptions::new().create(true).append(true).open(&files.log);
    let log = open().map_err(CommandError::io(format!("cannot open {}", files.log.display())))?;
    let again = log
        .try_clone()
        .map_err(CommandError::io("cannot duplicate a file"))?;
    let mut command = Command::new(program);
    command
        .arg("server")
        .arg(&files.properties)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(again)
        .process_group(0);
    // The file is complete: a variable would go over it in all nodes alike.
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("KAFKA_") {
            command.env_remove(variable);
        }
    }
    if life == Life::OfParent {
        processes::end_with_this_process(&mut command);
    }
    Ok(command)
}

/// Starts a node as a child and tells about its end with `ended`.
pub fn start(
    program: &Path,
    files: &NodeFiles,
    ended: impl FnOnce(io::Result<ExitStatus>) + Send + 'static,
) -> Outcome<Pid> {
    let mut command = command(program, files, Life::OfParent)?;
    let mut child = command
        .spawn()
        .map_err(CommandError::io(format!("cannot start {}", program.display())))?;
    let number = child.id();
    let written = processes::write_pid(&files.pid, number);
    if let Err(error) = written {
        // Nobody would know of it.
        _ = child.kill();
        _ = child.wait();
        return Err(CommandError::io(format!("cannot write {}", files.pid.display()))(
            error,
        ));
    }
    // A thread rather than tokio's processes: with those, every wait of every runtime in this binary looks for lost children.
    std::thread::spawn(move || ended(child.wait()));
    Ok(Pid::from_raw(number.cast_signed()).expect("a child's number is positive"))
}

/// How a process ended, in words.
pub fn ending(status: &io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Err(error) => format!("is lost: {error}"),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit status {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        },
    }
}

/// The last lines of a log.
pub fn tail(log: &Path) -> Vec<String> {
    read_tail(log).unwrap_or_default()
}

fn read_tail(log: &Path) -> io::Result<Vec<String>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(TAIL_LINES);
    Ok(lines[first..].iter().map(|&line| line.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        assert!(tail(&log).is_empty());
        let text: String = (0..5000).map(|line| format!("line {line}\n")).collect();
        std::fs::write(&log, text).expect("writes");
        let lines = tail(&log);
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines.last().map(String::as_str), Some("line 4999"));
    }

    #[test]
    fn an_ending_names_its_status_or_signal() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(
            ending(&Ok(ExitStatus::from_raw(1 << 8))),
            "ended with exit status 1"
        );
        assert_eq!(ending(&Ok(ExitStatus::from_raw(9))), "was ended by signal 9");
    }
}
