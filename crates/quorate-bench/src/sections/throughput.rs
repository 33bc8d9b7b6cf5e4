//! How fast and how quick a stream through the mesh is, next to plain sockets.

use std::time::Duration;

use quorate_bench::{
    Outcome,
    sample::{micros, percentile},
    table::{Aim, Cell, Table},
    tunnels::{Rate, Stream, Tunnel, bulk, round_trips, tcp_pair, unix_pair},
};

/// Bytes of the largest message whose round trip is measured.
const SIZES: [usize; 3] = [1, 1_000, 16_000];
const ROUND_TRIPS: usize = 4_000;

pub struct Options {
    pub megabytes: usize,
    pub runs: usize,
}

pub async fn run(options: Options) -> Outcome<Vec<Table>> {
    Ok(vec![throughput(&options).await?, latency(&options).await?])
}

async fn throughput(options: &Options) -> Outcome<Table> {
    let mut table = Table::new(
        "Throughput, program socket to program socket",
        &["path", "streams", "Gbit/s", "CPU-s per GB"],
    );
    let bytes = options.megabytes * 1_000_000;
    for count in [1, 4] {
        let share: usize = bytes / count;
        let unix = median(options.runs, move || {
            bulk(pairs_of(unix_pair, count)?, share)
        })
        .await?;
        let tcp = median(options.runs, move || {
            bulk(pairs_of(tcp_pair, count)?, share)
        })
        .await?;
        let mut rates = Vec::new();
        let mut tunnel = Tunnel::open().await?;
        for _ in 0..options.runs {
            let mut links = Vec::new();
            for _ in 0..count {
                links.push(tunnel.link().await?);
            }
            rates.push(tokio::task::spawn_blocking(move || bulk(links, share)).await??);
        }
        tracing::info!(dropped = tunnel.dropped(), "tunnel");
        tunnel.close().await;
        let mesh = percentile(&mut rates, 50);
        for (path, rate) in [
            ("Unix socket pair", unix),
            ("loopback TCP", tcp),
            ("quorate, attach unix", mesh),
        ] {
            table.row([
                path.into(),
                Cell::Number(if count == 1 { 1.0 } else { 4.0 }, 0),
                Cell::Number(rate.gigabits, 2),
                Cell::Number(rate.cpu_per_gigabyte, 2),
            ]);
        }
        if count == 1 {
            table
                .aims
                .push(Aim::at_least("one stream", 2.0, mesh.gigabits, "Gbit/s"));
            table.aims.push(Aim::at_most(
                "processor time of one stream",
                5.0,
                mesh.cpu_per_gigabyte,
                "CPU-s per GB",
            ));
        }
    }
    Ok(table)
}

fn pairs_of<S: Stream>(make: fn() -> Outcome<(S, S)>, count: usize) -> Outcome<Vec<(S, S)>> {
    (0..count).map(|_| make()).collect()
}

async fn median<F>(runs: usize, measure: F) -> Outcome<Rate>
where
    F: Fn() -> Outcome<Rate> + Send + Clone + 'static,
{
    let mut rates = Vec::new();
    for _ in 0..runs {
        let measure = measure.clone();
        rates.push(tokio::task::spawn_blocking(measure).await??);
    }
    Ok(percentile(&mut rates, 50))
}

async fn latency(options: &Options) -> Outcome<Table> {
    let mut table = Table::new(
        "Round trip of a message, program socket to program socket",
        &["path", "bytes", "median µs", "99 % µs", "added to TCP µs"],
    );
    let count = ROUND_TRIPS * options.runs.min(3);
    for size in SIZES {
        let unix =
            tokio::task::spawn_blocking(move || round_trips(unix_pair()?, size, count)).await??;
        let tcp =
            tokio::task::spawn_blocking(move || round_trips(tcp_pair()?, size, count)).await??;
        let mut tunnel = Tunnel::open().await?;
        let link = tunnel.link().await?;
        let mesh = tokio::task::spawn_blocking(move || round_trips(link, size, count)).await??;
        tunnel.close().await;
        let plain = percentile(&mut tcp.clone(), 50);
        for (path, mut times) in [
            ("Unix socket pair", unix),
            ("loopback TCP", tcp),
            ("quorate, attach unix", mesh),
        ] {
            let median: Duration = percentile(&mut times, 50);
            let added = micros(median) - micros(plain);
            #[expect(clippy::cast_precision_loss, reason = "a size")]
            table.row([
                path.into(),
                Cell::Number(size as f64, 0),
                Cell::Number(micros(median), 1),
                Cell::Number(micros(percentile(&mut times, 99)), 1),
                if path.starts_with("quorate") {
                    Cell::Number(added, 1)
                } else {
                    Cell::Nothing
                },
            ]);
            if size == 1 && path.starts_with("quorate") {
                table
                    .aims
                    .push(Aim::at_most("added round trip", 200.0, added, "µs"));
            }
        }
    }
    Ok(table)
}
