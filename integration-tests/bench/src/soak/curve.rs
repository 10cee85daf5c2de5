//! The result of a soak: its curve as CSV and as a picture, and what was done, as JSON and as a paragraph.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::soak::Counts;
use crate::systems::{Programs, System};

/// By how much the last quarter may have more than the second.
const GROWTH_PERCENT_MAX: f64 = 5.0;
/// The names of the files, without what stands behind the dot.
const NAME: &str = "soak";

/// Memory and CPU at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Since the beginning.
    pub seconds: f64,
    /// Memory of the broker.
    pub rss_mib: f64,
    /// CPU of the broker since the point before, of one core.
    pub cpu_percent: f64,
}

/// A soak that ended well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Soak {
    system: System,
    minutes: f64,
    machine: Machine,
    requests: u64,
    delivered: u64,
    members: u64,
    commits: u64,
    topics: u64,
    points: Vec<Point>,
}

impl Soak {
    /// What was seen and done.
    ///
    /// # Errors
    /// Nothing was seen.
    pub fn new(
        system: System,
        minutes: f64,
        points: Vec<Point>,
        counts: &Counts,
        programs: &Programs,
    ) -> Result<Self> {
        points
            .first()
            .context("a soak is long enough to look at memory once")?;
        Ok(Self {
            system,
            minutes,
            machine: Machine::look(programs),
            requests: counts.requests.load(Ordering::Relaxed),
            delivered: counts.delivered.load(Ordering::Relaxed),
            members: counts.members.load(Ordering::Relaxed),
            commits: counts.commits.load(Ordering::Relaxed),
            topics: counts.topics.load(Ordering::Relaxed),
            points,
        })
    }

    /// Writes JSON, CSV and the picture.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, out: &Path) -> Result<()> {
        fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
        fs::write(
            out.join(format!("{NAME}.json")),
            serde_json::to_string_pretty(self)? + "\n",
        )?;
        fs::write(out.join(format!("{NAME}.csv")), self.csv())?;
        fs::write(out.join(format!("{NAME}.svg")), self.picture()?)?;
        Ok(())
    }

    /// The soak in a folder, if there is one.
    ///
    /// # Errors
    /// The file is no soak.
    pub fn read(out: &Path) -> Result<Option<Self>> {
        let path = out.join(format!("{NAME}.json"));
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path)?;
        Ok(Some(
            serde_json::from_str(&text).with_context(|| format!("{} is no soak", path.display()))?,
        ))
    }

    /// What was done and seen, for the page.
    pub fn description(&self) -> String {
        let mut text = format!(
            "{} minutes on {}: {} produce requests acknowledged, {} records read, {} group members came and went and \
             committed {} times, {} topics were created and deleted. ",
            self.minutes,
            self.system.title(),
            self.requests,
            self.delivered,
            self.members,
            self.commits,
            self.topics
        );
        // Parts of the run: a single look may fall on a peak.
        let (middle, end) = (self.mean_rss(0.25, 0.5), self.mean_rss(0.75, 1.0));
        let grown = 100.0 * (end / middle - 1.0);
        let verdict = if grown <= GROWTH_PERCENT_MAX { "yes" } else { "no" };
        _ = writeln!(
            text,
            "RSS {middle:.1} MiB on average in the second quarter, {end:.1} MiB in the last: {grown:+.1} %. \
             Flat, which is at most {GROWTH_PERCENT_MAX} % more: {verdict}.\n"
        );
        _ = writeln!(
            text,
            "![RSS over time]({NAME}.svg)\n\nThe curve: [{NAME}.csv]({NAME}.csv); the whole run: \
             [{NAME}.json]({NAME}.json).\n\n{}",
            self.machine
        );
        _ = writeln!(
            text,
            "```sh\nmake bench ARGS=\"soak --minutes {}\"\n```",
            self.minutes
        );
        text
    }

    fn mean_rss(&self, from: f64, to: f64) -> f64 {
        let count = self.points.len();
        let start = ((count as f64 * from) as usize).min(count - 1);
        let end = ((count as f64 * to).ceil() as usize).clamp(start + 1, count);
        let part = &self.points[start..end];
        part.iter().map(|point| point.rss_mib).sum::<f64>() / part.len() as f64
    }

    fn csv(&self) -> String {
        let mut text = String::from("seconds,rss_mib,cpu_percent\n");
        for point in &self.points {
            _ = writeln!(
                text,
                "{:.1},{:.2},{:.1}",
                point.seconds, point.rss_mib, point.cpu_percent
            );
        }
        text
    }

    fn picture(&self) -> Result<String> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, (960, 360)).into_drawing_area();
        self.paint(&area)
            .map_err(|error| anyhow!("drawing the soak: {error}"))?;
        drop(area);
        Ok(svg)
    }

    fn paint<D: DrawingBackend>(
        &self,
        area: &DrawingArea<D, plotters::coord::Shift>,
    ) -> Result<(), DrawingAreaErrorKind<D::ErrorType>> {
        area.fill(&WHITE)?;
        let minutes = |point: &Point| point.seconds / 60.0;
        let last = self.points.iter().map(minutes).fold(0.1, f64::max);
        let most = self.points.iter().map(|point| point.rss_mib).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(
                format!("{}: RSS in MiB over minutes of mixed load", self.system.title()),
                ("sans-serif", 18),
            )
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..last, 0.0..most * 1.1)?;
        chart.configure_mesh().light_line_style(WHITE).draw()?;
        let line = self.points.iter().map(|point| (minutes(point), point.rss_mib));
        chart.draw_series(LineSeries::new(line, RGBColor(0x1f, 0x77, 0xb4).stroke_width(2)))?;
        area.present()
    }
}
