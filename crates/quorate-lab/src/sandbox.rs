//! The lab's place apart: a user namespace in which an ordinary user may make networks.
//!
//! ```text
//! quorate-lab … ── exec unshare (user, network, mount, PID) ─► first process inside: quorate-lab … again
//! ```
//!
//! The process that a user sees becomes `unshare`; when it dies, even by `kill -9`, the kernel
//! kills the first process inside, and with it everything in that PID namespace. What the lab
//! writes lies in a file system in memory of that mount namespace. So nothing stays.
//!
//! Root does the same without a user namespace of its own, where that is allowed.
//!
//! Source: `unshare(1)`, `user_namespaces(7)`, `pid_namespaces(7)`.

use crate::{Context as _, Outcome, Trouble};
use std::{
    env,
    fs::OpenOptions,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Tells the process inside who the one outside is.
const OUTSIDE: &str = "QUORATE_LAB_OUTSIDE";
/// Tells it that its user namespace is one of its own.
const OWN_USERS: &str = "QUORATE_LAB_OWN_USERS";
/// Folders that are usually empty: one of them becomes the lab's own.
const PLACES: &[&str] = &["/mnt", "/media", "/srv", "/opt"];

/// Tools that the lab uses: name, Debian package, what for.
const TOOLS: &[(&str, &str, &str)] = &[
    ("unshare", "util-linux", "namespaces"),
    ("mount", "mount", "a file system in memory"),
    ("ip", "iproute2", "interfaces, addresses and routes"),
    ("nft", "nftables", "NAT and firewalls"),
];

/// One thing that the lab needs of the machine.
#[derive(Clone, Debug)]
pub struct Need {
    /// What.
    pub what: String,
    /// Nothing, or why it is not there and how to get it.
    pub missing: Option<String>,
}

/// Whether this process is inside.
pub fn inside() -> bool {
    env::var_os(OUTSIDE).is_some() && std::process::id() == 1
}

/// The process outside, for those who want to enter.
pub fn outside() -> Option<String> {
    env::var(OUTSIDE).ok()
}

/// The words that bring a command of the same user from outside into a network of this lab, which
/// is held by this descriptor. `$(…)` in them is for a shell: what number the first process inside
/// has outside cannot be known inside.
pub fn way_in(descriptor: i32) -> Vec<String> {
    let first = format!("$(pgrep -P {})", outside().unwrap_or_default());
    let mut words = vec!["nsenter".to_owned(), "-t".into(), first.clone()];
    if env::var_os(OWN_USERS).is_some() {
        words.extend(["-U".into(), "--preserve-credentials".into()]);
    }
    words.push(format!("--net=/proc/{first}/fd/{descriptor}"));
    words
}

/// Goes inside by starting this program again with the same arguments; returns only inside, or with
/// the reason why it cannot.
pub fn enter() -> Outcome<()> {
    if inside() {
        return Ok(());
    }
    let missing: Vec<String> = needs().into_iter().filter_map(|n| n.missing).collect();
    if !missing.is_empty() {
        return Err(Trouble::new(format!(
            "the lab cannot run here:\n  {}",
            missing.join("\n  ")
        )));
    }
    let program = env::current_exe().during("this program's path")?;
    let mut command = unshare();
    command
        .arg(program)
        .args(env::args_os().skip(1))
        .env(OUTSIDE, std::process::id().to_string());
    if !is_root() {
        command.env(OWN_USERS, "1");
    }
    let error = command.exec();
    Err(Trouble::new(format!("unshare: {error}")))
}

/// `unshare` with what the lab needs; what it runs follows.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if let Ok(path) = env::join_paths(folders()) {
        command.env("PATH", path);
    }
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args([
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A folder of the lab's own that ends with it. Only inside.
pub fn folder() -> Outcome<PathBuf> {
    let empty = |path: &&&str| {
        let entries = std::fs::read_dir(path);
        entries.is_ok_and(|mut e| e.next().is_none())
    };
    let place = PLACES
        .iter()
        .find(empty)
        .ok_or_else(|| Trouble::new(format!("none of {} is empty", PLACES.join(", "))))?;
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "mode=0755", "quorate-lab", place])
        .status()
        .during("mount")?;
    if status.success() {
        Ok(Path::new(place).to_path_buf())
    } else {
        Err(Trouble::new(format!(
            "no file system in memory at {place}: {status}"
        )))
    }
}

/// Everything that the lab needs of this machine, and what of it is missing.
pub fn needs() -> Vec<Need> {
    let mut needs = Vec::new();
    for (tool, package, purpose) in TOOLS {
        let found = on_path(tool);
        needs.push(Need {
            what: format!("{tool}: {purpose}"),
            missing: (!found).then(|| format!("{tool} is missing: sudo apt install {package}")),
        });
    }
    needs.push(Need {
        what: "/dev/net/tun: lines between the sites".into(),
        missing: tun_is_missing(),
    });
    needs.push(Need {
        what: "namespaces of one's own".into(),
        missing: namespaces_are_missing(),
    });
    needs
}

/// Where tools are. Administrators' folders are not on every user's path, but the tools in them are for all.
fn folders() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).collect()
}

fn on_path(tool: &str) -> bool {
    folders().into_iter().any(|f| f.join(tool).is_file())
}

fn tun_is_missing() -> Option<String> {
    let path = "/dev/net/tun";
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let error = opened.err()?;
    Some(match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            format!("{path} is not open to this user: sudo chmod 0666 {path} (usual on Debian)")
        }
        _ => format!("{path}: {error}: sudo modprobe tun; in a container, give it this device"),
    })
}

fn namespaces_are_missing() -> Option<String> {
    let output = unshare()
        .args(["ip", "link", "set", "lo", "up"])
        .stdin(Stdio::null())
        .output();
    let said = match output {
        Ok(output) if output.status.success() => return None,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let remedy = if is_root() {
        "run as an ordinary user, or give the container CAP_SYS_ADMIN and CAP_NET_ADMIN"
    } else if Path::new("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists() {
        "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run with sudo"
    } else {
        "sudo sysctl user.max_user_namespaces=10000 (older Debian: kernel.unprivileged_userns_clone=1), or run with sudo"
    };
    Some(format!(
        "this user may not make namespaces ({said}): {remedy}"
    ))
}
