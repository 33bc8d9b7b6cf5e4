//! What a relay costs: memory per circuit, throughput of one circuit and of all, processor time.
//!
//! ```text
//!   this process: parties with a reservation each ══ loopback ══ quorate relay run
//!                 └ a circuit for each pair of them, then bytes through one or through all
//! ```
//! The relay is the real program, a process with one processor of its own (`taskset`), fresh for each
//! number of circuits. This process has the others, and does more than the relay: it encrypts and
//! decrypts at both ends of each circuit and of each connection. So what the relay could carry is
//! worked out of the processor time that it took.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use quorate_bench::{
    Outcome,
    process::Process,
    table::{Cell, Table},
};
use quorate_node::overlay::relay_crowd::{MAX_BYTES, RelayCrowd, parties_for};
use serde_json::Value;

/// How long a relay is left alone before its memory is read.
const SETTLING: Duration = Duration::from_secs(2);
/// How often the memory of a busy relay is read.
const LOOK: Duration = Duration::from_millis(20);

pub struct Options {
    /// Numbers of circuits.
    pub sizes: Vec<usize>,
    /// What is sent in one measurement, in all.
    pub megabytes: u64,
    /// Does not let the relay settle: to see that it works.
    pub quick: bool,
}

pub async fn run(options: Options) -> Outcome<Vec<Table>> {
    let mut memory = Table::new(
        "Memory of `quorate relay run` (RSS; parties in pairs, one circuit each)",
        &[
            "transport",
            "circuits",
            "parties",
            "fresh MB",
            "reserved MB",
            "idle MB",
            "busy MB, most",
            "kB per party",
            "kB per idle circuit",
            "kB per busy circuit",
        ],
    );
    let mut speed = Table::new(
        "Throughput of `quorate relay run` on one processor",
        &[
            "transport",
            "circuits",
            "Mbit/s",
            "relay's processor %",
            "CPU-s per GB",
            "a busy processor, Mbit/s",
        ],
    );
    let quorate = super::idle::binary()?;
    let apart = Apart::new()?;
    for transport in ["quic-v1", "tcp"] {
        for size in &options.sizes {
            let all = measure(&quorate, transport, *size, &options).await?;
            memory.row(all.memory);
            all.speed.into_iter().for_each(|row| speed.row(row));
        }
    }
    drop(apart);
    Ok(vec![memory, speed])
}

/// One row of the first table and two of the second.
struct Measured {
    memory: Vec<Cell>,
    speed: [Vec<Cell>; 2],
}

async fn measure(
    quorate: &Path,
    transport: &str,
    circuits: usize,
    options: &Options,
) -> Outcome<Measured> {
    let relay = Relay::start(quorate, transport)?;
    let process = relay.process();
    let megabytes = options.megabytes;
    let settling = if options.quick { LOOK } else { SETTLING };
    let rest = || tokio::time::sleep(settling);
    rest().await;
    let fresh = process.resident()?;
    let parties = parties_for(circuits);
    let mut crowd = RelayCrowd::reserve(&relay.address, parties).await?;
    rest().await;
    let reserved = process.resident()?;
    crowd.connect(circuits).await?;
    rest().await;
    let idle = process.resident()?;
    let one = carry(&crowd, 1, megabytes, process).await?;
    let all = carry(&crowd, circuits, megabytes, process).await?;
    crowd.stop().await;
    drop(relay);
    let name = transport.split('-').next().unwrap_or(transport);
    let mb = |bytes: u64| Cell::Number(number(bytes) / 1e6, 1);
    let each = |more: u64, less: u64, count: usize| {
        Cell::Number(
            number(more.saturating_sub(less)) / 1e3 / number(count as u64),
            1,
        )
    };
    let count = |n: usize| Cell::Number(number(n as u64), 0);
    let memory = vec![
        name.into(),
        count(circuits),
        count(parties),
        mb(fresh),
        mb(reserved),
        mb(idle),
        mb(all.most),
        each(reserved, fresh, parties),
        each(idle, reserved, circuits),
        each(all.most, reserved, circuits),
    ];
    let speed = [(1, one), (circuits, all)].map(|(used, carried)| {
        let megabits = number(carried.bytes) * 8e-6 / carried.seconds;
        let per_gigabyte = carried.cpu / (number(carried.bytes) / 1e9);
        vec![
            name.into(),
            count(used),
            Cell::Number(megabits, 0),
            Cell::Number(100.0 * carried.cpu / carried.seconds, 0),
            Cell::Number(per_gigabyte, 2),
            Cell::Number(8000.0 / per_gigabyte, 0),
        ]
    });
    Ok(Measured { memory, speed })
}

