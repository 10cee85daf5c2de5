//! Settings of the kernel that distort what is measured: held while a run lasts, and given back afterwards.
//!
//! A user who may not write one measures with what there is; a run names what it had (`machine.rs`). A run that is killed leaves
//! them as they were set.

use std::fs;

/// Which congestion control new connections have.
pub const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// From which order on a virtual machine gives its free blocks of 2^order pages back to its host.
///
/// Whoever gets such a page next pays for the host's finding another one, up to 2 CPU-seconds per GB: more than a broker
/// costs, and not evenly, because it hits whatever reuses memory later than a few seconds after it was freed.
pub const PAGE_REPORTING_ORDER: &str = "/sys/module/page_reporting/parameters/page_reporting_order";
/// Others halve loopback throughput.
const CUBIC: &str = "cubic";
/// The largest blocks that there are: as few as can be.
const LARGEST_ORDER: i32 = 10;

/// What was there before; it comes back when this is dropped.
#[derive(Debug)]
pub struct KernelSettings {
    before: Vec<(&'static str, String)>,
}

/// Sets what all systems are to be measured with.
pub fn hold() -> KernelSettings {
    let wanted = [
        (
            CONGESTION_CONTROL,
            congestion_control as fn(&str) -> Option<String>,
        ),
        (PAGE_REPORTING_ORDER, page_reporting_order),
    ];
    let mut before = Vec::new();
    for (path, wanted) in wanted {
        let Some(found) = value(path) else { continue };
        if let Some(wanted) = wanted(&found)
            && fs::write(path, wanted).is_ok()
        {
            before.push((path, found));
        }
    }
    KernelSettings { before }
}

/// A setting as it is, if this kernel has it.
pub fn value(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// What to write instead of what was found, if anything.
fn congestion_control(found: &str) -> Option<String> {
    (found != CUBIC).then(|| CUBIC.to_owned())
}

/// Below zero nobody reports.
fn page_reporting_order(found: &str) -> Option<String> {
    let order: i32 = found.parse().ok()?;
    (0..LARGEST_ORDER)
        .contains(&order)
        .then(|| LARGEST_ORDER.to_string())
}

impl Drop for KernelSettings {
    fn drop(&mut self) {
        for (path, before) in &self.before {
            // There is nobody to tell, and the machine works with either.
            _ = fs::write(path, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_distorts_is_changed_and_nothing_else() {
        assert_eq!(congestion_control("bbr").unwrap(), "cubic");
        assert_eq!(congestion_control("cubic"), None);
        assert_eq!(page_reporting_order("9").unwrap(), "10");
        for fine in ["10", "11", "-1", "unknown"] {
            assert_eq!(page_reporting_order(fine), None);
        }
    }
}
