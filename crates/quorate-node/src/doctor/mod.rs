//! What a session needs of this machine and its network, looked at before there is one.
//!
//! ```text
//!   machine:  Python, MPyC, private namespaces, folders
//!   network:  relays ─► UDP, TCP, their clock ─► STUN from one socket ─► what the NAT does; IPv6
//!             router ─► whether it maps a port, which it gets back
//! ```
//! Nothing here names an address, a person or a relay: relays are numbers in the order they were
//! given, so that a report can be shown to others.
//!
//! Limits: [`MAX_RELAYS`] relays are looked at, all at once, each within the waits of
//! `overlay::relay_probe`.
//!
//! Security. Provides: a report without addresses, names and DIDs. Does not provide: that a relay
//! told the truth; what it says is compared with other relays where there are any.

mod network;

use std::time::Duration;

use crate::{
    Finding,
    files::Home,
    program::{
        confine,
        python::{MPYC_VERSION, PythonError, Search, find},
    },
};

pub use network::{NETWORK, network};

/// Relays that are looked at.
pub const MAX_RELAYS: usize = 8;

/// What a program needs of this machine.
pub async fn machine(home: &Home, python: &Search) -> Vec<Finding> {
    let mut findings = vec![python_finding(python).await];
    findings.push(match confine::probe() {
        Ok(()) => Finding::ok("namespaces", "a program can be given no network"),
        Err(why) => Finding::warn(
            "namespaces",
            format!("a program cannot be kept from the network: {why}"),
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), or allow user namespaces; sessions work without",
        ),
    });
    findings.push(
        match Home::ensure(home.state()).and(Home::ensure(home.data())) {
            Ok(()) => Finding::ok("folders", "folders are private and can be written"),
            Err(fault) => {
                let remedy = fault
                    .hint
                    .unwrap_or_else(|| "choose others with --home".into());
                // The cause names a path of this user.
                Finding::fail("folders", "a folder of quorate cannot be used", remedy)
            }
        },
    );
    findings
}

async fn python_finding(search: &Search) -> Finding {
    let id = "python";
    let python = match find(search).await {
        Ok(python) => python,
        Err(why) => return Finding::fail(id, "no Python 3.10 or newer was found", why.fix()),
    };
    let Some(mpyc) = &python.mpyc else {
        // Named by its command: its path is that of a user.
        let why = PythonError::NoMpyc {
            python: "python3".into(),
        };
        let text = format!("Python {} has no MPyC", python.version);
        return Finding::fail(id, text, why.fix());
    };
    let text = format!(
        "Python {} ({} bits), MPyC {mpyc}",
        python.version, python.word
    );
    if mpyc.starts_with(MPYC_VERSION) {
        return Finding::ok(id, text);
    }
    let fix =
        format!("all parties need the same MPyC: python3 -m pip install mpyc=={MPYC_VERSION}");
    Finding::warn(id, text, fix)
}

/// A time for people.
pub(crate) fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}
