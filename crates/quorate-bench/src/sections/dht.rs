//! How lookups of rendezvous records grow with the number of nodes.
//!
//! All nodes are in this process, connected by channels in memory: the time is that of the processors, and what a network
//! adds to it is the number of hops times its round trip.

use quorate_bench::{
    Outcome,
    process::Process,
    sample::{millis, percentile},
    table::{Cell, Table},
};
use quorate_node::overlay::dht::{Crowd, Lookup};

pub struct Options {
    pub sizes: Vec<usize>,
    pub lookups: usize,
}

pub async fn run(options: Options) -> Outcome<Vec<Table>> {
    let columns = [
        "nodes",
        "lookups",
        "found",
        "kept by",
        "hops, mean",
        "hops, most",
        "requests, median",
        "first answer, median ms",
        "over, median ms",
        "MB per node",
    ];
    let mut table = Table::new("Lookups of rendezvous records", &columns);
    for size in options.sizes {
        let before = Process::own().usage()?.anonymous;
        let mut crowd = Crowd::start(size)?;
        let mut lookups = Vec::new();
        for seed in 1..=options.lookups as u64 {
            lookups.push(crowd.lookup(seed).await?);
        }
        let used = Process::own().usage()?.anonymous.saturating_sub(before);
        table.row(cells(size, &lookups, used));
        crowd.stop().await;
    }
    Ok(vec![table])
}

fn cells(size: usize, lookups: &[Lookup], used: u64) -> Vec<Cell> {
    let number = |n: usize| Cell::Number(u32::try_from(n).map_or(f64::MAX, f64::from), 0);
    let mean = |of: fn(&Lookup) -> usize| {
        let sum: usize = lookups.iter().map(of).sum();
        let all = u32::try_from(sum).map_or(f64::MAX, f64::from);
        all / f64::from(u32::try_from(lookups.len().max(1)).unwrap_or(u32::MAX))
    };
    let median = |of: fn(&Lookup) -> f64| {
        let mut all: Vec<f64> = lookups.iter().map(of).collect();
        percentile(&mut all, 50)
    };
    let megabytes = f64::from(u32::try_from(used / 1024).unwrap_or(u32::MAX)) / 1024.0;
    let per_node = megabytes / f64::from(u32::try_from(size.max(1)).unwrap_or(u32::MAX));
    vec![
        number(size),
        number(lookups.len()),
        number(lookups.iter().filter(|l| l.answers > 0).count()),
        Cell::Number(mean(|l| l.kept_by), 1),
        Cell::Number(mean(|l| l.hops), 1),
        number(lookups.iter().map(|l| l.hops).max().unwrap_or(0)),
        Cell::Number(median(|l| f64::from(l.requests)), 0),
        Cell::Number(median(|l| millis(l.first)), 1),
        Cell::Number(median(|l| millis(l.over)), 1),
        Cell::Number(per_node, 2),
    ]
}
