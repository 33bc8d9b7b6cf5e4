//! The systemd unit of a relay: a user of its own for the time it runs, and nothing it may write but
//! its state.

use std::{fmt::Write as _, path::Path};

/// Name of the service.
pub const SERVICE: &str = "quorate-relay.service";
/// Where a unit is written by default.
pub const DEFAULT_UNIT_PATH: &str = "/etc/systemd/system/quorate-relay.service";

/// What is different from relay to relay.
#[derive(Debug, Clone)]
pub struct UnitOptions<'a> {
    /// The program.
    pub binary: &'a Path,
    /// Arguments of `relay run`.
    pub arguments: &'a [String],
    /// Whether a port below 1024 is listened on.
    pub low_port: bool,
    /// Seconds that the relay may take to drain.
    pub drain_seconds: u64,
    /// What peers can make it keep, in bytes.
    pub memory_bytes: u64,
}

/// `MemoryMax` is a multiple of this, in MiB.
const MEMORY_STEP_MIB: u64 = 256;

/// The unit's text.
pub fn unit(options: &UnitOptions<'_>) -> String {
    let mut command = quoted(&options.binary.to_string_lossy());
    command.push_str(" --home /var/lib/quorate-relay -v relay run");
    for argument in options.arguments {
        let _ = write!(command, " {}", quoted(argument));
    }
    let capabilities = if options.low_port {
        "AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE"
    } else {
        "CapabilityBoundingSet="
    };
    let stop = options.drain_seconds.saturating_add(15);
    let memory = options.memory_bytes.div_ceil(1024 * 1024);
    let memory = memory.next_multiple_of(MEMORY_STEP_MIB);
    format!(
        "\
# Written by: quorate relay install-service
[Unit]
Description=quorate relay
Documentation=https://github.com/quorate/quorate
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=2
# SIGTERM lets circuits end; after this time systemd ends the rest.
TimeoutStopSec={stop}
DynamicUser=yes
StateDirectory=quorate-relay
StateDirectoryMode=0700
UMask=0077
LimitNOFILE=65536
# What peers can make it keep with these limits; see docs/guides/relay.md.
MemoryMax={memory}M
{capabilities}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources

[Install]
WantedBy=multi-user.target
"
    )
}

/// One word for systemd: its own quoting, with specifiers and variables taken literally.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/.:_-,=+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '%' => out.push_str("%%"),
            '$' => out.push_str("$$"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::RelayLimits;

    fn text(arguments: &[&str], low_port: bool) -> String {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        unit(&UnitOptions {
            binary: Path::new("/usr/bin/quorate"),
            arguments: &arguments,
            low_port,
            drain_seconds: 30,
            memory_bytes: RelayLimits::default().memory_bytes(),
        })
    }

    #[test]
    fn a_relay_gets_no_more_rights_than_it_needs() {
        let unit = text(&[], false);
        for line in [
            "ExecStart=/usr/bin/quorate --home /var/lib/quorate-relay -v relay run",
            "DynamicUser=yes",
            "ProtectSystem=strict",
            "NoNewPrivileges=yes",
            "CapabilityBoundingSet=",
            "TimeoutStopSec=45",
            "MemoryMax=4096M",
        ] {
            assert!(unit.lines().any(|l| l == line), "{line}");
        }
        assert!(text(&[], true).contains("AmbientCapabilities=CAP_NET_BIND_SERVICE\n"));
    }

    #[test]
    fn arguments_stay_single_words() {
        let unit = text(&["--name", "Klinik \"Ost\" 100 % $HOME\nUser=root"], false);
        let start = unit.lines().find(|l| l.starts_with("ExecStart="));
        let end = "relay run --name \"Klinik \\\"Ost\\\" 100 %% $$HOME User=root\"";
        assert!(start.is_some_and(|l| l.ends_with(end)), "{start:?}");
    }
}
