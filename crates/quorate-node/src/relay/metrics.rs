//! The relay's numbers in the text format of Prometheus: totals, and nothing about anybody.

use std::fmt::Write as _;

use crate::overlay::{RelayRefusal, RelayStatus};

/// The page `/metrics`.
pub(super) fn page(status: &RelayStatus, stun_answers: u64) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = writeln!(
            out,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    };
    let gauge = "gauge";
    let counter = "counter";
    metric(
        "quorate_relay_connections",
        gauge,
        "Connections at present.",
        status.connections.into(),
    );
    metric(
        "quorate_relay_reservations",
        gauge,
        "Peers that hold a reservation at present.",
        status.reservations.into(),
    );
    metric(
        "quorate_relay_circuits",
        gauge,
        "Circuits at present.",
        status.circuits.into(),
    );
    metric(
        "quorate_relay_draining",
        gauge,
        "1 while nothing new is taken.",
        status.draining.into(),
    );
    metric(
        "quorate_relay_bits_per_second",
        gauge,
        "Bits per second over the last seconds.",
        status.bits_per_second,
    );
    metric(
        "quorate_relay_reservations_total",
        counter,
        "Reservations granted, without renewals.",
        status.reservations_total,
    );
    metric(
        "quorate_relay_circuits_total",
        counter,
        "Circuits granted.",
        status.circuits_total,
    );
    metric(
        "quorate_relay_bytes_total",
        counter,
        "Bytes carried.",
        status.bytes_total,
    );
    metric(
        "quorate_relay_stun_answers_total",
        counter,
        "STUN questions answered.",
        stun_answers,
    );
    let name = "quorate_relay_refused_total";
    let _ = writeln!(
        out,
        "# HELP {name} What was refused.\n# TYPE {name} counter"
    );
    for (reason, count) in RelayRefusal::ALL.iter().zip(status.refused) {
        let _ = writeln!(out, "{name}{{reason=\"{}\"}} {count}", reason.as_str());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_there_once_with_its_kind() {
        let status = RelayStatus {
            circuits: 2,
            bytes_total: 17,
            refused: [0, 3, 0, 0, 0, 0],
            ..RelayStatus::default()
        };
        let page = page(&status, 5);
        for line in [
            "quorate_relay_circuits 2",
            "quorate_relay_bytes_total 17",
            "quorate_relay_stun_answers_total 5",
            "quorate_relay_refused_total{reason=\"reservation\"} 3",
        ] {
            assert_eq!(page.lines().filter(|l| *l == line).count(), 1, "{line}");
        }
        let values = page.lines().filter(|l| !l.starts_with('#'));
        let names: Vec<&str> = values.filter_map(|l| l.split(['{', ' ']).next()).collect();
        for name in names {
            assert!(page.contains(&format!("# TYPE {name} ")), "{name}");
        }
    }
}
