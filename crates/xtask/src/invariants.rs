//! The invariants of docs/ARCHITECTURE.md that a command can check.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

/// Crates whose logic has no clock, socket, runtime or randomness of its own.
const PURE: &[&str] = &["quorate-identity", "quorate-session", "quorate-path"];
/// What must not be anywhere below them.
const IMPURE: &[&str] = &[
    "tokio",
    "libp2p",
    "mio",
    "socket2",
    "gotatun",
    "smoltcp",
    "rustix",
    "nix",
    "reqwest",
    "async-std",
];
/// Words that only one module may know: folder below `crates/`, word.
const CONFINED: &[(&str, &str)] = &[
    ("quorate-node/src/overlay", "libp2p::"),
    ("quorate-node/src/wireguard", "gotatun::"),
    ("quorate-node/src/netstack", "smoltcp::"),
];
/// No file may grow beyond this many lines.
const MAX_LINES: usize = 800;

pub fn check(root: &Path) -> Result<(), String> {
    let mut broken = Vec::new();
    for crate_name in PURE {
        broken.extend(impure_dependencies(root, crate_name)?);
        broken.extend(environment_in_core(root, crate_name));
    }
    broken.extend(identity_and_path_never_meet(root)?);
    let sources = sources(&root.join("crates"));
    for file in &sources {
        broken.extend(file_is_in_order(root, file)?);
    }
    if broken.is_empty() {
        Ok(())
    } else {
        Err(format!("\n  {}", broken.join("\n  ")))
    }
}

fn impure_dependencies(root: &Path, crate_name: &str) -> Result<Vec<String>, String> {
    let tree = dependencies(root, crate_name)?;
    Ok(IMPURE
        .iter()
        .filter(|i| tree.contains(**i))
        .map(|i| format!("{crate_name} depends on {i}"))
        .collect())
}

fn identity_and_path_never_meet(root: &Path) -> Result<Vec<String>, String> {
    let mut broken = Vec::new();
    for (one, other) in [
        ("quorate-path", "quorate-identity"),
        ("quorate-identity", "quorate-path"),
    ] {
        if dependencies(root, one)?.contains(other) {
            broken.push(format!("{one} depends on {other}"));
        }
    }
    Ok(broken)
}

fn dependencies(root: &Path, crate_name: &str) -> Result<BTreeSet<String>, String> {
    let output = super::cargo(root)
        .args([
            "tree",
            "--locked",
            "--package",
            crate_name,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("cargo tree of {crate_name}: {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|l| l.split(' ').next())
        .map(str::to_owned)
        .collect())
}

/// Clock, generator, files, environment and sockets by name, outside of tests.
fn environment_in_core(root: &Path, crate_name: &str) -> Vec<String> {
    const WORDS: &[&str] = &[
        "Instant::now",
        "SystemTime::now",
        "std::fs",
        "std::env::",
        "std::process",
        "std::net::Udp",
        "std::net::Tcp",
        "OsRng",
        "getrandom",
        "thread_rng",
        "rand::rng",
        "thread::spawn",
        ".unwrap()",
    ];
    let mut broken = Vec::new();
    for file in sources(&root.join("crates").join(crate_name).join("src")) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let logic = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in logic.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in WORDS.iter().filter(|w| code.contains(**w)) {
                broken.push(format!(
                    "{}:{}: {word} in a pure core",
                    file.display(),
                    number + 1
                ));
            }
        }
    }
    broken
}

fn file_is_in_order(root: &Path, file: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let shown = file.strip_prefix(root).unwrap_or(file).display();
    let mut broken = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        broken.push(format!("{shown}: {lines} lines, more than {MAX_LINES}"));
    }
    if !text.trim_start().starts_with("//!") {
        broken.push(format!("{shown}: no module documentation"));
    }
    let in_crates = file.strip_prefix(root.join("crates")).unwrap_or(file);
    let is_source = in_crates
        .components()
        .nth(1)
        .is_some_and(|c| c.as_os_str() == "src");
    for (home, word) in CONFINED {
        let inside = in_crates.starts_with(home) || in_crates.starts_with("xtask");
        if is_source
            && !inside
            && text
                .lines()
                .any(|l| l.split("//").next().unwrap_or_default().contains(word))
        {
            broken.push(format!("{shown}: {word} outside of {home}"));
        }
    }
    Ok(broken)
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}
