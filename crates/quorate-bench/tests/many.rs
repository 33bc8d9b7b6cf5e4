//! Sessions in numbers: many parties in one, several at once, and many one after the other in one
//! process. The same world measures them in `quorate-bench sessions`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use quorate_bench::{
    process::{Process, Usage},
    world::{Computation, Seen, Until, World, mpyc},
};
use quorate_node::{party::PartyEvent, program::Builtin};
use quorate_session::Outcome;
use tokio::sync::Mutex;

/// Parties of the large session.
const MANY: usize = 10;
/// Sessions one after the other.
const SESSIONS: usize = 50;
/// Sessions before the first look: what is made once is there by then, and allocators have grown.
const FIRST: usize = 10;
/// Memory that the later sessions may add, by fragmentation. One leaked stream buffer of a
/// session is more: forty times 1 MiB.
const ALLOWED_BYTES: u64 = 16 << 20;

/// Threads that the runtime keeps for a while for files; a session that leaks one leaks three.
const ALLOWED_THREADS: u64 = 12;

/// What a process has open is counted for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

fn income() -> &'static Builtin {
    Builtin::find("mean-income").unwrap()
}

/// The program with files for everybody, in the folder where the parties' programs run.
fn mean_income(world: &World) -> Computation {
    let income = income();
    for (name, content) in income.demo_files {
        std::fs::write(world.folder().join(name), content).unwrap();
    }
    let mut computation = Computation::of(income.file, income.source, income.public_args).unwrap();
    computation.private_args = |index| vec!["--data".into(), format!("income-{}.csv", index % 3)];
    computation
}

fn assert_success(parties: &[Seen]) {
    for party in parties {
        assert!(
            party.is_success(parties.len()),
            "{:?} {} {:?}",
            party.outcome,
            party.stderr,
            party.events
        );
    }
}

fn results(party: &Seen) -> Vec<&str> {
    let log = |line: &&str| line.starts_with("people") || line.starts_with("mean");
    party.stdout.lines().filter(log).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn f41_three_five_and_ten_parties_on_one_machine_compute_the_mean_income() {
    let _alone = ALONE.lock().await;
    let python = mpyc(None).await.unwrap();
    for parties in [3, 5, MANY] {
        let world = World::new(parties, python.clone()).unwrap();
        let running = world.start(&mean_income(&world), Until::Finished).unwrap();
        let seen = running.end().await.unwrap();
        assert_success(&seen);
        let first = results(&seen[0]);
        assert_eq!(first.len(), 2, "{}", seen[0].stdout);
        for party in &seen {
            assert_eq!(results(party), first);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f41_three_sessions_on_one_host_at_once_are_isolated() {
    const SOURCE: &str = "\
import sys
from mpyc.runtime import mpc

async def main():
    async with mpc:
        whole = await mpc.output(mpc.sum(mpc.input(mpc.SecInt(32)(int(sys.argv[1])))))
        print('sum', int(whole))

mpc.run(main())
";
    let _alone = ALONE.lock().await;
    let python = mpyc(None).await.unwrap();
    let worlds: Vec<_> = (0..3)
        .map(|_| World::new(3, python.clone()).unwrap())
        .collect();
    // The same port inside the tunnel, the same beacon group: only keys keep them apart.
    let running: Vec<_> = worlds
        .iter()
        .zip(["1", "20", "300"])
        .map(|(world, number)| {
            let computation = Computation::of("sum.py", SOURCE, &[number]).unwrap();
            world.start(&computation, Until::Finished).unwrap()
        })
        .collect();
    let mut records = Vec::new();
    for (session, sum) in running.into_iter().zip(["sum 3", "sum 60", "sum 900"]) {
        let seen = session.end().await.unwrap();
        assert_success(&seen);
        for party in &seen {
            assert!(party.stdout.lines().any(|l| l == sum), "{}", party.stdout);
            let refused = party.first(|e| matches!(e, PartyEvent::Refused { .. }));
            assert!(
                refused.is_none(),
                "another session got in: {:?}",
                party.events
            );
        }
        let Outcome::Finished { receipts, .. } = &seen[0].outcome else {
            panic!("{:?}", seen[0].outcome)
        };
        records.extend(receipts.clone());
    }
    records.sort();
    records.dedup();
    assert_eq!(records.len(), 9, "each session has receipts of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn f43_sessions_opened_and_closed_leave_no_descriptor_thread_memory_or_running_file() {
    let _alone = ALONE.lock().await;
    let python = mpyc(None).await.unwrap();
    let world = World::new(3, python).unwrap();
    let computation = Computation::of("done.py", "print('done')\n", &[]).unwrap();
    let mut early = None;
    for done in 1..=SESSIONS {
        let running = world.start(&computation, Until::Finished).unwrap();
        assert_success(&running.end().await.unwrap());
        if done == FIRST {
            early = Some((settled().await, world.files()));
        }
    }
    let (early, early_files) = early.unwrap();
    let (late, late_files) = (settled().await, world.files());
    assert_eq!(late.descriptors, early.descriptors, "{early:?} {late:?}");
    assert!(
        late.threads <= early.threads + ALLOWED_THREADS,
        "{early:?} {late:?}"
    );
    assert!(
        late.anonymous <= early.anonymous + ALLOWED_BYTES,
        "{early:?} {late:?}"
    );
    let running = |files: &[PathBuf]| {
        let run = files.iter().filter(|f| f.iter().any(|part| part == "run"));
        run.cloned().collect::<Vec<_>>()
    };
    assert_eq!(running(&late_files), running(&early_files));
    // What stays is the record of each session: the same number of files for each.
    let per_session = (early_files.len() - running(&early_files).len()) / FIRST;
    let kept = late_files.len() - running(&late_files).len();
    assert!(kept <= per_session * SESSIONS + FIRST, "{kept} files");
}

/// The least of several looks: threads and sockets of the last session end on their own time.
async fn settled() -> Usage {
    let mut least = Process::own().usage().unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        let again = tokio::task::spawn_blocking(|| Process::own().usage().unwrap())
            .await
            .unwrap();
        least.descriptors = least.descriptors.min(again.descriptors);
        least.threads = least.threads.min(again.threads);
        least.anonymous = least.anonymous.min(again.anonymous);
    }
    least
}
