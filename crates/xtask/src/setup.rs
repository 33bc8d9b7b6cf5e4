//! What the checks need besides Rust: a C compiler, Python with venv, namespaces, their
//! interfaces and NATs, cargo-deny.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The cargo-deny that the configuration was written for.
const CARGO_DENY: &str = "0.20.2";

/// One program, how to see that it works, and the Debian package that brings it.
const NEEDED: &[(&str, &[&str], &str)] = &[
    ("cc", &["--version"], "gcc libc6-dev"),
    (
        "python3",
        &["-c", "import ensurepip, venv"],
        "python3 python3-venv",
    ),
    ("unshare", &["--version"], "util-linux"),
    ("nsenter", &["--version"], "util-linux"),
    ("ip", &["-V"], "iproute2"),
    ("nft", &["--version"], "nftables"),
    ("git", &["--version"], "git"),
];

pub fn run(_root: &Path) -> Result<(), String> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, args, _)| !works(program, args))
        .map(|(_, _, package)| *package)
        .collect();
    if !missing.is_empty() {
        install_packages(&missing.join(" "))?;
    }
    open_tun()?;
    install_cargo_deny()
}

/// The lab's lines are TUN devices. Debian opens their door to everybody; some containers do not.
fn open_tun() -> Result<(), String> {
    const DOOR: &str = "/dev/net/tun";
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(DOOR);
    if opened.is_ok() || !Path::new(DOOR).exists() {
        return Ok(());
    }
    super::run(Command::new("sudo").args(["-n", "chmod", "0666", DOOR]))
        .map_err(|_| format!("{DOOR} is not open to this user: sudo chmod 0666 {DOOR}"))
}

/// Where cargo-deny is, if it is there in the right version.
pub fn cargo_deny() -> Option<PathBuf> {
    let own = tools().join("bin/cargo-deny");
    let on_path = PathBuf::from("cargo-deny");
    [own, on_path].into_iter().find(|path| {
        let output = Command::new(path)
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(CARGO_DENY))
    })
}

fn install_cargo_deny() -> Result<(), String> {
    if cargo_deny().is_some() {
        return Ok(());
    }
    println!(
        "installing cargo-deny {CARGO_DENY} into {}",
        tools().display()
    );
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    super::run(
        Command::new(cargo)
            .args([
                "install",
                "cargo-deny",
                "--version",
                CARGO_DENY,
                "--locked",
                "--quiet",
                "--root",
            ])
            .arg(tools())
            // Its build must not fill the workspace's cache with another set of the same crates.
            .env("CARGO_TARGET_DIR", tools().join("target"))
            .current_dir(env::temp_dir()),
    )?;
    let _ = std::fs::remove_dir_all(tools().join("target"));
    cargo_deny()
        .map(drop)
        .ok_or_else(|| "cargo-deny was installed but does not run".into())
}

/// Tools of the checks live beside the build cache, outside of every clone.
fn tools() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home =
        || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
    cache.unwrap_or_else(home).join("quorate/tools")
}

fn works(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .env("PATH", super::path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|s| s.success())
}

/// Debian's packages, as root or through sudo without a password; else the command to type.
fn install_packages(packages: &str) -> Result<(), String> {
    let sudo = if works("sh", &["-c", "test $(id -u) = 0"]) {
        ""
    } else {
        "sudo -n "
    };
    let script = format!(
        "{sudo}apt-get update -q && {sudo}env DEBIAN_FRONTEND=noninteractive apt-get install -y -q {packages}"
    );
    super::run(Command::new("sh").args(["-c", &script]))
        .map_err(|_| format!("these packages are missing: sudo apt install {packages}"))
}
