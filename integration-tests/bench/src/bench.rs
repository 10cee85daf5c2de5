//! A run: systems take turns, group after group, and every figure is kept.
//!
//! Within a group the systems take turns (A B C, C B A, A B C), so that a machine that changes its mood does so for all of them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::load::{self, Load, ProduceLoad};
use crate::metric::Figures;
use crate::report::run_file::{Failure, RunFile, Sample, Settings};
use crate::scale::Scale;
use crate::systems::{Cluster, Programs, Shape, System};
use crate::workloads::topics::{self, Topic};
use crate::workloads::{Group, Sharing, Workload, table};
use crate::{machine, report, soak};

/// Seconds of writing between two looks at how much was written.
const RECYCLE_SECONDS: f64 = 2.0;
/// The same where little is to be written: what is written beyond it is waited for when the disk settles.
const SMALL_RECYCLE_SECONDS: f64 = 0.05;

/// Within this, something must be acknowledged.
const RECYCLE_SECONDS_MAX: f64 = 30.0;

/// Minutes of a small soak.
const SMOKE_SOAK_MINUTES: f64 = 0.1;

/// What a run is to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Rows or names of groups; all if empty.
    pub rows: Vec<String>,
    /// Systems, in the order of their turns.
    pub systems: Vec<System>,
    /// How often each has its turn.
    pub pairs: usize,
    /// How large everything is.
    pub scale: Scale,
    /// Process and port of a node that runs already.
    pub attached: Option<(u32, u16)>,
}

impl Plan {
    fn selects(&self, group: &Group, workload: &Workload) -> bool {
        self.rows.is_empty()
            || self
                .rows
                .iter()
                .any(|row| row == workload.row || row == group.name)
    }

    /// The groups with their selected workloads.
    fn selection(&self) -> Result<Vec<(&'static Group, Vec<&'static Workload>)>> {
        for row in &self.rows {
            let mut groups = table::GROUPS.iter();
            let known = groups.any(|group| group.name == row || group.workloads.iter().any(|w| w.row == row));
            ensure!(known, "there is no row or group {row}; there are: {}", all_rows());
        }
        let selected = table::GROUPS.iter().map(|group| {
            let workloads = group
                .workloads
                .iter()
                .filter(|workload| self.selects(group, workload));
            (group, workloads.collect::<Vec<_>>())
        });
        Ok(selected.filter(|(_, workloads)| !workloads.is_empty()).collect())
    }
}

fn all_rows() -> String {
    let groups = table::GROUPS.iter().map(|group| {
        let rows: Vec<_> = group.workloads.iter().map(|workload| workload.row).collect();
        format!("{} ({})", group.name, rows.join(", "))
    });
    groups.collect::<Vec<_>>().join(", ")
}

/// Measures; `save` is called after each turn. What fails is noted in the result, and the rest goes on: a long run is not
/// lost for one of its rows.
///
/// # Errors
/// There is nothing to measure, the machine cannot be calibrated, or saving failed.
pub fn run(plan: &Plan, programs: &Programs, save: impl Fn(&RunFile) -> Result<()>) -> Result<RunFile> {
    let selection = plan.selection()?;
    let systems = present(&plan.systems, programs)?;
    if systems.contains(&System::Odradek) && plan.attached.is_none() {
        programs.check_odradek()?;
    }
    machine::touch_memory(plan.scale.touched_bytes);
    let settings = Settings {
        pairs: plan.pairs,
        seconds: plan.scale.seconds,
        warm_seconds: plan.scale.warm_seconds,
        jvm_warm_seconds: plan.scale.jvm_warm_seconds,
        jvm_windows_later: false,
        recycled_bytes: plan.scale.recycled_bytes,
    };
    let mut run_file = RunFile::begin(settings, programs)?;
    for (number, (group, workloads)) in selection.into_iter().enumerate() {
        for pair in 0..plan.pairs {
            for system in order(&systems, number + pair) {
                let turn = Turn {
                    group,
                    pair,
                    system,
                    plan,
                    programs,
                };
                turn.take(&workloads, &mut run_file);
                save(&run_file)?;
            }
        }
    }
    Ok(run_file)
}

/// Who goes first changes from group to group and from pair to pair: what one leaves to the next, in the disk's cache or the machine's
/// mood, is shared out.
fn order(systems: &[System], turn: usize) -> Vec<System> {
    let mut systems = systems.to_vec();
    if !turn.is_multiple_of(2) {
        systems.reverse();
    }
    systems
}

/// The systems that are here; that Kafka's are not is said once.
fn present(systems: &[System], programs: &Programs) -> Result<Vec<System>> {
    let here: Vec<System> = systems
        .iter()
        .copied()
        .filter(|system| !system.is_jvm() || programs.jars.is_some())
        .collect();
    if here.len() < systems.len() {
        println!(
            "bench: Apache Kafka's jars are not here, so it is not measured (integration-tests/clients/run.sh setup jars)"
        );
    }
    if here.is_empty() {
        bail!("none of the systems asked for is here");
    }
    Ok(here)
}

/// One system's turn at a group.
struct Turn<'a> {
    group: &'static Group,
    pair: usize,
    system: System,
    plan: &'a Plan,
    programs: &'a Programs,
}

