//! The lab's check of itself: every pair of NATs, probed, against the table.
//!
//! Two sites of each kind and a server in the open, all some milliseconds apart: without latency
//! between them, who starts first decides, and the answers are wrong.

use crate::{
    Lab, LinkSpec, Nat, Outcome, Plan, Site,
    nat::Reach,
    probe::{Pair, punch},
};
use std::{fmt::Write as _, time::Duration};

/// How long the slowest pair is waited for.
const PATIENCE: Duration = Duration::from_secs(4);
/// The name of the server's site.
pub const SERVER: &str = "server";

/// A lab with two sites of each kind.
pub fn plan(kinds: &[Nat], delay_ms: f64, seed: u64) -> Plan {
    let mut sites = vec![Site::new(SERVER, Nat::Open).with_ipv6()];
    for kind in kinds {
        sites.push(Site::new(kind.name(), *kind));
        sites.push(Site::new(second(*kind), *kind));
    }
    Plan {
        seed,
        sites,
        links: Vec::new(),
        elsewhere: LinkSpec::delay(delay_ms),
    }
}

fn second(kind: Nat) -> String {
    format!("{kind}'")
}

/// One cell of the table.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// One kind.
    pub one: Nat,
    /// The other.
    pub other: Nat,
    /// What was seen.
    pub seen: Reach,
}

impl Cell {
    /// Whether it is what the oracle says.
    pub fn holds(&self) -> bool {
        self.one.reach(self.other) == self.seen
    }
}

/// Probes every pair of these kinds once.
pub fn probe(lab: &Lab, kinds: &[Nat]) -> Outcome<Vec<Cell>> {
    let server = lab.host(SERVER)?;
    let mut cells = Vec::new();
    let mut pairs = Vec::new();
    for (index, one) in kinds.iter().enumerate() {
        // Families that never meet are the table's business, not that of a probe.
        let meets = |other: &&Nat| one.has_ipv4() == other.has_ipv4();
        for other in kinds[index..].iter().filter(meets) {
            cells.push((*one, *other));
            pairs.push(Pair {
                one: lab.host(one.name())?,
                other: lab.host(&second(*other))?,
            });
        }
    }
    let seen = punch(&pairs, server, PATIENCE)?;
    let cells = cells.into_iter().zip(seen);
    Ok(cells
        .map(|((one, other), seen)| Cell { one, other, seen })
        .collect())
}

/// The table, with an exclamation mark at cells that are not as they should be.
pub fn table(kinds: &[Nat], cells: &[Cell]) -> String {
    let mut text = String::new();
    let _ = write!(text, "{:9}", "");
    for kind in kinds {
        let _ = write!(text, " {kind:>9}");
    }
    for (index, one) in kinds.iter().enumerate() {
        let _ = write!(text, "\n{one:9}{:1$}", "", index * 10);
        for other in &kinds[index..] {
            let cell = cells.iter().find(|c| c.one == *one && c.other == *other);
            let shown = match cell {
                None => "–".to_owned(),
                Some(cell) if cell.holds() => cell.seen.to_string(),
                Some(cell) => format!("{}!", cell.seen),
            };
            let _ = write!(text, " {shown:>9}");
        }
    }
    text
}
