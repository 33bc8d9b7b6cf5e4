//! What must be readable nowhere between the parties: neither on the lines, nor in the memory of a relay.
//!
//! The memory of a relay is read as a debugger would, from `/proc/PID/mem`: what the operator of a relay can come to
//! know is in there, however it is encrypted on the lines.

use super::{Scenario, process::Process, stage::Stage};
use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    os::unix::fs::FileExt as _,
    path::Path,
};

/// The fewest bytes of a secret that are looked for: shorter ones occur by chance.
const MIN_BYTES: usize = 5;
/// So much memory is read at a time.
const PIECE: usize = 1 << 20;
/// In the memory of every relay: two of its arguments, as the system keeps them. Who does not see them sees nothing.
const ALWAYS: &[u8] = b"relay\0run\0";

/// What to look for in a scenario: what it names, each DID, and the program.
fn needles(scenario: &Scenario, stage: &Stage) -> Vec<String> {
    let mut needles = scenario.expect.hidden.clone();
    needles.extend(stage.parties.iter().map(|p| p.did.clone()));
    needles.push(scenario.session.program.clone());
    needles.retain(|n| n.len() >= MIN_BYTES);
    needles
}

/// What ought to be hidden and is in the capture.
pub fn on_lines(scenario: &Scenario, stage: &Stage, capture: &Path) -> Vec<String> {
    stage.lab.emulator().flush();
    let Ok(bytes) = fs::read(capture) else {
        return vec!["the capture cannot be read".into()];
    };
    let mut needles = needles(scenario, stage);
    needles.push("did:key".into());
    let seen = needles.iter().filter(|n| contains(&bytes, n.as_bytes()));
    seen.map(|n| format!("`{n}` is readable on the lines"))
        .collect()
}

/// What ought to be hidden and is in the memory of a relay that runs.
pub fn at_relays(scenario: &Scenario, stage: &mut Stage) -> Vec<String> {
    if scenario.expect.hidden.is_empty() {
        return Vec::new();
    }
    let needles = needles(scenario, stage);
    let mut wrong = Vec::new();
    for relay in &mut stage.relays {
        if relay.process.ended().is_some() {
            continue;
        }
        match seen_in(&relay.process, &needles) {
            Ok(seen) => {
                wrong.extend(seen.map(|n| format!("`{n}` is in the memory of a relay")));
            }
            Err(error) => wrong.push(format!("the memory of a relay cannot be read: {error}")),
        }
    }
    wrong
}

fn seen_in<'a>(
    process: &Process,
    needles: &'a [String],
) -> io::Result<impl Iterator<Item = &'a String> + use<'a>> {
    let mut sought: Vec<&[u8]> = needles.iter().map(String::as_bytes).collect();
    sought.push(ALWAYS);
    let mut seen = search_memory(process.id(), &sought)?;
    if seen.pop() != Some(true) {
        return Err(io::Error::other("its own arguments are not there"));
    }
    let both = needles.iter().zip(seen);
    Ok(both.filter(|(_, seen)| *seen).map(|(needle, _)| needle))
}

/// Which of `needles` are in memory that the process can write.
fn search_memory(process: u32, needles: &[&[u8]]) -> io::Result<Vec<bool>> {
    let maps = BufReader::new(File::open(format!("/proc/{process}/maps"))?);
    let memory = File::open(format!("/proc/{process}/mem"))?;
    let overlap = needles.iter().map(|n| n.len()).max().unwrap_or(0);
    let mut seen = vec![false; needles.len()];
    let mut piece = vec![0; PIECE + overlap];
    for line in maps.lines() {
        let line = line?;
        let Some((mut at, end)) = writable(&line) else {
            continue;
        };
        while at < end {
            let length = usize::try_from(end - at).map_or(piece.len(), |l| l.min(piece.len()));
            // What was given back meanwhile cannot be read.
            let read = memory.read_at(&mut piece[..length], at).unwrap_or(0);
            for (needle, seen) in needles.iter().zip(&mut seen) {
                *seen = *seen || contains(&piece[..read], needle);
            }
            at += PIECE as u64;
        }
    }
    Ok(seen)
}

/// From where to where, of a line of `/proc/PID/maps` (proc_pid_maps(5)).
fn writable(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    if !words.next()?.starts_with("rw") {
        return None;
    }
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(from)?, number(to)?))
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else {
        return false;
    };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|b| b == first) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_process_holds_is_found_and_what_it_does_not_hold_is_not() {
        // Made here, so that the text as a whole is in no constant of this program.
        let held: String = ["kept", "only", "on", "the", "heap"].join("-");
        let seen = search_memory(std::process::id(), &[held.as_bytes()]).unwrap();
        assert_eq!(seen, [true]);
        assert!(contains(b"xxabcx", b"abc") && !contains(b"xxab", b"abc"));
        assert_eq!(
            writable("7f00-8f00 rw-p 00000000 00:00 0 [heap]"),
            Some((0x7f00, 0x8f00))
        );
        assert_eq!(writable("7f00-8f00 r--p 00000000 00:00 0"), None);
        assert_eq!(writable(""), None);
    }
}