struct Carried {
    bytes: u64,
    seconds: f64,
    /// Processor seconds of the relay.
    cpu: f64,
    /// The most resident memory of the relay.
    most: u64,
}

async fn carry(
    crowd: &RelayCrowd,
    circuits: usize,
    megabytes: u64,
    process: Process,
) -> Outcome<Carried> {
    let share = megabytes * 1_000_000 / circuits.max(1) as u64;
    let watch = Watch::start(process);
    let cpu = process.cpu()?;
    let mut seconds = 0.0;
    let mut left = share;
    while left > 0 {
        let part = left.min(MAX_BYTES);
        seconds += crowd.carry(circuits, part).await?.as_secs_f64();
        left -= part;
    }
    let cpu = process.cpu()?.saturating_sub(cpu).as_secs_f64();
    Ok(Carried {
        bytes: share * circuits as u64,
        seconds,
        cpu,
        most: watch.most(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn number(value: u64) -> f64 {
    value as f64
}

/// Reads a process's memory again and again.
struct Watch {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn start(process: Process) -> Self {
        let (most, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (kept, stopped) = (Arc::clone(&most), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                kept.fetch_max(process.resident().unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        Self { most, stop, thread }
    }

    fn most(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.most.load(Ordering::Relaxed)
    }
}

/// A running relay with a home of its own. Both end with this value.
struct Relay {
    child: Child,
    /// Open as long as it runs: what it says must go somewhere.
    said: BufReader<ChildStdout>,
    address: String,
    _home: tempfile::TempDir,
}

impl Relay {
    fn start(quorate: &Path, transport: &str) -> Outcome<Self> {
        let home = tempfile::Builder::new()
            .prefix("quorate-bench-")
            .tempdir()?;
        let mut child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(quorate)
            .arg("--home")
            .arg(home.path())
            .env_remove("QUORATE_HOME")
            .args(["--json", "relay", "run", "--port", "0", "--no-stun"])
            .args(["--no-metrics", "--external", "127.0.0.1"])
            // Nothing that would refuse so many parties of one address, or slow down circuits.
            .args(["--circuits", "100000", "--circuits-per-party", "1024"])
            .args([
                "--reservations",
                "4096",
                "--connections-per-address",
                "4096",
            ])
            .args(["--circuit-rate", "0", "--rate", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("taskset: {e} (sudo apt install util-linux)"))?;
        let stdout = child.stdout.take().ok_or("stdout is a pipe")?;
        let mut relay = Self {
            child,
            said: BufReader::new(stdout),
            address: String::new(),
            _home: home,
        };
        let mut line = String::new();
        while relay.said.read_line(&mut line)? > 0 {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            let addresses = event["addresses"].as_array();
            let mut texts = addresses.into_iter().flatten().filter_map(Value::as_str);
            let part = format!("/{transport}/");
            if let Some(address) = texts.find(|a| a.contains(&part) && a.contains("/p2p/")) {
                address.clone_into(&mut relay.address);
                return Ok(relay);
            }
            line.clear();
        }
        let stderr = relay.child.stderr.take().ok_or("stderr is a pipe")?;
        let why = std::io::read_to_string(stderr)?;
        Err(format!("the relay does not listen: {why}").into())
    }

    fn process(&self) -> Process {
        Process::of(self.child.id())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps this process off the relay's processor, where there are more.
struct Apart {
    processors: usize,
}

impl Apart {
    fn new() -> Outcome<Self> {
        let processors = std::thread::available_parallelism()?.get();
        if processors > 1 {
            stay_on(&format!("1-{}", processors - 1))?;
        }
        Ok(Self { processors })
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = stay_on(&format!("0-{}", self.processors - 1));
    }
}

/// All threads of this process.
fn stay_on(processors: &str) -> Outcome<()> {
    let own = std::process::id().to_string();
    let output = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", processors, &own])
        .output()
        .map_err(|e| format!("taskset: {e} (sudo apt install util-linux)"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "taskset {processors}: {}",
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}
