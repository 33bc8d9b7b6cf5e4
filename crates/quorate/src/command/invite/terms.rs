//! The terms of a session: what is signed, whoever takes part.

use std::{path::Path, time::Duration};

use quorate_identity::{Code, Did, Digest, UnixTime, Verified, sign};
use quorate_node::{
    files::{Home, IdentityFile, ProgramFiles, keep_issued},
    overlay::Reach,
    program::{Builtin, check_user_args, python},
};
use quorate_session::message::PathPolicy;
use quorate_session::{
    Bundle, Invitation, InvitationDraft, PartyDraft, ProgramSource, RendezvousSecret,
    limits::{MAX_HINTS, MAX_VALIDITY_SECONDS},
    message::{Engine, Program, SameController, Times},
};

use crate::{
    failure::Failure,
    invitation,
    part::{privacy, reach, readiness, source_of},
};

/// MPC port inside the tunnel; nobody outside of it sees it.
const TUNNEL_PORT: u16 = 11365;
/// After the last join, all programs must run within this time.
const START_WITHIN_SECONDS: i64 = 10 * 60;
/// And have ended within this time.
const RUN_WITHIN_SECONDS: i64 = 24 * 3600;
/// Times a party that crashed may join again.
const REJOINS: u8 = 3;

/// What the organizer decided about the computation.
#[derive(Clone)]
pub struct Terms {
    pub program: ProgramFiles,
    pub public_args: Vec<String>,
    pub title: String,
    pub expires: Duration,
    pub threshold: Option<u16>,
    /// Nothing protects the inputs, and everybody is told so.
    pub no_privacy: bool,
    pub engine: Engine,
    /// Whether its source goes along.
    pub send_program: bool,
    /// The invitation that this one follows.
    pub supersedes: Option<Digest>,
    /// Relays that every party gets to know.
    pub relays: Vec<String>,
    /// Which paths data may take.
    pub path: PathPolicy,
}

impl Terms {
    /// The terms for the program that `name` names; the title is that of the program.
    pub fn of_program(name: &str, args: &[String], expires: Duration) -> Result<Self, Failure> {
        let (program, public_args) = program_of(name, args)?;
        check_user_args(&public_args)
            .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.hint()))?;
        Ok(Self {
            title: title_of(program.entry()),
            program,
            public_args,
            expires,
            threshold: None,
            no_privacy: false,
            engine: Engine::Mpyc,
            send_program: false,
            supersedes: None,
            relays: Vec::new(),
            path: PathPolicy::Any,
        })
    }

    /// The terms for a program that is started as it is: `words` are its file and its arguments,
    /// `program` the file or folder that it is in, if it is not that file itself.
    pub fn of_executable(
        program: Option<&str>,
        words: &[String],
        expires: Duration,
    ) -> Result<Self, Failure> {
        let Some((file, args)) = words.split_first() else {
            return Err(Failure::new(
                Code::Usage,
                "nothing to start: with --engine exec, what follows -- is the program and its arguments",
            )
            .hint("quorate invite --engine exec … -- ./my-party --id {index} --peers {hosts_file} --listen {listen}"));
        };
        let files = match program {
            None => ProgramFiles::read(Path::new(file), None)?,
            Some(program) => {
                let entry = file.strip_prefix("./").unwrap_or(file);
                ProgramFiles::read(Path::new(program), Some(entry))?
            }
        };
        Ok(Self {
            title: title_of(files.entry()),
            program: files,
            public_args: args.to_vec(),
            expires,
            threshold: None,
            no_privacy: false,
            engine: Engine::Exec,
            send_program: false,
            supersedes: None,
            relays: Vec::new(),
            path: PathPolicy::Any,
        })
    }

    /// Its source, if it goes along.
    pub fn source(&self) -> Result<Option<ProgramSource>, Failure> {
        let wanted = self.send_program.then_some(&self.program);
        wanted.map(source_of).transpose()
    }

    /// The same terms, with the relays of this party.
    pub fn reachable(&self, reach: &Reach) -> Self {
        Self {
            relays: reach.relays.clone(),
            ..self.clone()
        }
    }

    /// The program as it will be signed.
    pub fn signed_program(&self) -> Program {
        Program {
            manifest: self.program.digest(),
            entry: self.program.entry().into(),
            args: self.public_args.clone(),
            env: None,
        }
    }

    /// The draft of an invitation (or, without the others, of a call).
    pub fn draft(&self, issuer: Did, parties: Vec<PartyDraft>) -> Result<InvitationDraft, Failure> {
        let now = invitation::now();
        let time = times(now, self.expires)?;
        let of_mpyc = |text: String| match self.engine {
            Engine::Mpyc => text,
            Engine::Exec => String::new(),
        };
        Ok(InvitationDraft {
            issuer,
            title: self.title.clone(),
            purpose: String::new(),
            supersedes: self.supersedes,
            parties,
            threshold: self.threshold,
            zero_threshold: self.no_privacy,
            prss: None,
            program: self.signed_program(),
            engine: self.engine,
            mpyc: of_mpyc(python::MPYC_VERSION.into()),
            python: of_mpyc(python::OLDEST.to_string()),
            word: 64,
            port: TUNNEL_PORT,
            valid_from: now,
            valid_until: time.end_by,
            time,
            relays: self.relays.clone(),
            path: self.path,
            same_controller: SameController::Refuse,
            rejoin: REJOINS,
        })
    }

    /// Signs an invitation of these parties, with a fresh secret to find each other by. It is kept in `home`: whoever
    /// cancels has to find the parties again.
    pub fn sign(
        &self,
        home: &Home,
        identity: &IdentityFile,
        parties: Vec<PartyDraft>,
        hints: Vec<String>,
    ) -> Result<(Verified<Invitation>, Bundle), Failure> {
        privacy::check_keys(parties.iter().map(|p| &p.did).chain([&identity.key.did()]))?;
        readiness::check_arguments(self.engine, &self.public_args, parties.len())?;
        privacy::check_terms(parties.len(), self.threshold, self.no_privacy)?;
        let me = identity.key.did();
        let takes_part = parties.iter().any(|p| p.did == me);
        let draft = self.draft(me, parties)?;
        let secret = RendezvousSecret::new(random()?);
        let mut hints = hints;
        if takes_part {
            hints.extend(reach::meeting_hints(&self.relays, &identity.key, &secret));
            hints.truncate(MAX_HINTS);
        }
        let signed = sign(draft.build(random()?, random()?, &secret)?, &identity.key)?;
        let bundle = Bundle {
            invitation: signed.text().to_string(),
            secret,
            hints,
            program: self.source()?,
        };
        // What goes out must be what the others can read.
        Bundle::parse(&bundle.encode())?;
        keep_issued(home, &bundle, &signed.digest().to_string())?;
        Ok((signed, bundle))
    }
}

