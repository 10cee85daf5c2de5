//! One run as a file: every figure, the machine, and the command that repeats it.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::calibrate::Calibration;
use crate::machine::Machine;
use crate::metric::Figures;
use crate::scale::JVM_CLUSTER_WARM_FACTOR;
use crate::systems::{Programs, System};

/// How a run was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Turns of each system.
    pub pairs: usize,
    /// Seconds of a window.
    pub seconds: f64,
    /// Seconds of load before it.
    pub warm_seconds: f64,
    /// Seconds of the same load before that in a JVM.
    pub jvm_warm_seconds: f64,
    /// Whether a JVM's own warm-up was the time before its window, so that its windows lay later in the load than those of
    /// others. No run does that any more.
    #[serde(default = "jvm_windows_were_later")]
    pub jvm_windows_later: bool,
    /// Bytes that each cluster wrote first.
    pub recycled_bytes: u64,
}

/// One workload on one system in one pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The workload.
    pub row: String,
    /// The system.
    pub system: System,
    /// Which of the pairs.
    pub pair: usize,
    /// What was measured.
    pub figures: Figures,
}

/// One workload that could not be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The workload.
    pub row: String,
    /// The system.
    pub system: System,
    /// In which of the pairs.
    pub pair: usize,
    /// Why.
    pub reason: String,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// When it began, UTC.
    pub started: String,
    /// The command that repeats it.
    pub command: String,
    /// The machine and the versions.
    pub machine: Machine,
    /// What the machine can do.
    pub calibration: Calibration,
    /// How it was done.
    pub settings: Settings,
    /// The limit of the memory cgroup of a single node or of three, whichever ran first; none without cgroups.
    pub memory_limit_bytes: Option<u64>,
    /// All figures, in the order of measuring.
    pub samples: Vec<Sample>,
    /// What could not be measured.
    pub failures: Vec<Failure>,
}

impl RunFile {
    /// A run that begins now.
    ///
    /// # Errors
    /// The machine cannot be calibrated.
    pub fn begin(settings: Settings, programs: &Programs) -> Result<Self> {
        Ok(Self {
            started: utc_now()?,
            command: command(),
            machine: Machine::look(programs),
            calibration: Calibration::measure(&programs.data)?,
            settings,
            memory_limit_bytes: None,
            samples: Vec::new(),
            failures: Vec::new(),
        })
    }

    /// The file's name.
    pub fn file_name(&self) -> String {
        let digits: String = self
            .started
            .chars()
            .filter(|c| c.is_ascii_alphanumeric())
            .collect();
        format!("{digits}-{}.json", self.machine.revision)
    }

    /// Fails if anything could not be measured.
    ///
    /// # Errors
    /// What, in one line each.
    pub fn check_complete(&self) -> Result<()> {
        ensure!(
            self.failures.is_empty(),
            "{} measurements failed:\n{}",
            self.failures.len(),
            self.failed()
        );
        Ok(())
    }

    fn failed(&self) -> String {
        let lines = self.failures.iter().map(|failure| {
            let reason = failure.reason.replace('\n', " ");
            format!(
                "- row {} on {}, pair {}: {reason}\n",
                failure.row,
                failure.system.title(),
                failure.pair + 1
            )
        });
        lines.collect()
    }

    /// Whether both have the same samples. Figures may differ in their last digit after they were text.
    pub fn has_samples_of(&self, other: &Self) -> bool {
        let same = |(own, other): (&Sample, &Sample)| {
            own.row == other.row
                && own.system == other.system
                && own.pair == other.pair
                && own.figures.metrics().eq(other.figures.metrics())
        };
        self.samples.len() == other.samples.len() && self.samples.iter().zip(&other.samples).all(same)
    }

    /// The figures of a workload on a system, by pair.
    pub fn of(&self, row: &str, system: System) -> Vec<(usize, &Figures)> {
        let samples = self.samples.iter();
        samples
            .filter(|sample| sample.row == row && sample.system == system)
            .map(|sample| (sample.pair, &sample.figures))
            .collect()
    }

    /// Machine, versions, settings and command, for the page.
    pub fn description(&self) -> String {
        let mut text = String::new();
        let settings = &self.settings;
        let memory = match self.memory_limit_bytes {
            Some(_) => "each system in a memory cgroup of its own (4 GiB for one node, 6 GiB for three)",
            None => "without memory cgroups",
        };
        _ = writeln!(
            text,
            "{}, {} pairs, windows of {} s after {} s of load{} {} s in a JVM{}, {} times that in three, {} GiB written before, {memory}.\n",
            self.started,
            settings.pairs,
            settings.seconds,
            settings.warm_seconds,
            if settings.jvm_windows_later {
                ","
            } else {
                ", and before that"
            },
            settings.jvm_warm_seconds,
            if settings.jvm_windows_later {
                " (whose windows lie that much later)"
            } else {
                ""
            },
            JVM_CLUSTER_WARM_FACTOR,
            settings.recycled_bytes >> 30,
        );
        _ = writeln!(
            text,
            "{}\n{}\n```sh\n{}\n```",
            self.machine, self.calibration, self.command
        );
        if !self.failures.is_empty() {
            _ = writeln!(text, "\nNot measured:\n\n{}", self.failed());
        }
        text
    }
}

/// What runs of earlier versions, which do not say it, did.
fn jvm_windows_were_later() -> bool {
    true
}

/// The command that repeats this run.
fn command() -> String {
    // scripts/bench.sh says how it was called.
    std::env::var("ODRADEK_BENCH_COMMAND").unwrap_or_else(|_| {
        let words: Vec<String> = std::env::args().skip(1).collect();
        format!("odradek-bench {}", words.join(" "))
    })
}

/// Now as 2026-11-28T12:34:56Z.
fn utc_now() -> Result<String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(utc(now.as_secs()))
}

fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of the day that is so many days after 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_a_date() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_872_896), "2026-11-28T13:34:56Z");
    }
}
