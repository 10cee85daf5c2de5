//! One picture per group: the first figure of every workload, for every system, as a share of Kafka's.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::metric::Metric;
use crate::report::run_file::RunFile;
use crate::report::table::{Spread, newest, number};
use crate::systems::System;
use crate::workloads::{Group, Workload};

const WIDTH: i32 = 960;
const BAR_HEIGHT: i32 = 16;
const MARGIN: i32 = 20;
/// Where bars begin and where a bar of 100 % ends.
const BARS_LEFT: i32 = 130;
const BARS_RIGHT: i32 = 700;
/// Longer bars are cut.
const SHARE_MAX: f64 = 1.25;
const FONT: &str = "sans-serif";

/// The picture as SVG; none if no run has a workload of the group.
///
/// # Errors
/// It cannot be drawn.
pub fn draw(group: &Group, runs: &[RunFile]) -> Result<Option<String>> {
    let blocks: Vec<Block> = group
        .workloads
        .iter()
        .filter_map(|workload| Block::of(workload, runs))
        .collect();
    if blocks.is_empty() {
        return Ok(None);
    }
    let height = blocks.iter().map(Block::height).sum::<i32>() + 4 * MARGIN;
    let mut svg = String::new();
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    paint(&area, group, &blocks).map_err(|error| anyhow!("drawing {}: {error}", group.name))?;
    drop(area);
    Ok(Some(svg))
}

/// The bars of one workload.
struct Block {
    title: String,
    bars: Vec<Bar>,
}

struct Bar {
    system: System,
    share: f64,
    label: String,
}

impl Block {
    fn of(workload: &Workload, runs: &[RunFile]) -> Option<Self> {
        let run = &runs[newest(workload, runs)?];
        let metric: Metric = *workload.shown.first()?;
        let median = |system| {
            let samples = run.of(workload.row, system);
            let spread = Spread::of(samples.iter().filter_map(|(_, figures)| figures.get(metric)))?;
            Some((system, spread.median))
        };
        let systems = [System::Odradek, System::Kafka, System::KafkaTuned, System::Floor];
        let medians: Vec<(System, f64)> = systems.into_iter().filter_map(median).collect();
        // Kafka is the measure; where it was not measured, whoever needs most.
        let kafka = medians.iter().find(|(system, _)| *system == System::Kafka);
        let whole = kafka.map_or_else(
            || medians.iter().map(|(_, value)| *value).fold(0.0, f64::max),
            |(_, value)| *value,
        );
        let style = metric.style();
        let bars = medians.into_iter().map(|(system, value)| Bar {
            system,
            share: if whole > 0.0 { value / whole } else { 0.0 },
            label: format!("{} {}", number(value), style.unit),
        });
        let better = if style.less_is_better { "less" } else { "more" };
        Some(Self {
            title: format!(
                "{}: {} - {}, {better} is better",
                workload.row, workload.title, style.title
            ),
            bars: bars.collect(),
        })
    }

    fn height(&self) -> i32 {
        i32::try_from(self.bars.len()).unwrap_or(i32::MAX) * BAR_HEIGHT + 2 * MARGIN
    }
}

fn colour(system: System) -> RGBColor {
    match system {
        System::Odradek => RGBColor(0x1f, 0x77, 0xb4),
        System::Kafka => RGBColor(0x6e, 0x6e, 0x6e),
        System::KafkaTuned => RGBColor(0xa8, 0xa8, 0xa8),
        System::Floor => RGBColor(0x9b, 0xc5, 0x9b),
    }
}

fn paint<D: DrawingBackend>(
    area: &DrawingArea<D, plotters::coord::Shift>,
    group: &Group,
    blocks: &[Block],
) -> Result<(), DrawingAreaErrorKind<D::ErrorType>> {
    area.fill(&WHITE)?;
    area.draw(&Text::new(group.title, (MARGIN, MARGIN), (FONT, 18)))?;
    let mut top = 3 * MARGIN;
    for block in blocks {
        area.draw(&Text::new(block.title.as_str(), (MARGIN, top), (FONT, 13)))?;
        let mut y = top + MARGIN;
        for bar in &block.bars {
            paint_bar(area, bar, y)?;
            y += BAR_HEIGHT;
        }
        top += block.height();
    }
    area.present()
}

fn paint_bar<D: DrawingBackend>(
    area: &DrawingArea<D, plotters::coord::Shift>,
    bar: &Bar,
    y: i32,
) -> Result<(), DrawingAreaErrorKind<D::ErrorType>> {
    let length = f64::from(BARS_RIGHT - BARS_LEFT) * bar.share.min(SHARE_MAX);
    let right = BARS_LEFT + length as i32;
    let middle = y + BAR_HEIGHT / 2;
    let beside = Pos::new(HPos::Right, VPos::Center);
    let name = TextStyle::from((FONT, 12)).pos(beside);
    area.draw(&Text::new(bar.system.title(), (BARS_LEFT - 8, middle), name))?;
    area.draw(&Rectangle::new(
        [(BARS_LEFT, y + 2), (right, y + BAR_HEIGHT - 2)],
        colour(bar.system).filled(),
    ))?;
    let figure = TextStyle::from((FONT, 12)).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(bar.label.as_str(), (right + 6, middle), figure))
}
