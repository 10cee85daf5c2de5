//! Tables: medians with least and greatest, ratios by pair, and bounds held against them.

use crate::metric::{Figures, Metric};
use crate::report::run_file::RunFile;
use crate::systems::System;
use crate::workloads::{Bound, Group, Level, Limit, Workload};

/// The systems with a column, in its order.
const COLUMNS: [System; 4] = [System::Odradek, System::Kafka, System::KafkaTuned, System::Floor];

/// Half of the requests waiting for so long, from when they were due, are a queue that grows.
const BACKLOG_MS: f64 = 100.0;
/// Who answers less than this share of what was due is not keeping up either.
const KEPT_SHARE: f64 = 0.99;

/// The table of a group from the newest runs that have its workloads; none if no run has any. The numbers of the runs that
/// it shows are added to `used`.
pub fn of_group(group: &Group, runs: &[RunFile], used: &mut Vec<usize>) -> Option<String> {
    let found: Vec<_> = group
        .workloads
        .iter()
        .filter_map(|workload| Some((workload, newest(workload, runs)?)))
        .collect();
    let systems: Vec<System> = COLUMNS
        .into_iter()
        .filter(|system| {
            found
                .iter()
                .any(|(workload, run)| !runs[*run].of(workload.row, *system).is_empty())
        })
        .collect();
    if systems.is_empty() {
        return None;
    }
    let mut rows = vec![head(&systems)];
    for (workload, number) in found {
        if !used.contains(&number) {
            used.push(number);
        }
        let mut title = vec![
            format!("**{}**", workload.row),
            format!("**{}** ({})", workload.title, origin(workload, number, runs)),
        ];
        title.resize(rows[0].len(), String::new());
        rows.push(title);
        rows.extend(
            workload
                .shown
                .iter()
                .filter_map(|metric| line(workload, *metric, &runs[number], &systems)),
        );
    }
    Some(markdown(&rows))
}

/// The newest run that has a workload.
pub fn newest(workload: &Workload, runs: &[RunFile]) -> Option<usize> {
    runs.iter()
        .position(|run| run.samples.iter().any(|sample| sample.row == workload.row))
}

/// Which run a row is of, of which revision, and on how many pairs it rests; and whether that was on another machine than the
/// newest run's.
fn origin(workload: &Workload, number: usize, runs: &[RunFile]) -> String {
    let run = &runs[number];
    let pairs = run.of(workload.row, System::Odradek).len();
    let plural = if pairs == 1 { "pair" } else { "pairs" };
    let elsewhere = if run.machine.cpu == runs[0].machine.cpu {
        ""
    } else {
        ", another machine"
    };
    format!(
        "run {}, {}, {pairs} {plural}{elsewhere}",
        number + 1,
        run.machine.revision
    )
}

fn head(systems: &[System]) -> Vec<String> {
    let mut cells = vec!["row".to_owned(), "figure".to_owned()];
    cells.extend(systems.iter().map(|system| system.title().to_owned()));
    cells.extend(["x Kafka", "must", "goal"].map(str::to_owned));
    cells
}

fn line(workload: &Workload, metric: Metric, run: &RunFile, systems: &[System]) -> Option<Vec<String>> {
    let spreads: Vec<Option<Spread>> = systems
        .iter()
        .map(|system| {
            Spread::of(
                values(&run.of(workload.row, *system), metric)
                    .into_iter()
                    .map(|(_, value)| value),
            )
        })
        .collect();
    if spreads.iter().all(Option::is_none) {
        return None;
    }
    let style = metric.style();
    let mut cells = vec![String::new(), format!("{}, {}", style.title, style.unit)];
    cells.extend(systems.iter().zip(&spreads).map(|(system, spread)| {
        let shown = spread.as_ref().map_or_else(String::new, Spread::shown);
        if metric.is_latency() && lags(*system, workload, run) {
            format!("{shown} (backlog)")
        } else {
            shown
        }
    }));
    cells.push(times_kafka(workload, metric, run).map_or_else(String::new, |times| times.shown_as_times()));
    for level in [Level::Must, Level::Goal] {
        cells.push(verdicts(workload, metric, run, level));
    }
    Some(cells)
}

fn values(samples: &[(usize, &Figures)], metric: Metric) -> Vec<(usize, f64)> {
    let values = samples
        .iter()
        .filter_map(|(pair, figures)| Some((*pair, figures.get(metric)?)));
    values.collect()
}

/// How many times better Odradek is than another system, in each pair.
fn times_better(other: System, workload: &Workload, metric: Metric, run: &RunFile) -> Option<Spread> {
    let ours = values(&run.of(workload.row, System::Odradek), metric);
    let theirs = values(&run.of(workload.row, other), metric);
    let ratios = ours.iter().filter_map(|(pair, own)| {
        let (_, other) = theirs.iter().find(|(other_pair, _)| other_pair == pair)?;
        Some(if metric.style().less_is_better {
            other / own
        } else {
            own / other
        })
    });
    Spread::of_ratios(ratios.filter(|ratio| ratio.is_finite() && *ratio > 0.0))
}

/// Whether a system did not keep the rate: its latencies tell how long the load went on, and compare with nothing.
fn lags(system: System, workload: &Workload, run: &RunFile) -> bool {
    let Some(due) = workload.requests_per_second() else {
        return false;
    };
    let samples = run.of(workload.row, system);
    let median = |metric| Spread::of(values(&samples, metric).into_iter().map(|(_, value)| value));
    let waits = median(Metric::P50).is_some_and(|spread| spread.median > BACKLOG_MS);
    let answered = median(Metric::Requests).is_none_or(|spread| spread.median >= KEPT_SHARE * due);
    waits || !answered
}

