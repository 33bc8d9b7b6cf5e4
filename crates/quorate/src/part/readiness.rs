//! Whether this user and this machine can do what an invitation asks: before anything is sent.

use std::path::Path;

use quorate_identity::{CLOCK_SKEW_SECONDS, Code, SigningKey, UnixTime, Verified};
use quorate_node::{
    files::ProgramFiles,
    program::{Builtin, PythonRuntime, builtin, check_placeholders, check_private_args, python},
};
use quorate_session::{
    Fingerprint, Invitation,
    message::{Engine, PathPolicy, Program},
};

use super::{Options, Scope};
use crate::{args::AttachMode, failure::Failure, invitation::now, text};

/// Word size of this machine in bits, for programs that have no Python to ask.
const WORD: u8 = if cfg!(target_pointer_width = "32") {
    32
} else {
    64
};

/// What this machine brings: the program that was agreed, and the Python that runs it.
pub struct Prepared {
    pub program: ProgramFiles,
    /// The Python that runs it and the version of MPyC in it; none with the engine `exec`.
    pub python: Option<(PythonRuntime, String)>,
}

/// Whether the public arguments of an executable name existing parties. (Those of MPyC programs are
/// checked with the invitation.)
pub fn check_arguments(engine: Engine, args: &[String], parties: usize) -> Result<(), Failure> {
    if engine == Engine::Mpyc {
        return Ok(());
    }
    let parties = u16::try_from(parties).unwrap_or(u16::MAX);
    check_placeholders(args, parties).map_err(|refusal| {
        Failure::new(Code::Engine, refusal.to_string())
            .hint("the organizer has to correct the arguments and invite again")
    })
}

impl Prepared {
    /// Finds program and Python for what is `wanted`.
    pub async fn find(
        wanted: &Program,
        engine: Engine,
        options: &Options,
    ) -> Result<Self, Failure> {
        check_attach(engine, options.execution.attach)?;
        if engine == Engine::Mpyc {
            check_private_args(&options.private_args)
                .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.hint()))?;
        }
        let program = match &options.program {
            Some(program) => matching(program.clone(), wanted)?,
            None => my_program(wanted, options.program_path.as_deref())?,
        };
        let python = match engine {
            Engine::Mpyc => Some(Self::find_python(options).await?),
            Engine::Exec => None,
        };
        Ok(Self { program, python })
    }

    async fn find_python(options: &Options) -> Result<(PythonRuntime, String), Failure> {
        let search = python::Search::from_env(options.python.clone());
        let python = python::find(&search)
            .await
            .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.fix()))?;
        let mpyc = python
            .require_mpyc()
            .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.fix()))?
            .to_owned();
        Ok((python, mpyc))
    }

    /// What is told to the others about it.
    pub fn fingerprint(&self) -> Fingerprint {
        let (mpyc, python, word) = match &self.python {
            Some((python, mpyc)) => (mpyc.clone(), python.version.to_string(), python.word),
            None => (String::new(), String::new(), WORD),
        };
        Fingerprint {
            quorate: env!("CARGO_PKG_VERSION").into(),
            mpyc,
            python,
            word,
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
        match &self.python {
            Some((python, mpyc)) => format!(
                "the same program ✓  Python {} with MPyC {mpyc} ✓{private}",
                python.version
            ),
            None => format!("the same program ✓  started as it is (engine exec){private}"),
        }
    }
}

/// Each engine has one way to its links.
fn check_attach(engine: Engine, attach: AttachMode) -> Result<(), Failure> {
    match (engine, attach) {
        (_, AttachMode::Auto)
        | (Engine::Mpyc, AttachMode::Unix)
        | (Engine::Exec, AttachMode::Loopback) => Ok(()),
        (Engine::Mpyc, AttachMode::Loopback) => Err(Failure::new(
            Code::Engine,
            "MPyC listens on every network of this machine when it gets no links; it is not attached by loopback",
        )
        .hint("leave --attach out: MPyC programs inherit their links")),
        (Engine::Exec, AttachMode::Unix) => Err(Failure::new(
            Code::Engine,
            "a program of the engine exec connects by itself and inherits no links",
        )
        .hint("leave --attach out, or use --attach loopback")),
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

/// What the organizer demands must be within what the user allows on this machine.
pub fn check_scope(path: PathPolicy, scope: Scope) -> Result<(), Failure> {
    if path != PathPolicy::Relay || scope != Scope::Local {
        return Ok(());
    }
    Err(Failure::new(
        Code::Policy,
        "this invitation allows relayed paths only, and --local allows nothing but this machine's loopback",
    )
    .hint("leave out --local, or ask the organizer to allow direct paths"))
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
            .hint("point --program at your copy of it, or ask the organizer to send it along (--send-program); quorate does not fetch programs")
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
