//! What a process uses, as the kernel counts it in `/proc`.

use std::{fs, io, time::Duration};

/// Clock ticks per second in `/proc`: the same on every architecture that this runs on, whatever
/// the kernel's own tick is (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// A process by number, or this one.
#[derive(Clone, Copy, Debug)]
pub struct Process(Option<u32>);

/// A process's memory, descriptors and threads at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident memory in bytes.
    pub rss: u64,
    /// Its share of it: what several processes have in common is divided among them.
    pub pss: u64,
    /// What is not backed by a file: heap, stacks.
    pub anonymous: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

impl Process {
    /// This process.
    pub fn own() -> Self {
        Self(None)
    }

    /// Another one.
    pub fn of(pid: u32) -> Self {
        Self(Some(pid))
    }

    fn path(self, name: &str) -> String {
        match self.0 {
            Some(pid) => format!("/proc/{pid}/{name}"),
            None => format!("/proc/self/{name}"),
        }
    }

    /// Processor time of all its threads so far, in user and kernel mode, without its children.
    pub fn cpu(self) -> io::Result<Duration> {
        let stat = fs::read_to_string(self.path("stat"))?;
        // The name, in parentheses, may hold anything; fields are counted after it (proc(5)).
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let field = |n: usize| -> u64 {
            let text = after.split_ascii_whitespace().nth(n);
            text.and_then(|t| t.parse().ok()).unwrap_or(0)
        };
        let ticks = field(11) + field(12);
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }

    /// Its resident memory in bytes, without walking its mappings.
    pub fn resident(self) -> io::Result<u64> {
        let status = fs::read_to_string(self.path("status"))?;
        Ok(kibibytes(&status, "VmRSS:"))
    }

    /// Its memory, descriptors and threads.
    pub fn usage(self) -> io::Result<Usage> {
        let rollup = fs::read_to_string(self.path("smaps_rollup"))?;
        let status = fs::read_to_string(self.path("status"))?;
        Ok(Usage {
            rss: kibibytes(&rollup, "Rss:"),
            pss: kibibytes(&rollup, "Pss:"),
            anonymous: kibibytes(&rollup, "Anonymous:"),
            // Reading the list opens one more.
            descriptors: fs::read_dir(self.path("fd"))?.count() as u64
                - u64::from(self.0.is_none()),
            threads: number(&status, "Threads:"),
        })
    }
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|rest| rest.split_ascii_whitespace().next());
    word.and_then(|w| w.parse().ok()).unwrap_or(0)
}

fn kibibytes(text: &str, name: &str) -> u64 {
    number(text, name) * 1024
}

/// The machine in one line: processors, kernel, and how busy it is with other things.
pub fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("unknown processor", |l| {
            l.trim_start_matches([' ', '\t', ':'])
        });
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let memory = kibibytes(&read("/proc/meminfo"), "MemTotal:") >> 30;
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!(
        "{processors} × {model}, {memory} GiB, Linux {}, load {} when it began",
        kernel.trim(),
        load.join(" ")
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_process_is_seen_as_it_is() {
        let usage = Process::own().usage().unwrap();
        assert!(usage.rss > 0 && usage.pss <= usage.rss && usage.threads >= 1);
        let _held: Vec<_> = (0..7).map(|_| fs::File::open("/proc/self/stat")).collect();
        let more = Process::own().usage().unwrap();
        // Other tests of this process open and close files meanwhile.
        assert!(more.descriptors > usage.descriptors.saturating_sub(4));
        assert_eq!(
            Process::of(std::process::id()).usage().unwrap().threads > 0,
            more.threads > 0
        );
    }
}
