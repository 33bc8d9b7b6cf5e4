//! MPyC without quorate: one process per party, plain TCP over loopback, nothing between them.

use std::{
    net::TcpListener,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::process::Command;

use crate::{Outcome, world::PATIENCE};

/// One run of all parties.
#[derive(Clone, Debug)]
pub struct Run {
    /// From the first start to the last end.
    pub wall: Duration,
    /// What each party's MPyC said: milliseconds and bytes sent.
    pub finished: Vec<(u64, u64)>,
    /// What party 0 printed.
    pub stdout: String,
}

/// Runs `program` with `parties` parties.
pub async fn run(python: &Path, program: &Path, args: &[String], parties: usize) -> Outcome<Run> {
    let addresses = free_addresses(parties)?;
    let start = Instant::now();
    let mut children = Vec::new();
    for index in 0..parties {
        let mut command = Command::new(python);
        command.arg("-B").arg(program);
        for address in &addresses {
            command.args(["-P", address]);
        }
        command
            .args(["-I", &index.to_string()])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        children.push(command.spawn()?);
    }
    let mut waiting = Vec::new();
    for child in children {
        waiting.push(tokio::spawn(child.wait_with_output()));
    }
    let mut finished = Vec::new();
    let mut stdout = String::new();
    for (index, child) in waiting.into_iter().enumerate() {
        let output = tokio::time::timeout(PATIENCE, child).await???;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("party {index} of plain MPyC failed: {said}").into());
        }
        let end = said.lines().rev().find_map(parse_end);
        finished.push(end.ok_or_else(|| format!("party {index} said no time: {said}"))?);
        if index == 0 {
            stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        }
    }
    Ok(Run {
        wall: start.elapsed(),
        finished,
        stdout,
    })
}

/// Addresses nobody listens on at the moment.
fn free_addresses(count: usize) -> Outcome<Vec<String>> {
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let addresses = held.iter().map(|l| Ok(l.local_addr()?.to_string()));
    addresses.collect()
}

/// `… Stop MPyC -- elapsed time: 0:00:01.234|bytes sent: 5678`
pub fn parse_end(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.split_once("elapsed time: ")?;
    let (time, bytes) = rest.split_once("|bytes sent: ")?;
    let (hours, rest) = time.split_once(':')?;
    let (minutes, seconds) = rest.split_once(':')?;
    let (seconds, millis) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let millis: u64 = format!("{millis:0<3}").get(..3)?.parse().ok()?;
    let whole: u64 = hours.parse::<u64>().ok()? * 3600
        + minutes.parse::<u64>().ok()? * 60
        + seconds.parse::<u64>().ok()?;
    Some((whole * 1000 + millis, bytes.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_mpyc_is_read() {
        let line = "2026-11-22 19:00:00,123 Stop MPyC -- elapsed time: 0:01:02.345|bytes sent: 678";
        assert_eq!(parse_end(line), Some((62_345, 678)));
        assert_eq!(parse_end("All 3 parties connected."), None);
    }
}
