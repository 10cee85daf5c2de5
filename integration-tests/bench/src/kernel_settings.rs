//! Settings of the kernel that distort what is measured: held while a run lasts, and given back afterwards.
//!
//! A user who may not write one measures with what there is; a run names what it had (`machine.rs`). What they were is noted in a
//! file, from which the next run after one that was killed with -9 gives them back.

use std::fs;
use std::path::PathBuf;

/// Which congestion control new connections have.
pub const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// From which order on a virtual machine gives its free blocks of 2^order pages back to its host.
///
/// Whoever gets such a page next pays for the host's finding another one, up to 2 CPU-seconds per GB: more than a broker
/// costs, and not evenly, because it hits whatever reuses memory later than a few seconds after it was freed.
pub const PAGE_REPORTING_ORDER: &str = "/sys/module/page_reporting/parameters/page_reporting_order";
/// How long an idle core of a virtual machine looks for work before it halts, in nanoseconds.
///
/// A core that has halted is woken through the host, and who wakes it pays: 40 us and more for a request of one record, several
/// times what any broker costs, on a machine that is nested in another. A core that still looks is found as on real hardware. Time
/// spent looking is nobody's: it is idle time, not a process's.
pub const HALT_POLL_NS: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";
/// Whether a core looks for a shorter time after it looked in vain.
pub const HALT_POLL_SHRINKS: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_allow_shrink";
/// Others halve loopback throughput.
const CUBIC: &str = "cubic";
/// Orders from which on little is given back, the best first: no block is of order 11, and few are of the largest there is. Some
/// kernels refuse the first.
const REPORTED_ORDERS: [i32; 2] = [11, 10];
/// Longer than between two requests of any row with a rate.
const LONG_POLL_NS: u64 = 10_000_000;

/// What was there before; it comes back when this is dropped.
#[derive(Debug)]
pub struct KernelSettings {
    before: Vec<(&'static str, String)>,
    note: PathBuf,
}

/// A setting, and what to write instead of what was found: the best first, and the next where the kernel refuses it.
type Wanted = (&'static str, fn(&str) -> Vec<String>);

/// What all systems are measured with.
const WANTED: [Wanted; 4] = [
    (CONGESTION_CONTROL, congestion_control),
    (PAGE_REPORTING_ORDER, page_reporting_order),
    (HALT_POLL_NS, halt_poll_ns),
    (HALT_POLL_SHRINKS, halt_poll_shrinks),
];

/// Sets what all systems are to be measured with.
pub fn hold() -> KernelSettings {
    hold_noting(
        std::env::temp_dir().join("odradek-bench-kernel-settings"),
        &WANTED,
    )
}

fn hold_noting(note: PathBuf, all: &[Wanted]) -> KernelSettings {
    let noted = fs::read_to_string(&note).unwrap_or_default();
    let mut changes = Vec::new();
    for (path, wanted) in all {
        let Some(found) = value(path) else { continue };
        let before = noted.lines().find_map(|line| {
            let (noted_path, before) = line.split_once(' ')?;
            (noted_path == *path).then(|| before.to_owned())
        });
        let wanted = wanted(&found);
        if before.is_some() || !wanted.is_empty() {
            changes.push((*path, before.unwrap_or(found), wanted));
        }
    }
    let lines = changes
        .iter()
        .map(|(path, before, _)| format!("{path} {before}\n"));
    // Without the note they come back all the same, unless the process is killed.
    _ = fs::write(&note, lines.collect::<String>());
    let before = changes.into_iter().map(|(path, before, wanted)| {
        // One that may not be changed stays as it is.
        _ = wanted.into_iter().any(|wanted| fs::write(path, wanted).is_ok());
        (path, before)
    });
    KernelSettings {
        before: before.collect(),
        note,
    }
}

/// A setting as it is, if this kernel has it.
pub fn value(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

fn congestion_control(found: &str) -> Vec<String> {
    let other = found != CUBIC;
    other.then(|| CUBIC.to_owned()).into_iter().collect()
}

/// Below zero nobody reports.
fn page_reporting_order(found: &str) -> Vec<String> {
    let Ok(found @ 0..) = found.parse::<i32>() else {
        return Vec::new();
    };
    let better = REPORTED_ORDERS.into_iter().filter(|order| *order > found);
    better.map(|order| order.to_string()).collect()
}

fn halt_poll_ns(found: &str) -> Vec<String> {
    let shorter = found.parse::<u64>().is_ok_and(|found| found < LONG_POLL_NS);
    shorter.then(|| LONG_POLL_NS.to_string()).into_iter().collect()
}

fn halt_poll_shrinks(found: &str) -> Vec<String> {
    (found == "Y").then(|| "N".to_owned()).into_iter().collect()
}

impl Drop for KernelSettings {
    fn drop(&mut self) {
        for (path, before) in &self.before {
            // There is nobody to tell, and the machine works with either.
            _ = fs::write(path, before);
        }
        _ = fs::remove_file(&self.note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_distorts_is_changed_and_nothing_else() {
        assert_eq!(congestion_control("bbr"), ["cubic"]);
        assert_eq!(page_reporting_order("9"), ["11", "10"]);
        assert_eq!(page_reporting_order("10"), ["11"]);
        assert_eq!(halt_poll_ns("0"), ["10000000"]);
        assert_eq!(halt_poll_ns("200000"), ["10000000"]);
        assert_eq!(halt_poll_shrinks("Y"), ["N"]);
        let fine = [
            congestion_control("cubic"),
            page_reporting_order("11"),
            page_reporting_order("-1"),
            page_reporting_order("unknown"),
            halt_poll_ns("10000000"),
            halt_poll_ns("unknown"),
            halt_poll_shrinks("N"),
        ];
        assert!(fine.iter().all(Vec::is_empty), "{fine:?}");
    }

    #[test]
    fn what_a_killed_run_changed_is_given_back_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("congestion_control");
        let path: &'static str = file.to_str().unwrap().to_owned().leak();
        let note = folder.path().join("note");
        let wanted: [Wanted; 1] = [(path, congestion_control)];
        fs::write(path, "bbr\n").unwrap();
        std::mem::forget(hold_noting(note.clone(), &wanted));
        assert_eq!(value(path).unwrap(), "cubic");
        let held = hold_noting(note.clone(), &wanted);
        assert_eq!(value(path).unwrap(), "cubic");
        drop(held);
        assert_eq!(value(path).unwrap(), "bbr");
        assert!(!note.exists());
    }
}
