//! Network namespaces without names.
//!
//! A thread unshares its network, opens `/proc/thread-self/ns/net` and ends: from then on only the
//! descriptor keeps the namespace alive. Work inside of it happens in a thread of its own that
//! enters and ends; sockets and TUN devices made there work from anywhere.
//!
//! One `ip -batch -` and one `nft -f -` per namespace configure it, whatever its size: a process
//! per line would take most of a lab's start.
//!
//! Source: `network_namespaces(7)`, `ip-netns(8)`; conntrack flush: `linux/netfilter/nfnetlink.h`.

use crate::{Context as _, Outcome, Trouble};
use rustix::{
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink},
    thread::{LinkNameSpaceType, UnshareFlags},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    net::{SocketAddr, UdpSocket},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::OpenOptionsExt as _,
    },
    process::{Child, Command, Output, Stdio},
    thread,
};

/// The longest name of an interface (`IFNAMSIZ`, with its zero).
const INTERFACE_NAME_BYTES: usize = 16;

/// One network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// A new one with nothing but a loopback interface that is down. The name is for messages.
    pub fn new(name: impl Into<String>) -> Outcome<Self> {
        let name = name.into();
        let made = thread::spawn(|| -> io::Result<File> {
            unshare_network()?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = joined(made.join())?.during(format_args!(
            "a network namespace for {name} (see `quorate-lab check`)"
        ))?;
        Ok(Self { name, file })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path at which other processes of this lab find it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.descriptor())
    }

    /// The number of the descriptor that holds it.
    pub fn descriptor(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Does `work` inside of it, in a thread of its own.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Outcome<T> {
        let entered = thread::scope(|scope| {
            let inside = scope.spawn(|| -> io::Result<T> {
                rustix::thread::move_into_link_name_space(
                    self.file.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )?;
                Ok(work())
            });
            joined(inside.join())
        })?;
        entered.during(format_args!("entering {}", self.name))
    }

    /// Starts a process inside of it.
    pub fn spawn(&self, command: &mut Command) -> Outcome<Child> {
        let shown = command.get_program().to_string_lossy().into_owned();
        self.within(|| command.spawn())?
            .during(format_args!("starting {shown} on {}", self.name))
    }

    /// Runs a tool inside of it to its end and gives its output. Failure is trouble.
    pub fn run(&self, words: &[&str], input: &str) -> Outcome<String> {
        let output = self.output(words, input)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Trouble::new(format!(
            "{} on {}: {}\n{}{}",
            words.join(" "),
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr),
            input
        )))
    }

    /// Runs a tool inside of it to its end, however that is.
    pub fn output(&self, words: &[&str], input: &str) -> Outcome<Output> {
        let (program, arguments) = words
            .split_first()
            .ok_or_else(|| Trouble::new("no command"))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.spawn(&mut command)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A tool that refuses early closes its input: its own words say more than this error.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output().during(program)
    }

    /// All interface commands at once.
    pub fn ip(&self, lines: &[String]) -> Outcome<()> {
        let batch = lines.join("\n") + "\n";
        self.run(&["ip", "-batch", "-"], &batch).map(drop)
    }

    /// All packet rules at once.
    pub fn nft(&self, rules: &str) -> Outcome<()> {
        self.run(&["nft", "-f", "-"], rules).map(drop)
    }

    /// Sets parameters below `/proc/sys/net/`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Outcome<()> {
        self.within(|| {
            settings.iter().try_for_each(|(key, value)| {
                std::fs::write(format!("/proc/sys/net/{key}"), value)
                    .during(format_args!("setting {key} on {}", self.name))
            })
        })?
    }

    /// A TUN device in it; the descriptor carries IP packets and works from anywhere.
    pub fn tun(&self, interface: &str) -> Outcome<File> {
        self.within(|| open_tun(interface))?.during(format_args!(
            "a TUN device on {} (see `quorate-lab check`)",
            self.name
        ))
    }

    /// A UDP socket in it that does not block.
    pub fn udp(&self, at: SocketAddr) -> Outcome<UdpSocket> {
        let socket = self
            .within(|| UdpSocket::bind(at))?
            .during(format_args!("a socket at {at} on {}", self.name))?;
        socket.set_nonblocking(true).during("a socket")?;
        Ok(socket)
    }

    /// Forgets every connection that its NAT and firewall keep: what a restarted router does.
    pub fn flush_conntrack(&self) -> Outcome<()> {
        self.within(flush_conntrack)?
            .during(format_args!("flushing conntrack on {}", self.name))
    }
}

/// What a thread gave; a panic of it becomes trouble.
fn joined<T>(result: thread::Result<T>) -> Outcome<T> {
    result.map_err(|_| Trouble::new("a thread of the lab panicked"))
}

#[allow(unsafe_code)]
fn unshare_network() -> rustix::io::Result<()> {
    // SAFETY: of the thread's state only its network namespace changes; no descriptor table or
    // memory is unshared, which is what the function warns of.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
}

/// `struct ifreq` as `TUNSETIFF` reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; INTERFACE_NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

#[allow(unsafe_code)]
fn open_tun(interface: &str) -> io::Result<File> {
    /// `_IOW('T', 202, int)`.
    const TUNSETIFF: rustix::ioctl::Opcode = 0x4004_54ca;
    const IFF_TUN: u16 = 0x0001;
    const IFF_NO_PI: u16 = 0x1000;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default())
        .open("/dev/net/tun")?;
    let mut request = InterfaceRequest {
        name: [0; INTERFACE_NAME_BYTES],
        flags: IFF_TUN | IFF_NO_PI,
        rest: [0; 22],
    };
    let name = interface.as_bytes();
    let room = request
        .name
        .get_mut(..name.len().min(INTERFACE_NAME_BYTES - 1));
    if let Some(room) = room {
        room.copy_from_slice(&name[..room.len()]);
    }
    // SAFETY: the kernel reads one `struct ifreq` of 40 bytes, which `InterfaceRequest` is.
    unsafe {
        let setter = rustix::ioctl::Setter::<TUNSETIFF, InterfaceRequest>::new(request);
        rustix::ioctl::ioctl(&file, setter)?;
    }
    Ok(file)
}

/// Sends `IPCTNL_MSG_CT_DELETE` without a tuple, which deletes every entry, and awaits the answer.
fn flush_conntrack() -> io::Result<()> {
    const NFNL_SUBSYS_CTNETLINK: u16 = 1;
    const IPCTNL_MSG_CT_DELETE: u16 = 2;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    /// Header of netlink, then of nfnetlink: family, version, resource.
    const LENGTH: u32 = 20;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(((NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_DELETE).to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes()); // sequence
    message.extend(0_u32.to_ne_bytes()); // to the kernel
    message.extend([0; 4]); // any family, version 0, resource 0
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0_u8; 256];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    let code = answer.get(16..20).filter(|_| length >= 20);
    let code = code.and_then(|c| <[u8; 4]>::try_from(c).ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::other("no answer of the kernel")),
    }
}
