//! Attach mode `loopback`: for engines that connect by TCP and cannot take inherited sockets.
//!
//! ```text
//!   program of party i                 quorate of party i                      quorate of party j
//!   dials 127.0.0.1:P_j ─────► listener P_j: a socket of the program? ─ tunnel ─► dials 127.0.0.1:LISTEN
//! ```
//!
//! There is a listener per other party, on ports that the system chooses, and one more port, which
//! the program itself shall listen on. Either program of a pair may dial; the pair has one
//! connection.
//!
//! Limits: one accepted connection per listener; what does not belong to the program is closed,
//! with [`REFUSAL_PAUSE`] between two looks, so that others cannot keep quorate busy.
//!
//! Security: *requires* a kernel that says who holds a socket (`/proc/net/tcp`, `/proc/PID/fd`).
//! *Provides*: a listener takes connections only of this user's processes in the program's own
//! process group; other local users and other programs are closed out. *Does not provide*: that
//! nobody else dials the port that the program listens on, nor that nobody took that port in the
//! moment before the program did. Whoever needs that uses an engine with inherited sockets.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// The pause after a connection that was not the program's.
pub const REFUSAL_PAUSE: Duration = Duration::from_millis(20);

/// The ports of one run.
#[derive(Debug)]
pub struct Loopback {
    listeners: Vec<(u16, TcpListener)>,
    places: Places,
}

/// Where the program finds the others, and where it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Our own index.
    pub me: u16,
    /// By party; at our own place the address to listen on.
    pub hosts: Vec<SocketAddrV4>,
}

impl Places {
    /// The address that the program shall listen on.
    pub fn listen(&self) -> SocketAddrV4 {
        self.hosts[usize::from(self.me)]
    }
}

impl Loopback {
    /// Opens the listeners of party `me` among `m`. Needs a tokio runtime.
    pub fn open(me: u16, m: u16) -> io::Result<Self> {
        let (mut listeners, mut hosts) = (Vec::new(), Vec::new());
        // Held until all others are open, so that none of them gets its port.
        let reserved = bind()?;
        for peer in 0..m {
            if peer == me {
                hosts.push(address(&reserved.local_addr()?));
                continue;
            }
            let listener = bind()?;
            hosts.push(address(&listener.local_addr()?));
            listener.set_nonblocking(true)?;
            listeners.push((peer, TcpListener::from_std(listener)?));
        }
        let places = Places { me, hosts };
        Ok(Self { listeners, places })
    }

    /// Where everybody is.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The listeners by party, each to be given to [`of_program`].
    pub fn into_listeners(self) -> Vec<(u16, TcpListener)> {
        self.listeners
    }
}

fn bind() -> io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

fn address(address: &SocketAddr) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, address.port())
}

/// The first connection that a process of the group opens; all others are closed.
pub async fn of_program(listener: &TcpListener, group: u32) -> io::Result<TcpStream> {
    loop {
        let (stream, from) = listener.accept().await?;
        let ours = stream.local_addr()?;
        let look = tokio::task::spawn_blocking(move || is_of_group(from, ours, group));
        if look.await.unwrap_or(false) {
            stream.set_nodelay(true)?;
            return Ok(stream);
        }
        tracing::warn!(%from, "a connection on a loopback port was not the program's");
        drop(stream);
        tokio::time::sleep(REFUSAL_PAUSE).await;
    }
}

/// Whether the socket with this local and remote address is held by a process of this user in the
/// process group.
fn is_of_group(local: SocketAddr, remote: SocketAddr, group: u32) -> bool {
    let Ok(table) = fs::read_to_string("/proc/net/tcp") else {
        return false;
    };
    let own = rustix::process::geteuid().as_raw();
    let Some(inode) = inode_of(&table, local, remote, own) else {
        return false;
    };
    let wanted = format!("socket:[{inode}]");
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    processes
        .flatten()
        .filter(|process| process.metadata().is_ok_and(|m| m.uid() == own))
        .filter(|process| group_of(&process.path()) == Some(group))
        .any(|process| {
            let descriptors = fs::read_dir(process.path().join("fd"));
            descriptors
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|fd| fs::read_link(fd.path()).ok())
                .any(|target| target.as_os_str() == wanted.as_str())
        })
}

/// The process group in `/proc/PID/stat`: the third field after the name in parentheses.
fn group_of(process: &std::path::Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(2)?.parse().ok()
}

/// The inode of a connected socket in the table, if this user owns it.
fn inode_of(table: &str, local: SocketAddr, remote: SocketAddr, user: u32) -> Option<u64> {
    let (local, remote) = (in_table(local)?, in_table(remote)?);
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, from, to, _, _, _, _, uid, _, inode, ..] = fields.as_slice() else {
            return None;
        };
        let same = *from == local && *to == remote && uid.parse() == Ok(user);
        same.then(|| inode.parse().ok()).flatten()
    })
}

/// An address as the kernel prints it: the four bytes as one number of this machine, then the port.
fn in_table(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    let number = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{number:08X}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_socket_is_found_by_both_addresses_and_its_owner() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4242 1\n";
        let (a, b) = (
            "127.0.0.1:8080".parse().unwrap(),
            "127.0.0.1:50000".parse().unwrap(),
        );
        if cfg!(target_endian = "little") {
            assert_eq!(inode_of(table, a, b, 1000), Some(4242));
        }
        assert_eq!(inode_of(table, b, a, 1000), None);
        assert_eq!(inode_of(table, a, b, 1001), None);
        assert_eq!(inode_of("", a, b, 1000), None);
    }

    #[tokio::test]
    async fn connections_of_another_process_group_are_closed() {
        let loopback = Loopback::open(0, 2).unwrap();
        let to = loopback.places().hosts[1];
        let listeners = loopback.into_listeners();
        let own = rustix::process::getpgrp()
            .as_raw_nonzero()
            .get()
            .cast_unsigned();
        // Our own connection, judged for a group that is not ours: it is closed.
        let stranger = of_program(&listeners[0].1, u32::MAX);
        let refused = async {
            let mut stream = TcpStream::connect(to).await.unwrap();
            let mut nothing = [0];
            tokio::io::AsyncReadExt::read(&mut stream, &mut nothing)
                .await
                .unwrap_or(0)
        };
        tokio::select! {
            _ = stranger => panic!("a stranger came in"),
            count = refused => assert_eq!(count, 0),
        }
        let _mine = TcpStream::connect(to).await.unwrap();
        assert!(of_program(&listeners[0].1, own).await.is_ok());
    }
}