/// `mpyc:NAME` is carried in quorate, a bare NAME too unless there is such a file; else a path.
pub fn program_of(text: &str, args: &[String]) -> Result<(ProgramFiles, Vec<String>), Failure> {
    let name = text.strip_prefix("mpyc:");
    let builtin =
        Builtin::find(name.unwrap_or(text)).filter(|_| name.is_some() || !Path::new(text).exists());
    if let Some(builtin) = builtin {
        let files = ProgramFiles::embedded(builtin.file, builtin.source)?;
        let default = || {
            builtin
                .public_args
                .iter()
                .map(|a| (*a).to_owned())
                .collect()
        };
        return Ok((
            files,
            if args.is_empty() {
                default()
            } else {
                args.to_vec()
            },
        ));
    }
    if let Some(name) = name {
        return Err(Failure::new(
            Code::Program,
            format!("quorate carries no program {name:?}"),
        )
        .hint("there are mpyc:secretsanta, mpyc:mean-income and mpyc:vote; or give a file"));
    }
    Ok((ProgramFiles::read(Path::new(text), None)?, args.to_vec()))
}

fn title_of(entry: &str) -> String {
    Path::new(entry)
        .file_stem()
        .map_or_else(|| entry.to_owned(), |s| s.to_string_lossy().into_owned())
}

/// Everything has to end while the invitation is valid, which is a week at most.
fn times(now: UnixTime, expires: Duration) -> Result<Times, Failure> {
    let latest = now.plus_seconds(MAX_VALIDITY_SECONDS);
    let seconds = i64::try_from(expires.as_secs()).unwrap_or(i64::MAX);
    let join_by = now.plus_seconds(seconds);
    if join_by > latest {
        let days = MAX_VALIDITY_SECONDS / 86_400;
        return Err(Failure::new(
            Code::Limit,
            format!("an invitation is valid for {days} days at most"),
        )
        .hint(format!("use --expires {days}d or less")));
    }
    let start_by = join_by.plus_seconds(START_WITHIN_SECONDS).min(latest);
    let end_by = start_by.plus_seconds(RUN_WITHIN_SECONDS).min(latest);
    Ok(Times {
        join_by,
        start_by,
        end_by,
    })
}

/// Bytes from the operating system's generator.
pub fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        Failure::new(
            Code::Internal,
            format!("the system's random generator failed: {e}"),
        )
    })?;
    Ok(bytes)
}
