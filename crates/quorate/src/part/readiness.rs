//! Whether this user and this machine can do what an invitation asks: before anything is sent.

use std::path::Path;

use quorate_identity::{CLOCK_SKEW_SECONDS, Code, SigningKey, UnixTime, Verified};
use quorate_node::{
    files::ProgramFiles,
    program::{Builtin, PythonRuntime, builtin, check_private_args, python},
};
use quorate_session::{
    Fingerprint, Invitation,
    message::{PathPolicy, Program},
};

use super::Options;
use crate::{failure::Failure, invitation::now, text};

/// What this machine brings: the program that was agreed, and the Python that runs it.
pub struct Prepared {
    pub program: ProgramFiles,
    pub python: PythonRuntime,
    /// Version of MPyC in that Python.
    pub mpyc: String,
}

impl Prepared {
    /// Finds program and Python for what is `wanted`.
    pub async fn find(wanted: &Program, options: &Options) -> Result<Self, Failure> {
        check_private_args(&options.private_args)
            .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.hint()))?;
        let program = match &options.program {
            Some(program) => matching(program.clone(), wanted)?,
            None => my_program(wanted, options.program_path.as_deref())?,
        };
        let search = python::Search::from_env(options.python.clone());
        let python = python::find(&search)
            .await
            .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.fix()))?;
        let mpyc = python
            .require_mpyc()
            .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.fix()))?
            .to_owned();
        Ok(Self {
            program,
            python,
            mpyc,
        })
    }

    /// What is told to the others about it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            quorate: env!("CARGO_PKG_VERSION").into(),
            mpyc: self.mpyc.clone(),
            python: self.python.version.to_string(),
            word: self.python.word,
            program: self.program.digest(),
            env: None,
        }
    }

    /// The line that says so.
    pub fn line(&self, private_args: usize) -> String {
        let private = match private_args {
            0 => String::new(),
            n => format!("; {n} private arguments stay on this machine"),
        };
        format!(
            "the same program ✓  Python {} with MPyC {} ✓{private}",
            self.python.version, self.mpyc
        )
    }
}

/// The position of this user among the parties.
pub fn my_index(invitation: &Verified<Invitation>, key: &SigningKey) -> Result<usize, Failure> {
    let did = key.did();
    let parties = &invitation.subject.parties;
    parties.iter().position(|p| p.did == did).ok_or_else(|| {
        let invited: Vec<_> = parties.iter().map(|p| text::name(&p.name)).collect();
        Failure::new(
            Code::NotInvited,
            format!(
                "you are not one of the parties of {:?}",
                text::foreign(&invitation.subject.title)
            ),
        )
        .note("invited", invited.join(", "))
        .note("you are", did.to_string())
        .hint("give the organizer your DID, or use the identity that was invited with --home")
    })
}

/// Whether there is still time to join.
pub fn check_deadline(join_by: UnixTime) -> Result<(), Failure> {
    let late = now().0 - join_by.0;
    if late <= CLOCK_SKEW_SECONDS {
        return Ok(());
    }
    Err(Failure::new(
        Code::Time,
        format!("the time to join ended {} ago", text::duration(late)),
    )
    .note("until", join_by.rfc3339())
    .note("your clock", now().rfc3339()))
}

/// What the organizer demands and this version cannot do is refused, not ignored.
pub fn check_policy(path: PathPolicy) -> Result<(), Failure> {
    if path != PathPolicy::Relay {
        return Ok(());
    }
    Err(Failure::new(
        Code::Version,
        "this invitation allows relayed paths only, which this version of quorate has not",
    )
    .hint("install a newer quorate, or ask the organizer to allow direct paths"))
}

/// The user's copy of the program, which must be the one that was agreed, byte for byte.
fn my_program(wanted: &Program, path: Option<&Path>) -> Result<ProgramFiles, Failure> {
    let program = match path {
        Some(path) => ProgramFiles::read(path, Some(&wanted.entry))?,
        None => builtin_program(&wanted.entry)?.ok_or_else(|| {
            Failure::new(
                Code::Program,
                format!(
                    "{:?} is not a program that quorate carries",
                    text::foreign(&wanted.entry)
                ),
            )
            .hint("point --program at your copy of it; quorate does not fetch programs")
        })?,
    };
    matching(program, wanted)
}

fn matching(program: ProgramFiles, wanted: &Program) -> Result<ProgramFiles, Failure> {
    if program.digest() == wanted.manifest {
        return Ok(program);
    }
    Err(Failure::new(
        Code::Program,
        "your program is not the program of this session",
    )
    .note("invitation", wanted.manifest.to_string())
    .note("yours", program.digest().to_string()))
}

fn builtin_program(entry: &str) -> Result<Option<ProgramFiles>, Failure> {
    let found: Option<&Builtin> = builtin::ALL.iter().find(|b| b.file == entry);
    Ok(found
        .map(|b| ProgramFiles::embedded(b.file, b.source))
        .transpose()?)
}
