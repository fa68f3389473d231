//! A seed says everything: what fails once fails again.

use std::collections::BTreeSet;
use std::time::Duration;

use dreamcatcher_sim::plan::Plan;
use dreamcatcher_sim::world::run;

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let mut traces = BTreeSet::new();
    for seed in [1, 2, 3, 5, 8, 13] {
        let trace = || run(Plan::stormy(seed, Duration::from_secs(25))).trace;
        let (first, second) = (trace(), trace());
        println!("seed {seed}: trace {:016x} of {} events", first.0, first.1);
        assert_eq!(first, second, "seed {seed}");
        assert!(first.1 > 10_000, "seed {seed}: only {} events", first.1);
        assert!(traces.insert(first), "seed {seed} repeats another's trace");
    }
}
