//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::bench::{self, Plan};
use crate::calibrate::Calibration;
use crate::report::run_file::RunFile;
use crate::scale::{JVM_WARM_SECONDS_LEAST, Scale};
use crate::supervise::{self, IfBusy};
use crate::systems::{self, Programs, System};
use crate::workloads::command_line;
use crate::{floor, report, soak};

/// Measures Odradek beside Apache Kafka and a floor server.
#[derive(Debug, Parser)]
#[command(name = "odradek-bench", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures workloads and prints their table
    Run(RunArguments),
    /// Carries out every workload in small, on Odradek alone, to see that all of it works
    Smoke(SmokeArguments),
    /// Loads one node in many ways for a long time and shows its memory
    Soak(SoakArguments),
    /// Prints what this machine can do
    Calibrate {
        /// Where files are written
        #[arg(long, default_value_os_t = std::env::temp_dir())]
        data_dir: PathBuf,
    },
    /// Writes the table and the pictures of the runs in a folder anew
    Report {
        /// The folder
        #[arg(long, default_value = "docs/benchmarks")]
        out: PathBuf,
    },
    /// Runs a program without its output and says, as JSON, what it cost
    #[command(hide = true)]
    Time {
        /// The program and its arguments
        #[arg(last = true, required = true)]
        words: Vec<String>,
    },
    /// Serves as the floor
    Floor {
        /// Where it listens
        #[arg(long)]
        port: u16,
        /// Where it writes
        #[arg(long)]
        dir: PathBuf,
    },
}

impl Command {
    /// Where it puts data, if it measures.
    fn data_folder(&self) -> Option<&Path> {
        let places = match self {
            Self::Run(arguments) => &arguments.places,
            Self::Smoke(arguments) => &arguments.places,
            Self::Soak(arguments) => &arguments.places,
            Self::Calibrate { .. } | Self::Report { .. } | Self::Time { .. } | Self::Floor { .. } => {
                return None;
            }
        };
        Some(&places.data_dir)
    }
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Rows or names of groups; all by default
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Systems, in the order in which they take turns
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "odradek,kafka,kafka-tuned,floor"
    )]
    systems: Vec<System>,
    /// How often each system takes its turn
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Seconds of each window
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Seconds of load before each window
    #[arg(long, default_value_t = 5.0)]
    warm_seconds: f64,
    /// Seconds of the same load before that in a JVM, which is to have compiled its hot code; at least 25
    #[arg(long, default_value_t = JVM_WARM_SECONDS_LEAST)]
    jvm_warm_seconds: f64,
    /// Also write the run, the table and the pictures there
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measure this process, which is an Odradek node that runs already
    #[arg(long, requires = "port")]
    attach: Option<u32>,
    /// Where the attached node listens
    #[arg(long, requires = "attach")]
    port: Option<u16>,
    /// Write nothing before measuring: quicker, but new pages of a virtual machine may cost more than the system
    #[arg(long)]
    no_recycle: bool,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Args)]
struct SoakArguments {
    /// How long
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Whom
    #[arg(long, default_value = "odradek")]
    system: System,
    /// Also write the curve there
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Args)]
struct SmokeArguments {
    /// Where the run, the table and the pictures are written; removed afterwards by default
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Args)]
struct Places {
    /// The program to measure
    #[arg(long, env = "ODRADEK_BIN", default_value = "odradek")]
    binary: PathBuf,
    /// Where the systems keep their data
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    data_dir: PathBuf,
    /// Run the systems outside of memory cgroups
    #[arg(long)]
    no_cgroup: bool,
}

impl Places {
    fn programs(self) -> Programs {
        Programs {
            odradek: self.binary,
            jars: systems::find_jars(),
            data: supervise::data_folder().unwrap_or(self.data_dir),
            cgroups: !self.no_cgroup,
        }
    }
}

/// Does what was asked for.
///
/// # Errors
/// What went wrong.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    if let (Some(data), None) = (arguments.command.data_folder(), supervise::data_folder()) {
        let if_busy = match arguments.command {
            // Nobody looks at its timings.
            Command::Smoke(_) => IfBusy::Wait,
            _ => IfBusy::Refuse,
        };
        return supervise::run(data, if_busy);
    }
    supervise::hear_signals()?;
    carry_out(arguments.command).map(|()| ExitCode::SUCCESS)
}

fn carry_out(command: Command) -> Result<()> {
    match command {
        Command::Run(run) => measure(run),
        Command::Soak(arguments) => {
            let soak = soak::run(arguments.system, arguments.minutes, &arguments.places.programs())?;
            println!("{}", soak.description());
            match arguments.out {
                Some(out) => soak.write(&out).and_then(|()| report::rewrite(&out)),
                None => Ok(()),
            }
        }
        Command::Smoke(smoke) => bench::smoke(&smoke.places.programs(), smoke.out),
        Command::Calibrate { data_dir } => {
            println!("{}", Calibration::measure(&data_dir)?);
            Ok(())
        }
        Command::Report { out } => report::rewrite(&out),
        Command::Time { words } => command_line::time(&words),
        Command::Floor { port, dir } => floor::serve(port, &dir),
    }
}

fn measure(run: RunArguments) -> Result<()> {
    ensure!(
        run.pairs > 0 && run.seconds > 0.0,
        "a run has at least one pair and a window"
    );
    ensure!(
        run.jvm_warm_seconds >= JVM_WARM_SECONDS_LEAST,
        "a JVM that was warm for less than {JVM_WARM_SECONDS_LEAST} s is measured while it compiles, which proves nothing"
    );
    let mut scale = Scale::full(run.seconds, run.warm_seconds, run.jvm_warm_seconds);
    if run.no_recycle {
        scale.recycled_bytes = 0;
    }
    let attached = run.attach.zip(run.port);
    let programs = run.places.programs();
    let plan = Plan {
        rows: run.rows,
        systems: if attached.is_some() {
            vec![System::Odradek]
        } else {
            run.systems
        },
        pairs: run.pairs,
        scale,
        attached,
    };
    let save = |run_file: &RunFile| match &run.out {
        Some(out) => report::save(out, run_file),
        None => Ok(()),
    };
    let run_file = bench::run(&plan, &programs, save)?;
    println!("\n{}", report::page(std::slice::from_ref(&run_file)));
    if let Some(out) = &run.out {
        report::add(out, &run_file).with_context(|| format!("writing the results to {}", out.display()))?;
    }
    run_file.check_complete()
}
