//! What a waiting node holds, and how long the command line takes to start.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use quorate_bench::{
    Outcome,
    process::Process,
    sample::{millis, percentile},
    table::{Aim, Cell, Table},
    world::random,
};
use quorate_identity::SigningKey;
use quorate_node::program::PythonRuntime;

const AIM_MEGABYTES: f64 = 40.0;
const STARTS: usize = 50;
/// How long a node waits before it is looked at: everything that happens once has happened.
const SETTLING: Duration = Duration::from_secs(5);

pub struct Options {
    pub python: PythonRuntime,
}

pub fn run(options: &Options) -> Outcome<Vec<Table>> {
    let quorate = binary()?;
    Ok(vec![start_up(&quorate)?, waiting(&quorate, options)?])
}

/// The binary beside this one.
pub fn binary() -> Outcome<PathBuf> {
    let own = std::env::current_exe()?;
    let quorate = own.with_file_name("quorate");
    if quorate.is_file() {
        return Ok(quorate);
    }
    Err(format!(
        "{} is missing: cargo build --release -p quorate",
        quorate.display()
    )
    .into())
}

fn start_up(quorate: &Path) -> Outcome<Table> {
    let mut table = Table::new("Start-up", &["command", "median ms", "99 % ms"]);
    let mut add = |name: &str, program: &Path, args: &[&str]| -> Outcome<()> {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            let start = Instant::now();
            let output = Command::new(program)
                .args(args)
                .stdin(Stdio::null())
                .output()?;
            times.push(start.elapsed());
            if !output.status.success() {
                return Err(format!("{name}: {}", output.status).into());
            }
        }
        table.row([
            name.into(),
            Cell::Number(millis(percentile(&mut times, 50)), 2),
            Cell::Number(millis(percentile(&mut times, 99)), 2),
        ]);
        Ok(())
    };
    add("true (nothing)", Path::new("true"), &[])?;
    add("quorate version", quorate, &["version"])?;
    Ok(table)
}

/// A process that ends with its owner.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn waiting(quorate: &Path, options: &Options) -> Outcome<Table> {
    let mut table = Table::new(
        "A node that waits for two others in `join`",
        &[
            "RSS MB",
            "PSS MB",
            "anonymous MB",
            "threads",
            "descriptors",
            "CPU ms per minute",
        ],
    );
    let folder = tempfile::Builder::new()
        .prefix("quorate-bench-")
        .tempdir()?;
    let home = folder.path().join("home");
    let file = folder.path().join("invitation.quorate");
    let command = || {
        let mut command = Command::new(quorate);
        command.arg("--home").arg(&home).env_remove("QUORATE_HOME");
        command
    };
    let absent = |n: u8| -> Outcome<String> {
        let key = SigningKey::from_seed(&random()?);
        Ok(format!("absent-{n}={}", key.did()))
    };
    let invited = command()
        .args(["--quiet", "invite", "mpyc:secretsanta", "--with"])
        .arg([absent(1)?, absent(2)?].join(","))
        .arg("--out")
        .arg(&file)
        .output()?;
    if !invited.status.success() {
        return Err(String::from_utf8_lossy(&invited.stderr).into_owned().into());
    }
    let mut node = Kept(
        command()
            .args(["--json", "join", "--yes", "--local", "--python"])
            .arg(&options.python.path)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?,
    );
    let stderr = node.0.stderr.take().ok_or("stderr is a pipe")?;
    let mut lines = BufReader::new(stderr).lines();
    let listening = lines.any(|line| line.is_ok_and(|l| l.contains("\"listening\"")));
    if !listening {
        return Err("the node ended instead of waiting".into());
    }
    std::thread::sleep(SETTLING);
    let process = Process::of(node.0.id());
    let before = process.cpu()?;
    std::thread::sleep(4 * SETTLING);
    let cpu = process.cpu()?.saturating_sub(before).as_secs_f64();
    let usage = process.usage()?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let count = |n: u64| Cell::Number(n as f64, 0);
    table.row([
        Cell::Number(megabytes(usage.rss), 1),
        Cell::Number(megabytes(usage.pss), 1),
        Cell::Number(megabytes(usage.anonymous), 1),
        count(usage.threads),
        count(usage.descriptors),
        Cell::Number(cpu * 1e3 * 60.0 / (4.0 * SETTLING.as_secs_f64()), 0),
    ]);
    let rss = megabytes(usage.rss);
    table.aims.push(Aim::at_most(
        "memory of an idle node (RSS)",
        AIM_MEGABYTES,
        rss,
        "MB",
    ));
    Ok(table)
}
