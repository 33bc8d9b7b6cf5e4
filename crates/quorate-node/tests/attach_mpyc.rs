//! Real MPyC programs over handed over sockets, carried by the guard.

#![allow(clippy::panic)]

mod attach_support;

use std::path::Path;

use attach_support::{Party, Seat, mesh, session, start, text};
use quorate_node::attach::GuardEvent;
use quorate_node::program::builtin::{ALL, Builtin};
use quorate_node::program::{Program, ProgramEvent};

const UVLOOP: [&[&str]; 2] = [&[], &["--no-uvloop"]];

fn builtin(name: &str) -> (&'static Builtin, Program) {
    let builtin = Builtin::find(name).expect("it comes with quorate");
    (
        builtin,
        Program::Text {
            name: builtin.file.into(),
            source: builtin.source.into(),
        },
    )
}

fn examples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples"))
}

/// All parties ended well, connected through MPyC, and every byte of a link was counted alike.
fn assert_sound(parties: &[Party]) {
    let m = parties.len();
    for (me, party) in parties.iter().enumerate() {
        let ended = &party.ended;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let connected = ProgramEvent::Connected {
            parties: u16::try_from(m).expect("few"),
        };
        assert_eq!(ended.events[0], connected, "{ended:?}");
        assert!(
            matches!(
                ended.events[1],
                ProgramEvent::Finished {
                    bytes_sent: 1..,
                    ..
                }
            ),
            "{ended:?}"
        );
        assert_eq!(ended.events.len(), 3, "{ended:?}");
        let lost = party.guard.iter().filter(|e| {
            !matches!(
                e,
                GuardEvent::Connected { .. } | GuardEvent::Closed { lost: false, .. }
            )
        });
        assert_eq!(lost.count(), 0, "{:?}", party.guard);
        assert_eq!(party.counters.len(), m - 1);
        for count in &party.counters {
            let other = &parties[usize::from(count.peer)].counters;
            let back = other
                .iter()
                .find(|c| usize::from(c.peer) == me)
                .expect("a link has two ends");
            assert_eq!((count.tx, count.rx), (back.rx, back.tx));
            assert!(count.tx > 2 && count.rx > 2, "{count:?}");
        }
    }
}

fn assert_derangements(lines: &[&str], largest: usize) {
    assert_eq!(lines.len(), largest - 1, "{lines:?}");
    for (line, n) in lines.iter().zip(2..) {
        let (count, list) = line.split_once(' ').expect("n and a list");
        let list: Vec<usize> = serde_json::from_str(list).expect("a list of numbers");
        assert_eq!((count.parse(), list.len()), (Ok(n), n));
        let mut sorted = list.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..n), "{line}");
        assert!(list.iter().enumerate().all(|(i, lot)| i != *lot), "{line}");
    }
}

#[tokio::test]
async fn lots_are_drawn_by_three_and_by_five_with_and_without_uvloop() {
    let (_, program) = builtin("secretsanta");
    for m in [3, 5] {
        for uvloop in UVLOOP {
            let args = vec![[&["4"], uvloop].concat(); m];
            let parties = session(&program, &args, Path::new("/")).await;
            assert_sound(&parties);
            assert_derangements(&parties[0].ended.result(), 4);
            for party in &parties {
                assert_eq!(party.ended.result(), parties[0].ended.result());
            }
        }
    }
}

#[tokio::test]
async fn the_mean_over_the_demo_files_is_the_one_that_the_builtin_promises() {
    let (income, _) = builtin("mean-income");
    let folder = examples().join("data");
    let program = Program::File(examples().join(income.file));
    for uvloop in UVLOOP {
        let private: Vec<_> = (0..3)
            .map(|i| income.demo_args_of(i, folder.to_str().expect("UTF-8")))
            .collect();
        let args: Vec<Vec<&str>> = private
            .iter()
            .map(|own| {
                let own = own.iter().map(String::as_str);
                income
                    .public_args
                    .iter()
                    .copied()
                    .chain(own)
                    .chain(uvloop.iter().copied())
                    .collect()
            })
            .collect();
        let parties = session(&program, &args, examples()).await;
        assert_sound(&parties);
        for party in &parties {
            let result = party.ended.result();
            assert_eq!(result, ["people 19", "mean income 2026: 31575"]);
            assert!(income.check.ends_with(&result.join(", ")));
        }
    }
}

