//! What a program is given at its start: the launcher, the plan and its links.
//!
//! ```text
//! quorate                                    python -c FIRST_STAGE quorate NAME
//!    │  control socket (the program's fd 0)          │
//!    ├── header: two lengths, and the link sockets ──►  SCM_RIGHTS, close-on-exec
//!    ├── launcher.py ────────────────────────────────►
//!    ├── plan (JSON: me, parties, threshold, args) ──►  arms the lifeline, fd 0 becomes /dev/null
//!    │            …the program runs…                 │
//!    └── end closes (also by kill -9) ───────────────►  the kernel kills the program's group
//! ```
//!
//! Arguments travel here and not in the argument list, because every local user can read the
//! argument list of every process. Descriptors travel as ancillary data, so that no other process
//! that this one starts in the meantime can inherit them.
//!
//! Limits: [`MAX_PLAN_BYTES`], [`MAX_LINKS`], [`HANDOVER_WAIT`].

use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Serialize;

use crate::attach::ChildFds;

/// The launcher, as sent to the program's Python.
pub(super) const LAUNCHER: &str = include_str!("../attach/launcher.py");

/// What Python is started with. It receives the launcher and calls its `main`.
///
/// The first entry of the search path is the working folder under `-c`; it goes before anything
/// is imported, so that a file `socket.py` in that folder is not taken for Python's own.
pub(super) const FIRST_STAGE: &str = "\
import sys; sys.path.pop(0)
import json, socket
control = socket.socket(fileno=0)
header, links, _, _ = socket.recv_fds(control, 8, 253, socket.MSG_CMSG_CLOEXEC)
if len(header) != 8: sys.exit('quorate: no plan came')
with control.makefile('rb') as stream:
    launcher, plan = (stream.read(int.from_bytes(n, 'big')) for n in (header[:4], header[4:]))
space = {'__name__': 'quorate_launcher'}
exec(compile(launcher, '<quorate launcher>', 'exec'), space)
space['main'](control, json.loads(plan), links)
";

/// The largest plan: program text and arguments.
pub const MAX_PLAN_BYTES: usize = 4 << 20;
/// The most links of one program; the kernel takes at most 253 descriptors in one message.
pub const MAX_LINKS: usize = 250;
/// How long Python may take to read what it is given.
pub const HANDOVER_WAIT: Duration = Duration::from_secs(30);

/// What the launcher has to know.
#[derive(Serialize)]
pub(super) struct Plan<'a> {
    pub me: u16,
    pub parties: u16,
    pub threshold: u16,
    /// A path, or the name of a program whose text is in `source`.
    pub name: &'a str,
    pub source: Option<&'a str>,
    pub options: &'a [String],
    pub args: &'a [String],
    /// The parties of the handed over links, in the order of the descriptors.
    pub links: Vec<u16>,
}

/// Everything to send, encoded and within its limits.
pub(super) struct Handover {
    header: [u8; 8],
    body: Vec<u8>,
    links: Vec<OwnedFd>,
}

impl Handover {
    /// Encode `plan`; its `links` are set from `links`.
    pub fn new(mut plan: Plan<'_>, links: ChildFds) -> io::Result<Self> {
        let (parties, links): (Vec<u16>, Vec<OwnedFd>) = links.into_iter().unzip();
        plan.links = parties;
        let plan = serde_json::to_vec(&plan)?;
        if plan.len() > MAX_PLAN_BYTES || links.len() > MAX_LINKS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "program text and arguments are too large, or there are too many parties",
            ));
        }
        let mut header = [0; 8];
        header[..4].copy_from_slice(&length(LAUNCHER.as_bytes()));
        header[4..].copy_from_slice(&length(&plan));
        let mut body = LAUNCHER.as_bytes().to_vec();
        body.extend_from_slice(&plan);
        Ok(Self {
            header,
            body,
            links,
        })
    }

    /// Send it; blocks at most [`HANDOVER_WAIT`] on a program that does not read.
    pub fn send(self, mut control: &UnixStream) -> io::Result<()> {
        control.set_write_timeout(Some(HANDOVER_WAIT))?;
        let descriptors: Vec<_> = self.links.iter().map(OwnedFd::as_fd).collect();
        let rights = SendAncillaryMessage::ScmRights(&descriptors);
        let mut space = vec![MaybeUninit::uninit(); rights.size()];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(rights) {
            return Err(io::Error::other("no room for the descriptors"));
        }
        let header = [IoSlice::new(&self.header)];
        let sent = rustix::net::sendmsg(control, &header, &mut ancillary, SendFlags::NOSIGNAL)?;
        if sent != self.header.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        control.write_all(&self.body)
    }
}

/// A length as four bytes, most significant first; both texts are far below 4 GiB.
fn length(text: &[u8]) -> [u8; 4] {
    u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes()
}
