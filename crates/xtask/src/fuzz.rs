//! `cargo xtask fuzz`: libFuzzer on the targets of `tests/fuzz/`, beginning with the corpus and the inputs of the vectors.
//!
//! Needs nightly Rust, a C++ compiler and cargo-fuzz (`cargo install cargo-fuzz`); nothing of that is needed to replay
//! the corpus, which every test run does. What is found is kept below the build cache, not in the working copy.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Longest input in bytes, except where the reader's own limit is above it.
const MAX_LENGTH: u32 = 8192;

pub fn run(root: &Path) -> Result<(), String> {
    let name = env::args().nth(2);
    let seconds = env::args().nth(3).unwrap_or_else(|| "60".into());
    let targets = name.map_or_else(|| targets(root), |name| Ok(vec![name]))?;
    let cache = cache();
    let seeds = cache.join("seeds");
    super::run(super::cargo(root).env("QUORATE_WRITE_SEEDS", &seeds).args([
        "test",
        "--locked",
        "--package",
        "quorate-fuzz",
        "--test",
        "replay",
        "every_vector",
    ]))?;
    let mut found = Vec::new();
    for target in targets {
        if let Err(why) = search(root, &cache, &target, &seconds) {
            found.push(format!("{target}: {why}"));
        }
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(found.join("\n"))
    }
}

fn search(root: &Path, cache: &Path, target: &str, seconds: &str) -> Result<(), String> {
    let [found, seeds] = ["corpus", "seeds"].map(|folder| cache.join(folder).join(target));
    for folder in [&found, &seeds] {
        fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    }
    let mut command = Command::new("cargo");
    // All code of ours is safe Rust, so a sanitizer would only make it slow; overflows and assertions stay on.
    command
        .current_dir(root)
        .env("CARGO_TARGET_DIR", cache.join("target"))
        .args([
            "+nightly",
            "fuzz",
            "run",
            "--fuzz-dir",
            "tests/fuzz",
            "--sanitizer",
            "none",
            "--debug-assertions",
        ]);
    if !["guard_hello", "control"].contains(&target) {
        command.arg("--no-default-features");
    }
    let corpus = root.join("tests/fuzz/corpus").join(target);
    command
        .arg(target)
        .args([&found, &corpus, &seeds])
        .arg("--");
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={MAX_LENGTH}"));
    command.args(["-timeout=20", "-rss_limit_mb=2048"]);
    super::run(&mut command)
}

/// The names of all targets: those of the folders of the corpus.
fn targets(root: &Path) -> Result<Vec<String>, String> {
    let folders = fs::read_dir(root.join("tests/fuzz/corpus")).map_err(|e| e.to_string())?;
    let mut names: Vec<String> = folders
        .flatten()
        .map(|folder| folder.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

fn cache() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    target.join("fuzz")
}
