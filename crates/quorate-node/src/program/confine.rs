//! What a program may use of this machine: which network, and how much memory.
//!
//! ```text
//! fork ─► confine: memory limit ─► unshare(NEWNET), or unshare(NEWUSER | NEWNET) + identity maps ─► exec
//! ```
//!
//! A program whose links are inherited sockets needs no network of its own, so it gets one with
//! nothing in it: a network namespace where not even loopback is up. With the capability to make
//! one (root), only the network is new. Without it, a user namespace comes along, in which user and
//! group have the same numbers as outside; files and Python environments look as always. Machines
//! that forbid user namespaces to ordinary users cannot isolate; [`probe`] finds out beforehand,
//! so that a person is told before agreeing.
//!
//! Namespaces belong to the processes in them: the kernel removes them with the last one.
//!
//! The memory limit is `RLIMIT_DATA`: private memory that can be written. It counts per process.
//!
//! Limits: [`MIN_MEMORY`], [`default_memory`].
//!
//! Security: *provides*, isolated: no route to any address, own ports only, no abstract Unix socket
//! of the machine, and in a user namespace no inspection of the user's other processes.
//! *Does not provide*: protection of files or of Unix sockets with a name in the file system, and
//! nothing against a program that runs as root and means harm (it may enter other namespaces). A
//! process of the same user can inspect the forked copy of quorate in the moment before it
//! becomes the program, since the maps can be written only by an inspectable process.
//!
//! Source: `user_namespaces(7)`, `network_namespaces(7)`, `setrlimit(2)`.

use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::UnshareFlags;

/// The least memory that a limit can leave, in bytes: Python and MPyC do not start with less.
pub const MIN_MEMORY: u64 = 64 << 20;
/// The default limit is this many quarters of the machine's memory.
const DEFAULT_QUARTERS: u64 = 3;
/// What the probe's child reports instead of becoming a program.
const PROBED: Errno = Errno::CANCELED;

/// Which network a program has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// That of this machine.
    #[default]
    Machine,
    /// None: its links are all it reaches.
    None,
}

/// What a program may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Its network.
    pub network: Network,
    /// Bytes of private memory per process, if limited.
    pub memory: Option<u64>,
}

/// Three quarters of this machine's memory.
pub fn default_memory() -> u64 {
    (total_memory() / 4)
        .saturating_mul(DEFAULT_QUARTERS)
        .max(MIN_MEMORY)
}

fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion)] // not 64 bits wide on every machine
    let units = u64::from(info.totalram);
    units.saturating_mul(info.mem_unit.into())
}

/// Whether this machine lets this user isolate a program; the error says why not.
pub fn probe() -> io::Result<()> {
    // The child ends before it becomes anything, so the name is never looked up.
    let mut command = Command::new("/nonexistent");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let wanted = Confinement {
        network: Network::None,
        memory: None,
    };
    apply(&mut command, wanted, Then::Stop);
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(PROBED.raw_os_error()) => Ok(()),
        Err(error) => Err(error),
        Ok(mut child) => {
            // Cannot be: the child stops before.
            child.kill().ok();
            child.wait().map(|_| ())
        }
    }
}

/// Lets `command` start its program confined; if that is impossible, `spawn` fails.
pub(super) fn confine(command: &mut Command, confinement: Confinement) {
    if confinement != Confinement::default() {
        apply(command, confinement, Then::Start);
    }
}

/// The same for a program that has no launcher to tie its life to ours: the kernel kills it when
/// the thread that started it ends, as it does with this process.
pub(super) fn confine_with_life(command: &mut Command, confinement: Confinement) {
    apply(command, confinement, Then::StartTied);
}

/// What the child does when it is confined.
#[derive(Clone, Copy)]
enum Then {
    Start,
    StartTied,
    Stop,
}

#[allow(unsafe_code)] // the one place; there is no safe way to act between fork and exec
fn apply(command: &mut Command, confinement: Confinement, then: Then) {
    let maps = Maps::identity();
    let parent = rustix::process::getpid();
    let inside = move || -> io::Result<()> {
        if let Some(bytes) = confinement.memory {
            limit_memory(bytes)?;
        }
        if confinement.network == Network::None {
            leave_network(&maps)?;
        }
        match then {
            Then::Start => Ok(()),
            Then::StartTied => {
                let no_core = Rlimit {
                    current: Some(0),
                    maximum: Some(0),
                };
                rustix::process::setrlimit(Resource::Core, no_core)?;
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // Whoever died before that call gives no signal any more.
                if rustix::process::getppid() != Some(parent) {
                    return Err(Errno::CHILD.into());
                }
                Ok(())
            }
            Then::Stop => Err(PROBED.into()),
        }
    };
    // SAFETY: the closure runs in the forked child of a process with many threads, where only
    // async-signal-safe calls are allowed. It makes system calls and nothing else: it neither
    // allocates (the texts were made before the fork), locks, nor touches what other threads own.
    // Errors are made of numbers, which needs no memory either.
    unsafe { command.pre_exec(inside) };
}

fn limit_memory(bytes: u64) -> rustix::io::Result<()> {
    let limit = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    rustix::process::setrlimit(Resource::Data, limit)
}

/// Moves this process, which is about to become the program, into a network with nothing in it.
fn leave_network(maps: &Maps) -> rustix::io::Result<()> {
    match unshare(UnshareFlags::NEWNET) {
        Err(Errno::PERM) => {}
        result => return result,
    }
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)?;
    // What is not inspectable has files in /proc that only root can write. The flag is set anew
    // when the program starts.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    maps.write()?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

#[allow(unsafe_code)]
fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: of all flags only FILES can break what other code relies on (descriptors seen by
    // other threads). It is not among the two that are used here.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// The texts for `/proc/self/…_map`: one user and one group, the same inside and outside.
struct Maps {
    uid: String,
    gid: String,
}

impl Maps {
    fn identity() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        Self {
            uid: format!("{uid} {uid} 1"),
            gid: format!("{gid} {gid} 1"),
        }
    }

    fn write(&self) -> rustix::io::Result<()> {
        put(c"/proc/self/uid_map", self.uid.as_bytes())?;
        // Without it an ordinary user may not map groups.
        put(c"/proc/self/setgroups", b"deny")?;
        put(c"/proc/self/gid_map", self.gid.as_bytes())
    }
}

fn put(path: &CStr, text: &[u8]) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::io::write(&file, text)? {
        written if written == text.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a53_the_default_limit_leaves_a_part_of_the_machine_to_others() {
        assert!(default_memory() >= MIN_MEMORY);
        assert!(default_memory() < total_memory());
    }

    #[test]
    fn a_probe_leaves_nothing_and_says_the_same_twice() {
        let (first, second) = (probe().is_ok(), probe().is_ok());
        assert_eq!(first, second);
    }

    #[test]
    fn a_program_with_one_byte_of_memory_does_not_run() {
        let mut command = Command::new("/bin/true");
        let memory = Some(1);
        let network = Network::Machine;
        confine(&mut command, Confinement { network, memory });
        let ended = command.stderr(Stdio::null()).status();
        assert!(ended.is_err() || !ended.unwrap().success());
    }
}