#[tokio::test]
async fn five_votes_are_counted_and_a_majority_opens_less() {
    let (_, program) = builtin("vote");
    let votes = ["yes", "no", "yes", "no", "yes"];
    for uvloop in UVLOOP {
        let tally: Vec<_> = votes
            .iter()
            .map(|v| [&["--vote", *v], uvloop].concat())
            .collect();
        let parties = session(&program, &tally, Path::new("/")).await;
        assert_sound(&parties);
        assert!(parties.iter().all(|p| p.ended.result() == ["yes 3, no 2"]));
    }
    for (votes, result) in [
        (["yes", "no", "yes"], "accepted"),
        (["no", "no", "yes"], "not accepted"),
    ] {
        let args: Vec<_> = votes
            .iter()
            .map(|v| vec!["--majority", "--vote", *v])
            .collect();
        let parties = session(&program, &args, Path::new("/")).await;
        assert_sound(&parties);
        assert!(parties.iter().all(|p| p.ended.result() == [result]));
    }
}

#[tokio::test]
async fn every_builtin_runs_alone() {
    for builtin in ALL {
        let program = Program::Text {
            name: builtin.file.into(),
            source: builtin.source.into(),
        };
        let folder = examples().join("data");
        let own = builtin.demo_args_of(0, folder.to_str().expect("UTF-8"));
        let args: Vec<&str> = builtin
            .public_args
            .iter()
            .copied()
            .chain(own.iter().map(String::as_str))
            .collect();
        let parties = session(&program, &[args], Path::new("/")).await;
        assert_eq!(parties[0].ended.code, Some(0), "{:?}", parties[0].ended);
        assert!(!parties[0].ended.result().is_empty());
    }
}

#[tokio::test]
async fn uvloop_is_what_runs_unless_it_is_switched_off() {
    let source = "from mpyc.runtime import mpc\nprint(type(mpc._loop).__module__)\nmpc.run(mpc.start())\nmpc.run(mpc.shutdown())";
    for (uvloop, module) in UVLOOP.iter().zip(["uvloop", "asyncio.unix_events"]) {
        let parties = session(&text(source), &vec![uvloop.to_vec(); 3], Path::new("/")).await;
        assert!(
            parties.iter().all(|p| p.ended.result() == [module]),
            "{:?}",
            parties[0].ended
        );
    }
}

#[tokio::test]
async fn a_megabyte_each_way_arrives_whole() {
    let source = "
import hashlib
from mpyc.runtime import mpc
async def main():
    async with mpc:
        got = await mpc.transfer(bytes([mpc.pid]) * 3_000_000)
        print([hashlib.sha256(part).hexdigest()[:8] for part in got])
mpc.run(main())";
    let parties = session(&text(source), &vec![vec![]; 3], Path::new("/")).await;
    assert_sound(&parties);
    for party in &parties {
        assert_eq!(party.ended.result(), parties[0].ended.result());
        assert!(party.counters.iter().all(|count| count.tx > 3_000_000));
    }
}

#[tokio::test]
async fn a_program_reaches_nothing_but_its_links() {
    let source = "
import asyncio
async def main():
    loop = asyncio.get_running_loop()
    for attempt in (loop.create_connection(asyncio.Protocol, '127.0.0.1', 80),
                    loop.create_connection(asyncio.Protocol, 'party-0.quorate.invalid', 70001),
                    loop.create_server(asyncio.Protocol, port=11365),
                    asyncio.start_server(print, '127.0.0.1', 0),
                    asyncio.open_connection('127.0.0.1', 1)):
        try:
            print('reached', await attempt)
        except PermissionError as refusal:
            print(refusal)
import mpyc.runtime
mpyc.runtime.mpc.run(main())";
    for uvloop in UVLOOP {
        let parties = session_without_links(source, uvloop).await;
        let result = parties.result();
        assert_eq!(result.len(), 5, "{parties:?}");
        assert!(
            result
                .iter()
                .all(|line| line.starts_with("quorate: this program may")),
            "{result:?}"
        );
    }
}

async fn session_without_links(source: &str, args: &[&str]) -> attach_support::Ended {
    let mut parties = mesh(2);
    let links = parties[0].links.take().expect("made with links");
    let seat = Seat {
        me: 0,
        parties: 2,
        args,
        links,
        cwd: Path::new("/"),
    };
    start(text(source), seat).await.end().await
}
