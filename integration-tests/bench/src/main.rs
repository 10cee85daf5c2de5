//! `odradek-bench` measures Odradek, Apache Kafka and a floor server side by side; `make bench` runs it.
//!
//! See docs/benchmarks/ for what it showed and how to repeat it.
#![expect(clippy::print_stdout, reason = "a command line tool")]

mod admin;
mod batches;
mod bench;
mod calibrate;
mod cli;
mod clock;
mod floor;
mod kernel_settings;
mod latency;
mod load;
mod machine;
mod metric;
mod proc;
mod protocol;
mod report;
mod scale;
mod soak;
mod supervise;
mod systems;
mod workloads;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Arguments;

fn main() -> ExitCode {
    match cli::run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            println!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
