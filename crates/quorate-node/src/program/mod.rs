//! Programs: find a Python for them, start them, watch them, stop them.
//!
//! ```text
//! python::find ──► PythonRuntime ──┐            ┌── stdout, unchanged ──► caller's writer
//! environment::prepare (demo) ─────┤            ├── stderr, unchanged ──► caller's writer
//! attach::Attach ──► ChildFds ─────┼─► Supervisor
//! builtin / a file ──► Program ────┘            └── ProgramEvent: Connected, Finished, Exit
//! ```
//!
//! The supervised program is a process of its own group with a small environment, no inherited
//! descriptor but its links, a limit on its memory and, where the machine allows it, no network
//! (`confine`). Files of the user are open to it. What it can reach of the *session* is exactly
//! those links.

pub mod arguments;
pub mod builtin;
mod command;
pub mod confine;
pub mod environment;
mod exec;
mod handover;
mod output;
pub mod python;
pub mod supervisor;

pub use arguments::{ArgumentRefusal, check_private_args, check_user_args};
pub use builtin::Builtin;
pub use confine::{Confinement, Network};
pub use exec::{PlaceholderRefusal, Told, check_placeholders};
pub use handover::{HANDOVER_WAIT, MAX_LINKS, MAX_PLAN_BYTES};
pub use python::{PythonError, PythonRuntime};
pub use supervisor::{ExecSpec, Program, ProgramEvent, ProgramSpec, StartError, Supervisor};
