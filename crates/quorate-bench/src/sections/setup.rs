//! How long it takes until all are ready, with which traffic.
//!
//! All parties are told to join at the same moment. "All joined" is when every party holds every
//! join; "all ready" when every party holds every ready. Between the two lie roster, confirms and
//! key shares, the mesh with its paths, handshakes and control streams. Before it parties find
//! each other and prove who they are.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use quorate_bench::{
    Outcome,
    process::Process,
    sample::{millis, percentile},
    table::{Aim, Cell, Table},
    world::{Computation, Running, Seen, Until, World},
};
use quorate_node::{party::PartyEvent, program::PythonRuntime};
use tracing::{Event, Subscriber, field::Visit, span};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// Set-up of three parties.
const AIM_MILLIS: f64 = 150.0;
/// What the session loop says about each frame it sends.
pub const FRAMES: &str = "quorate::frames";

pub struct Options {
    pub python: PythonRuntime,
    pub sizes: Vec<usize>,
    pub runs: usize,
    pub traffic: Traffic,
}

/// Times of one session, from its beginning.
struct Times {
    linked: Duration,
    joined: Duration,
    agreed: Duration,
    meshed: Duration,
    ready: Duration,
    cpu: Duration,
}

pub async fn run(options: Options) -> Outcome<Vec<Table>> {
    let mut table = Table::new(
        "Set-up on loopback (median)",
        &[
            "parties",
            "all linked ms",
            "all joined ms",
            "agreed +ms",
            "mesh +ms",
            "all joined → all ready ms",
            "worst",
            "join → ready ms",
            "frames per party",
            "kB per party",
            "CPU ms per party",
        ],
    );
    let computation = Computation::of("idle.py", "import time\ntime.sleep(60)\n", &[])?;
    for parties in options.sizes {
        let world = World::new(parties, options.python.clone())?;
        let mut all = Vec::new();
        options.traffic.take();
        for _ in 0..options.runs {
            let cpu = Process::own().cpu()?;
            let running = world.start(&computation, Until::Ready)?;
            let times = times(running, cpu).await?;
            all.push(times);
        }
        let (frames, bytes) = options.traffic.take();
        let median = |of: fn(&Times) -> Duration, percent| {
            millis(percentile(
                &mut all.iter().map(of).collect::<Vec<_>>(),
                percent,
            ))
        };
        let share = |sum: u64| {
            let count = u32::try_from(parties * options.runs).unwrap_or(u32::MAX);
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            let share = sum as f64 / f64::from(count);
            share
        };
        let setup = median(|t| t.ready.saturating_sub(t.joined), 50);
        table.row([
            Cell::Number(f64::from(u32::try_from(parties)?), 0),
            Cell::Number(median(|t| t.linked, 50), 0),
            Cell::Number(median(|t| t.joined, 50), 0),
            Cell::Number(median(|t| t.agreed.saturating_sub(t.joined), 50), 0),
            Cell::Number(median(|t| t.meshed.saturating_sub(t.agreed), 50), 0),
            Cell::Number(setup, 0),
            Cell::Number(median(|t| t.ready.saturating_sub(t.joined), 100), 0),
            Cell::Number(median(|t| t.ready, 50), 0),
            Cell::Number(share(frames), 0),
            Cell::Number(share(bytes) / 1e3, 1),
            Cell::Number(
                median(|t| t.cpu, 50) / f64::from(u32::try_from(parties)?),
                1,
            ),
        ]);
        if parties == 3 {
            let aim = Aim::at_most("set-up of 3 parties", AIM_MILLIS, setup, "ms");
            table.aims.push(aim);
        }
    }
    Ok(vec![table])
}

async fn times(running: Running, cpu: Duration) -> Outcome<Times> {
    let begun = running.begun;
    let seen = running.end().await?;
    let cpu = Process::own().cpu()?.saturating_sub(cpu);
    let latest = |what: &str, of: &dyn Fn(&Seen) -> Option<Instant>| -> Outcome<Duration> {
        let mut latest = begun;
        for party in &seen {
            let at = of(party).ok_or_else(|| {
                let events = party.events.iter();
                let story = events.map(|(at, event)| format!("\n  {:?} {event:?}", *at - begun));
                format!(
                    "a party was never {what}: {:?}{}",
                    party.outcome,
                    story.collect::<String>()
                )
            })?;
            latest = latest.max(at);
        }
        Ok(latest - begun)
    };
    let phase = |name: &'static str| {
        move |party: &Seen| {
            party.last(|e| matches!(e, PartyEvent::Party { phase, .. } if phase == name))
        }
    };
    Ok(Times {
        linked: latest("linked", &phase("linked"))?,
        joined: latest("joined", &phase("joined"))?,
        agreed: latest("keyed", &|p| p.state("keyed"))?,
        meshed: latest("ready", &|p| p.state("ready"))?,
        ready: latest("running", &|p| p.state("running"))?,
        cpu,
    })
}

/// Counts frames of the session protocol and their bytes, as the parties' loops report them.
#[derive(Clone, Default)]
pub struct Traffic(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Traffic {
    /// Frames and bytes since the last call.
    fn take(&self) -> (u64, u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::take(&mut *counts);
        let of = |name| taken.get(name).copied().unwrap_or(0);
        (of("frames"), of("bytes"))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Traffic {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == FRAMES
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut bytes = Bytes(0);
        event.record(&mut bytes);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry("frames").or_default() += 1;
        *counts.entry("bytes").or_default() += bytes.0;
    }

    fn on_new_span(&self, _: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {}
}

struct Bytes(u64);

impl Visit for Bytes {
    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        if field.name() == "bytes" {
            self.0 = value;
        }
    }

    fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
}
