//! Everything quorate keeps on disk, and how it is removed again.
//!
//! ```text
//! data/   identity/default.json  0600   the long-term key, made at first use
//!         contacts.json          0600   the people I know, by the names I gave them
//!         inbox/                 0600   invitations that came, until they are joined or too late
//!         sessions/<name>.json   0600   what I once agreed to, for doing it again
//!         receipts/              0600   records of sessions: everything that was signed in them
//!         relay/key.json         0600   the key of a relay that runs here
//!         python/                       private virtual environment of `quorate demo`
//! state/  sessions/<digest>      0600   what must survive a crash: written before it is sent
//!         issued/<digest>        0600   invitations this user signed, to cancel them
//!         taken/, left/          0600   invitations of sessions that are on, or stopped here: for coming back
//!         ended/<digest>         0600   how the last sessions ended
//!         logs/                  0600   what detached sessions say
//! run/    <name>-<random>/       0700   one folder per running command, locked, removed at its end
//! ```
//!
//! Folders are 0700 and must belong to this user; files are replaced atomically and synced. A run
//! folder whose owner is gone (its lock is free) is removed by the next command that starts.

use quorate_identity::Digest;
use quorate_session::Stored;

mod atomic;
mod contacts;
mod home;
mod identity;
mod inbox;
mod issued;
mod leftovers;
mod program_files;
mod records;
mod run_folder;
mod session_memory;

/// Largest state of a session that is looked at, in bytes.
const MAX_STATE_BYTES: u64 = 1 << 20;

pub(crate) use atomic::disk;
pub use atomic::{put_aside, read_bounded, remove_if_there, write_atomic, write_new};
pub use contacts::{
    Contact, ContactError, Contacts, MAX_CONTACTS_FILE_BYTES, MAX_PETNAME_CHARS, check_petname,
    petname_of,
};
pub use home::Home;
pub use identity::{IdentityFile, MAX_NAME_CHARS};
pub use inbox::Inbox;
use issued::issued_that_ended;
pub use issued::{
    Issued, MAX_ISSUED, MAX_ISSUED_BYTES, forget_issued, issued, keep_cancel, keep_issued,
};
pub use leftovers::{
    HALF_WRITTEN_AFTER, KILL_WAIT, Kind, Leftover, MAX_ENVIRONMENT_BYTES, MAX_LEFTOVERS,
    MAX_PROCESSES, leftovers,
};
pub use program_files::ProgramFiles;
pub use records::{Listed, Records};
pub use run_folder::RunFolder;
pub use session_memory::{MemoryOfParty, SessionMemory};

/// Whether the session under an invitation is over for good in this home: finished, cancelled, or distrusted. What cannot be
/// read says nothing; the session itself looks again.
pub fn is_closed(home: &Home, digest: &Digest) -> bool {
    let path = home.state().join("sessions").join(format!("{digest}.json"));
    let bytes = read_bounded(&path, MAX_STATE_BYTES).ok().flatten();
    let stored = bytes.and_then(|bytes| Stored::parse(&bytes).ok());
    stored.is_some_and(|stored| stored.closed.is_some())
}
