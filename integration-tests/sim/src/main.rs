//! `odradek-sim --seeds N [--start S]` runs that many seeds, `--flush-each` with `flush.messages` 1 and power cuts without
//! limit; `--seed S --verbose` shows one.
#![expect(clippy::print_stdout, reason = "a command line tool")]

use std::process::ExitCode;
use std::time::Instant;

use odradek_sim::env::Flushing;
use odradek_sim::scenario::{Counts, Trace, simulate};

struct Arguments {
    start: u64,
    seeds: u64,
    verbose: bool,
    flushing: Flushing,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(problem) => {
            println!(
                "{problem}\nusage: odradek-sim [--seeds N] [--start S] [--seed S] [--flush-each] [--verbose]"
            );
            return ExitCode::from(2);
        }
    };
    let begun = Instant::now();
    let mut total = Counts::default();
    let mut failed = Vec::new();
    for seed in arguments.start..arguments.start + arguments.seeds {
        let failure = match std::panic::catch_unwind(|| simulate(seed, arguments.flushing)) {
            Ok(trace) => {
                if arguments.verbose {
                    show(&trace);
                }
                add(&mut total, trace.counts);
                trace.failure
            }
            Err(_) => Some("panicked".to_owned()),
        };
        if let Some(failure) = failure {
            println!("seed {seed} FAILED: {failure}");
            failed.push(seed);
        }
    }
    println!(
        "{} seeds in {:.1} s: {} records acknowledged, {} leader elections, {} metadata offsets, {} faults, healed within {} ms at most",
        arguments.seeds,
        begun.elapsed().as_secs_f64(),
        total.acknowledged,
        total.elections,
        total.metadata_offsets,
        total.faults,
        total.healing_ms,
    );
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "{} seeds failed: {failed:?}; look at one with --seed S --verbose",
        failed.len()
    );
    ExitCode::FAILURE
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments {
        start: 0,
        seeds: 100,
        verbose: false,
        flushing: Flushing::Background,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        if name == "--verbose" {
            parsed.verbose = true;
            continue;
        }
        if name == "--flush-each" {
            parsed.flushing = Flushing::EachAppend;
            continue;
        }
        let value = given.next().ok_or_else(|| format!("{name} needs a number"))?;
        let number = value
            .parse()
            .map_err(|_| format!("{name} needs a number, not {value}"))?;
        match name.as_str() {
            "--seeds" => parsed.seeds = number,
            "--start" => parsed.start = number,
            "--seed" => (parsed.start, parsed.seeds) = (number, 1),
            _ => return Err(format!("{name} is unknown")),
        }
    }
    Ok(parsed)
}

fn show(trace: &Trace) {
    for event in &trace.events {
        println!("{event}");
    }
    println!("seed {} hash {:016x} {:?}", trace.seed, trace.hash, trace.counts);
}

fn add(total: &mut Counts, counts: Counts) {
    total.acknowledged += counts.acknowledged;
    total.elections += counts.elections;
    total.metadata_offsets += counts.metadata_offsets;
    total.faults += counts.faults;
    total.healing_ms = total.healing_ms.max(counts.healing_ms);
}
