//! How many files this process may have open, and how many of them the logs get.
//!
//! The soft limit is what a shell gives programs that cannot cope with more; this one can, so it takes what the hard limit
//! allows.

use odradek_broker_log::directory::LogDirectoryOptions;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use slog::Logger;

/// No more segment files than this are kept open by all logs together, however many there may be.
const LOG_FILES_MAX: u64 = 32_768;
/// And each log directory may have this many, whatever the limit.
const LOG_FILES_MIN: u64 = 64;
/// A sixteenth of the limit is kept from clients, within these bounds.
const RESERVE_MIN: u64 = 64;
const RESERVE_MAX: u64 = 1_024;
/// A limit below this is worth a line: connections and logs share what is left of it.
const LIMIT_RECOMMENDED: u64 = 16_384;

/// Raises the limit of open files as far as the system lets this process; returns what it is then.
pub(crate) fn raise_limit(log: &Logger) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let soft = limit.current.unwrap_or(u64::MAX);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = if soft < hard && setrlimit(Resource::Nofile, raised).is_ok() {
        hard
    } else {
        soft
    };
    if now < LIMIT_RECOMMENDED {
        slog::warn!(log, "few files may be open at once: raise the limit (ulimit -Hn) for many connections and partitions";
            "limit" => now, "recommended" => LIMIT_RECOMMENDED);
    }
    now
}

/// How many files may be open before clients are turned away: the rest is left to logs, their index, and other nodes.
pub(crate) fn without_reserve(limit: u64) -> u64 {
    limit.saturating_sub((limit / 16).clamp(RESERVE_MIN, RESERVE_MAX))
}

/// What each of so many log directories may keep open: half of all, so that connections have the other half.
pub(crate) fn log_directory_options(limit: u64, directories: usize) -> LogDirectoryOptions {
    let directories = u64::try_from(directories).unwrap_or(u64::MAX).max(1);
    let each = (limit / 2).min(LOG_FILES_MAX) / directories;
    LogDirectoryOptions {
        open_files_max: usize::try_from(each.max(LOG_FILES_MIN)).unwrap_or(usize::MAX),
        ..LogDirectoryOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_some_files() {
        assert_eq!(without_reserve(1_024), 960);
        assert_eq!(without_reserve(20_000), 18_976);
        assert_eq!(without_reserve(32), 0);
    }

    #[test]
    fn logs_get_half_of_the_files_and_share_it() {
        let files = |limit, directories| log_directory_options(limit, directories).open_files_max;
        assert_eq!(files(4_096, 1), 2_048);
        assert_eq!(files(4_096, 4), 512);
        assert_eq!(files(64, 1), 64);
        assert_eq!(files(u64::MAX, 2), 16_384);
    }
}