/// Than Kafka as shipped.
fn times_kafka(workload: &Workload, metric: Metric, run: &RunFile) -> Option<Spread> {
    if metric.is_latency() && lags(System::Kafka, workload, run) {
        return None;
    }
    times_better(System::Kafka, workload, metric, run)
}

fn verdicts(workload: &Workload, metric: Metric, run: &RunFile, level: Level) -> String {
    let bounds = workload
        .bounds
        .iter()
        .filter(|bound| bound.metric == metric && bound.level == level);
    let shown: Vec<_> = bounds.filter_map(|bound| verdict(bound, workload, run)).collect();
    shown.join("; ")
}

/// A bound and whether it holds; none if what it needs was not measured.
fn verdict(bound: &Bound, workload: &Workload, run: &RunFile) -> Option<String> {
    let ours = values(&run.of(workload.row, System::Odradek), bound.metric);
    let median = Spread::of(ours.into_iter().map(|(_, value)| value))?.median;
    let times = times_kafka(workload, bound.metric, run).map(|times| times.median);
    let (text, holds) = match bound.limit {
        Limit::AtMost(limit) => (format!("<= {}", number(limit)), median <= limit),
        Limit::AtLeast(limit) => (format!(">= {}", number(limit)), median >= limit),
        Limit::OfKafkaAtMost(share) => (format!("{:.1}x less", 1.0 / share), times? >= 1.0 / share),
        Limit::OfKafkaAtLeast(least) => (format!("{least:.1}x more"), times? >= least),
        Limit::OfFloorAtMost(most) => {
            let times = 1.0 / times_better(System::Floor, workload, bound.metric, run)?.median;
            (format!("{times:.1} <= {most:.1}x floor"), times <= most)
        }
    };
    Some(format!("{text}: {}", if holds { "yes" } else { "no" }))
}

/// Median, least and greatest of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    least: f64,
    greatest: f64,
    count: usize,
}

impl Spread {
    /// None of nothing.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[half]
        } else {
            f64::midpoint(values[half - 1], values[half])
        };
        Some(Self {
            median,
            least,
            greatest,
            count: values.len(),
        })
    }

    /// Of ratios, where twice and half are equally far from one: the middle of two is their geometric mean.
    pub fn of_ratios(ratios: impl Iterator<Item = f64>) -> Option<Self> {
        let logarithms = Self::of(ratios.map(f64::ln))?;
        Some(Self {
            median: logarithms.median.exp(),
            least: logarithms.least.exp(),
            greatest: logarithms.greatest.exp(),
            count: logarithms.count,
        })
    }

    fn shown_as_times(&self) -> String {
        if self.count == 1 {
            return format!("{:.1}", self.median);
        }
        format!("{:.1} ({:.1}-{:.1})", self.median, self.least, self.greatest)
    }

    fn shown(&self) -> String {
        if self.count == 1 {
            return number(self.median);
        }
        format!(
            "{} ({}-{})",
            number(self.median),
            number(self.least),
            number(self.greatest)
        )
    }
}

/// Three digits that matter, and thousands in groups.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 || size == 0.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if digits > 0 || text.trim_start_matches('-').len() <= 4 {
        return text;
    }
    let groups: Vec<&str> = text
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).expect("digits are ASCII"))
        .collect();
    groups.join(",")
}

/// A Markdown table whose columns are aligned, so that it reads well in a terminal too.
fn markdown(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    // Titles span the columns that follow and need not widen theirs.
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| {
            if column == 1 {
                figure_width(rows)
            } else {
                width(column)
            }
        })
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}", width = *width));
        text.push_str(&format!("| {} |\n", cells.collect::<Vec<_>>().join(" | ")));
        if number == 0 {
            let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width + 2)).collect();
            text.push_str(&format!("|{}|\n", dashes.join("|")));
        }
    }
    text
}

fn figure_width(rows: &[Vec<String>]) -> usize {
    let figures = rows.iter().filter(|row| !row[1].starts_with("**"));
    figures.map(|row| row[1].chars().count()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_sorted_and_its_median_lies_between() {
        let spread = Spread::of([3.0, 1.0, 2.0, 10.0].into_iter()).unwrap();
        assert_eq!(spread.shown(), "2.50 (1.00-10.0)");
        assert_eq!(Spread::of([7.0].into_iter()).unwrap().shown(), "7.00");
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn the_middle_of_two_ratios_favours_neither_side() {
        let spread = Spread::of_ratios([4.0, 0.25].into_iter()).unwrap();
        assert!((spread.median - 1.0).abs() < 1e-9);
        assert_eq!(spread.shown_as_times(), "1.0 (0.2-4.0)");
        assert_eq!(
            Spread::of_ratios([2.0].into_iter()).unwrap().shown_as_times(),
            "2.0"
        );
    }

    #[test]
    fn numbers_keep_three_digits() {
        let cases = [
            (0.1234, "0.123"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (123.4, "123"),
            (80_123.0, "80,123"),
        ];
        for (value, wanted) in cases {
            assert_eq!(number(value), wanted);
        }
        assert_eq!(
            (number(9.999), number(0.0), number(1234.0)),
            ("10.0".to_owned(), "0.00".to_owned(), "1234".to_owned())
        );
    }

    #[test]
    fn columns_are_aligned_and_titles_do_not_widen_them() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["row", "figure", "x"]),
            row(["**1**", "**a long title**", ""]),
            row(["", "p50, ms", "0.123"]),
        ];
        let wanted = "| row   | figure  | x     |\n|-------|---------|-------|\n\
                      | **1** | **a long title** |       |\n|       | p50, ms | 0.123 |\n";
        assert_eq!(markdown(&rows), wanted);
    }
}
