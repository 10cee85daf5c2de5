//! What is measured: every figure of every table, once, with its unit and which way is better.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One kind of figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// CPU seconds of the broker processes per GB of record batches.
    CpuPerGb,
    /// The same with what the kernel's threads ran meanwhile, for whomever: writing back, above all.
    CpuWithKernelPerGb,
    /// CPU microseconds of the broker processes per request or record.
    CpuPerRequest,
    /// CPU microseconds of the broker processes per transaction.
    CpuPerTransaction,
    /// CPU as a share of what the same work costs without the guarantee.
    CpuOfPlain,
    /// Transactions per second.
    Transactions,
    /// Megabytes of record batches per second.
    Throughput,
    /// Requests per second.
    Requests,
    /// Median latency.
    P50,
    /// 90th percentile of the latency.
    P90,
    /// 99th percentile of the latency.
    P99,
    /// 99.9th percentile of the latency.
    P999,
    /// Longest latency.
    Max,
    /// Memory of the broker processes at the end of the window.
    Rss,
    /// The most memory that the broker processes ever had.
    RssPeak,
    /// CPU of the broker processes as a share of one core.
    CpuShare,
    /// CPU of the load generator as a share of one core.
    ClientCpuShare,
    /// Milliseconds that one step took.
    Wall,
    /// CPU milliseconds that one run took.
    CpuTime,
    /// Milliseconds until the topic was usable.
    Usable,
    /// Milliseconds from then until each partition had a record.
    Begun,
    /// Milliseconds from the restart to the first acknowledged record.
    FirstAck,
    /// Milliseconds from the last write to the wanted state.
    Settling,
    /// Connections opened per second.
    Connections,
    /// Throughput with many partitions as a share of that with few.
    Share,
    /// Speed as a share of the disk's read speed.
    DiskShare,
}

/// How a figure is written.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// The column's head.
    pub title: &'static str,
    /// The unit.
    pub unit: &'static str,
    /// Whether less is better.
    pub less_is_better: bool,
}

impl Metric {
    /// Whether it tells how long requests took.
    pub fn is_latency(self) -> bool {
        matches!(self, Self::P50 | Self::P90 | Self::P99 | Self::P999 | Self::Max)
    }

    /// Whether it needs some requests to mean anything.
    pub fn is_percentile(self) -> bool {
        matches!(self, Self::P90 | Self::P99 | Self::P999)
    }

    /// How the figure is written.
    pub fn style(self) -> Style {
        let style = |title, unit, less_is_better| Style {
            title,
            unit,
            less_is_better,
        };
        match self {
            Self::CpuPerGb => style("CPU", "s/GB", true),
            Self::CpuWithKernelPerGb => style("CPU with kernel threads", "s/GB", true),
            Self::CpuPerRequest => style("CPU", "us/request", true),
            Self::CpuPerTransaction => style("CPU", "us/transaction", true),
            Self::CpuOfPlain => style("CPU of that of the plain one", "%", true),
            Self::Transactions => style("rate", "transactions/s", false),
            Self::Throughput => style("throughput", "MB/s", false),
            Self::Requests => style("rate", "requests/s", false),
            Self::P50 => style("p50", "ms", true),
            Self::P90 => style("p90", "ms", true),
            Self::P99 => style("p99", "ms", true),
            Self::P999 => style("p99.9", "ms", true),
            Self::Max => style("max", "ms", true),
            Self::Rss => style("RSS", "MiB", true),
            Self::RssPeak => style("RSS peak", "MiB", true),
            Self::CpuShare => style("CPU share", "% of a core", true),
            Self::ClientCpuShare => style("client's CPU", "% of a core", true),
            Self::Wall => style("wall", "ms", true),
            Self::CpuTime => style("CPU time", "ms", true),
            Self::Usable => style("usable after", "ms", true),
            Self::Begun => style("a record in each after", "ms", true),
            Self::FirstAck => style("first ack after", "ms", true),
            Self::Settling => style("after the last write", "ms", true),
            Self::Connections => style("connections", "1/s", false),
            Self::Share => style("of that with few", "%", false),
            Self::DiskShare => style("of the disk's read speed", "%", false),
        }
    }
}

/// The figures of one measurement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<Metric, f64>);

impl Figures {
    /// Sets a figure; one that is no number is left out.
    pub fn set(&mut self, metric: Metric, value: f64) {
        if value.is_finite() {
            self.0.insert(metric, value);
        }
    }

    /// A figure, if it was measured.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.0.get(&metric).copied()
    }

    /// What was measured.
    pub fn metrics(&self) -> impl Iterator<Item = Metric> + '_ {
        self.0.keys().copied()
    }
}