impl Turn<'_> {
    fn take(&self, workloads: &[&'static Workload], run_file: &mut RunFile) {
        let mut cluster = None;
        let workloads = workloads.iter().filter(|workload| workload.suits(self.system));
        let mut workloads = workloads.peekable();
        while let Some(workload) = workloads.next() {
            let is_last = self.group.sharing == Sharing::OneForEach || workloads.peek().is_none();
            let measured = self.measure(workload, &mut cluster, run_file);
            let measured = measured.and_then(|figures| {
                if let (true, Some(cluster)) = (is_last, &cluster) {
                    topics::await_removals(cluster)?;
                }
                Ok(figures)
            });
            match measured {
                Ok(figures) => self.keep(workload, figures, run_file),
                Err(error) => {
                    // What is left of the cluster may be the reason.
                    cluster = None;
                    self.note_failure(workload, &error, run_file);
                }
            }
            if is_last {
                cluster = None;
            }
        }
    }

    fn measure(
        &self,
        workload: &Workload,
        cluster: &mut Option<Cluster>,
        run_file: &mut RunFile,
    ) -> Result<Figures> {
        let cluster = match cluster {
            Some(cluster) => cluster,
            None => {
                let started = cluster.insert(self.cluster(workload)?);
                if self.group.sharing == Sharing::OneForAll || workload.wants_used_pages() {
                    recycle(started, self.plan.scale.recycled_bytes)?;
                }
                started
            }
        };
        run_file.memory_limit_bytes = run_file.memory_limit_bytes.or(cluster.memory_limit());
        workload.run(cluster, self.programs, &self.plan.scale)
    }

    fn note_failure(&self, workload: &Workload, error: &anyhow::Error, run_file: &mut RunFile) {
        println!(
            "row {:4} {:13} pair {}: failed: {error:#}",
            workload.row,
            self.system.title(),
            self.pair + 1
        );
        run_file.failures.push(Failure {
            row: workload.row.to_owned(),
            system: self.system,
            pair: self.pair,
            reason: format!("{error:#}"),
        });
    }

    fn cluster(&self, first: &Workload) -> Result<Cluster> {
        if let Some((pid, port)) = self.plan.attached {
            return Cluster::attach(pid, port, self.programs);
        }
        let lines = self.group.broker_lines.iter();
        let overrides = lines.map(|line| (*line).to_owned()).collect();
        let shape = Shape {
            system: self.system,
            nodes: self.group.nodes,
            overrides,
            awaits_each_removal: self.plan.scale.awaits_each_removal,
        };
        let cluster = if first.starts() {
            Cluster::prepare(shape, self.programs)
        } else {
            Cluster::start(shape, self.programs)
        };
        cluster.with_context(|| format!("starting {}", self.system.title()))
    }

    fn keep(&self, workload: &Workload, figures: Figures, run_file: &mut RunFile) {
        let shown = workload.shown.iter().filter_map(|metric| {
            let style = metric.style();
            Some(format!(
                "{} {} {}",
                style.title,
                report::table::number(figures.get(*metric)?),
                style.unit
            ))
        });
        let shown: Vec<_> = shown.collect();
        println!(
            "row {:4} {:13} pair {}: {}",
            workload.row,
            self.system.title(),
            self.pair + 1,
            shown.join(", ")
        );
        run_file.samples.push(Sample {
            row: workload.row.to_owned(),
            system: self.system,
            pair: self.pair,
            figures,
        });
    }
}

/// Writes until the cluster's page cache consists of pages that it had before.
fn recycle(cluster: &Cluster, bytes: u64) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let nodes = i16::try_from(cluster.addresses().len()).context("a handful of nodes")?;
    let topic = Topic {
        replicas: nodes,
        ..Topic::single(6)
    };
    let name = topics::unique_name("recycle");
    let target = topic.create(cluster, &name)?;
    let produce = ProduceLoad {
        shape: table::RECYCLING,
        connections: 2 * usize::from(nodes.unsigned_abs()),
        in_flight_max: 5,
        records_per_second: None,
        acks: if nodes == 1 { 1 } else { -1 },
        idempotent: false,
    };
    let seconds = if bytes < 1 << 30 {
        SMALL_RECYCLE_SECONDS
    } else {
        RECYCLE_SECONDS
    };
    let mut load = Load {
        target,
        produce,
        consume: None,
        warm_seconds: 0.0,
        seconds,
    };
    let mut written = 0;
    while written < bytes {
        let more = load::run(&load, &cluster.pids())?.bytes;
        written += more * u64::from(nodes.unsigned_abs());
        if more == 0 {
            // It was over before the first was acknowledged.
            load.seconds *= 2.0;
            ensure!(
                load.seconds < RECYCLE_SECONDS_MAX,
                "nothing is acknowledged within {} s",
                load.seconds / 2.0
            );
        }
    }
    // The topic stays: its pages are what later workloads push out.
    Ok(())
}

/// Every workload in small on Odradek alone; what is checked is that all of it works.
///
/// # Errors
/// A workload failed or is missing from the results.
pub fn smoke(programs: &Programs, out: Option<PathBuf>) -> Result<()> {
    let plan = Plan {
        rows: Vec::new(),
        systems: vec![System::Odradek, System::Floor],
        pairs: 1,
        scale: Scale::smoke(),
        attached: None,
    };
    let run_file = run(&plan, programs, |_| Ok(()))?;
    run_file.check_complete()?;
    let kept = tempfile::tempdir()?;
    let out = out.unwrap_or_else(|| kept.path().to_path_buf());
    report::add(&out, &run_file)?;
    report::check(&out, &run_file)?;
    let soak = soak::run(System::Odradek, SMOKE_SOAK_MINUTES, programs)?;
    soak.write(&out)?;
    report::rewrite(&out)?;
    println!(
        "bench: all {} workloads did what they should",
        run_file.samples.len()
    );
    Ok(())
}
