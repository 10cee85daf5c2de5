//! What one run of a command line tool costs. A process of this program starts the tool, so that what the kernel says
//! about its children is about the tool alone.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::metric::{Figures, Metric};
use crate::scale::Scale;
use crate::systems::{Cluster, Programs, commands};
use crate::workloads::topics::{self, Topic};

/// Topics that are listed.
const TOPICS: usize = 10;

/// What a run of a program cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Cost {
    wall_ms: f64,
    cpu_ms: f64,
    rss_kib: i64,
}

/// Runs a program without output and writes what it cost, as JSON. The only child of this process must be that program.
///
/// # Errors
/// It cannot be started or fails.
pub fn time(words: &[String]) -> Result<()> {
    let (program, arguments) = words.split_first().context("a program to time")?;
    let began = clock::now();
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("starting {program}"))?;
    let wall_ms = clock::milliseconds_between(began, clock::now());
    ensure!(status.success(), "{program} ended with {status}");
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("the usage of a child")?;
    let milliseconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3;
    let cpu_ms = milliseconds(usage.user_time()) + milliseconds(usage.system_time());
    let cost = Cost {
        wall_ms,
        cpu_ms,
        rss_kib: usage.max_rss(),
    };
    serde_json::to_writer(std::io::stdout(), &cost)?;
    std::io::stdout().flush()?;
    Ok(())
}

/// Lists topics `count` times; medians.
///
/// # Errors
/// The tool fails.
pub fn list_topics(
    cluster: &Cluster,
    programs: &Programs,
    row: &str,
    count: u64,
    scale: &Scale,
) -> Result<Figures> {
    for _ in 0..TOPICS {
        Topic::single(1).create(cluster, &topics::unique_name(row))?;
    }
    let command = commands::list_topics(cluster.system(), programs, &cluster.address().to_string())?;
    let mut costs = (0..scale.count(count, 1))
        .map(|_| cost(&command))
        .collect::<Result<Vec<_>>>()?;
    costs.sort_by(|a, b| a.wall_ms.total_cmp(&b.wall_ms));
    let median = costs.get(costs.len() / 2).context("at least one run")?;
    let mut figures = Figures::default();
    figures.set(Metric::Wall, median.wall_ms);
    figures.set(Metric::CpuTime, median.cpu_ms);
    figures.set(Metric::RssPeak, median.rss_kib as f64 / 1024.0);
    Ok(figures)
}

fn cost(command: &Command) -> Result<Cost> {
    let output = Command::new(std::env::current_exe()?)
        .args(["time", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .output()
        .context("starting this program")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(said.trim()).with_context(|| format!("what a run cost: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_comes_back_as_it_was_written() {
        let cost = Cost {
            wall_ms: 1.5,
            cpu_ms: 0.25,
            rss_kib: 2048,
        };
        let text = serde_json::to_string(&cost).unwrap();
        assert_eq!(serde_json::from_str::<Cost>(&text).unwrap(), cost);
    }
}
