//! One seed is one history; the promises hold for some seeds here and for many in `make sim`.

use odradek_sim::env::Flushing;
use odradek_sim::scenario::{Trace, simulate};

const SEEDS: std::ops::Range<u64> = 100..150;

fn hold(seed: u64, flushing: Flushing) -> Trace {
    let trace = simulate(seed, flushing);
    if let Some(failure) = &trace.failure {
        let last = trace.events.len().saturating_sub(40);
        panic!("seed {seed}: {failure}\n{}", trace.events[last..].join("\n"));
    }
    trace
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..5 {
        let (first, second) = (
            simulate(seed, Flushing::Background),
            simulate(seed, Flushing::Background),
        );
        assert_eq!(first.events, second.events, "seed {seed}");
        assert_eq!(first.hash, second.hash, "seed {seed}");
    }
    let hash = |seed| simulate(seed, Flushing::Background).hash;
    assert_ne!(hash(1), hash(2));
}

#[test]
fn the_promises_hold() {
    let mut acknowledged = 0;
    let mut elections = 0;
    for seed in SEEDS {
        let counts = hold(seed, Flushing::Background).counts;
        acknowledged += counts.acknowledged;
        elections += counts.elections;
    }
    // A simulation in which nothing happens holds every promise.
    assert!(
        acknowledged > 10_000,
        "only {acknowledged} records were acknowledged"
    );
    assert!(elections > 500, "only {elections} leaders were elected");
}

#[test]
fn what_is_flushed_before_it_is_acknowledged_survives_every_power_cut() {
    let mut acknowledged = 0;
    for seed in SEEDS {
        acknowledged += hold(seed, Flushing::EachAppend).counts.acknowledged;
    }
    assert!(
        acknowledged > 5_000,
        "only {acknowledged} records were acknowledged"
    );
}

#[test]
fn seeds_that_failed_once_hold() {
    for line in include_str!("../seeds.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let seed = line
            .split_whitespace()
            .next()
            .and_then(|number| number.parse().ok());
        hold(seed.expect("each line begins with a seed"), Flushing::Background);
    }
}
