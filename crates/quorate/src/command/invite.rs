//! `quorate invite`: sign who may compute what with whom.

use std::{io::Write, path::Path, process::ExitCode, time::Duration};

use quorate_identity::{Code, Did, DidKeyResolver, Resolver, UnixTime, sign};
use quorate_node::{
    files::{IdentityFile, MAX_NAME_CHARS, ProgramFiles, write_atomic, write_new},
    program::{Builtin, check_user_args, python},
};
use quorate_session::{
    Bundle, InvitationDraft, PartyDraft, RendezvousSecret,
    limits::MAX_VALIDITY_SECONDS,
    message::{Program, SameController, Times},
};
use serde_json::json;

use crate::{
    args::{Global, InviteArgs},
    command::home,
    failure::Failure,
    invitation, text,
};

/// MPC port inside the tunnel; nobody outside of it sees it.
const TUNNEL_PORT: u16 = 11365;
/// After the last join, all programs must run within this time.
const START_WITHIN_SECONDS: i64 = 10 * 60;
/// And have ended within this time.
const RUN_WITHIN_SECONDS: i64 = 24 * 3600;
/// Times a party that crashed may join again.
const REJOINS: u8 = 3;

pub fn run(global: &Global, args: &InviteArgs) -> Result<ExitCode, Failure> {
    let home = home(global)?;
    let (identity, _) = IdentityFile::load_or_create(&home)?;
    let (program, public_args) = program_of(&args.program, &args.args)?;
    check_user_args(&public_args)
        .map_err(|e| Failure::new(e.code(), e.to_string()).hint(e.hint()))?;
    let mut parties = Vec::new();
    if !args.issuer_only {
        let name = args
            .me
            .clone()
            .or(identity.name.clone())
            .unwrap_or_else(|| "organizer".into());
        parties.push(party(&name, &identity.key.did())?);
    }
    for text in &args.with {
        parties.push(invited(text, parties.len())?);
    }
    let now = invitation::now();
    let draft = InvitationDraft {
        issuer: identity.key.did(),
        title: args
            .name
            .clone()
            .unwrap_or_else(|| title_of(program.entry())),
        purpose: String::new(),
        supersedes: None,
        parties,
        threshold: args.threshold,
        zero_threshold: false,
        prss: None,
        program: Program {
            manifest: program.digest(),
            entry: program.entry().into(),
            args: public_args,
            env: None,
        },
        mpyc: python::MPYC_VERSION.into(),
        python: python::OLDEST.to_string(),
        word: 64,
        port: TUNNEL_PORT,
        valid_from: now,
        valid_until: times(now, args.expires)?.end_by,
        time: times(now, args.expires)?,
        relays: Vec::new(),
        same_controller: SameController::Refuse,
        rejoin: REJOINS,
    };
    let secret = RendezvousSecret::new(random()?);
    let signed = sign(draft.build(random()?, random()?, &secret)?, &identity.key)?;
    let bundle = Bundle {
        invitation: signed.text().to_string(),
        secret,
        hints: args.hint.clone(),
    };
    let encoded = format!("{}\n", bundle.encode());
    // What was written must be what the others can read.
    Bundle::parse(encoded.trim())?;
    write_out(&args.out, encoded.as_bytes(), args.force)?;

    if global.json {
        text::say(
            json!({"schema": crate::report::schema("event"), "event": "invited", "digest": signed.digest(),
            "out": args.out, "parties": signed.subject.parties.iter().map(|p| &p.did).collect::<Vec<_>>()}),
        );
    } else if !global.quiet {
        for line in invitation::describe(&signed) {
            text::say(line);
        }
        text::say(text::row(
            "written",
            &format!(
                "{}   send it to the others, by any channel they trust for who is invited",
                args.out.display()
            ),
        ));
        let next = if args.issuer_only {
            "the parties"
        } else {
            "everybody, you too"
        };
        text::say(text::row(
            "next",
            &format!("{next}:   quorate join {}", args.out.display()),
        ));
    }
    Ok(ExitCode::SUCCESS)
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

/// `NAME=DID` or `DID`.
fn invited(text: &str, number: usize) -> Result<PartyDraft, Failure> {
    let (name, did) = match text.split_once('=') {
        Some((name, did)) => (name.to_owned(), did),
        None => (format!("party-{number}"), text),
    };
    let did: Did = did
        .trim()
        .parse()
        .map_err(|e: quorate_identity::Rejection| {
            Failure::new(e.code, format!("{:?}: {}", text::foreign(did), e.detail))
                .hint("ask that party for the DID that `quorate id show` prints")
        })?;
    party(name.trim(), &did)
}

fn party(name: &str, did: &Did) -> Result<PartyDraft, Failure> {
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name != text::foreign(name) {
        return Err(Failure::new(
            Code::Usage,
            format!("a party's name is 1 to {MAX_NAME_CHARS} plain characters"),
        ));
    }
    let keys = DidKeyResolver.resolve(did).ok_or_else(|| {
        Failure::new(
            Code::DidResolve,
            format!("{did} cannot be resolved: only did:key is supported by this version"),
        )
    })??;
    let keys = keys.keys.iter().map(|k| k.key.thumbprint()).collect();
    Ok(PartyDraft {
        did: did.clone(),
        name: name.into(),
        keys,
    })
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

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        Failure::new(
            Code::Internal,
            format!("the system's random generator failed: {e}"),
        )
    })?;
    Ok(bytes)
}

fn write_out(path: &Path, content: &[u8], force: bool) -> Result<(), Failure> {
    if path == Path::new("-") {
        let mut out = std::io::stdout().lock();
        return out
            .write_all(content)
            .and_then(|()| out.flush())
            .map_err(|e| Failure::new(Code::Disk, format!("stdout cannot be written: {e}")));
    }
    if force {
        return Ok(write_atomic(path, content)?);
    }
    if write_new(path, content)? {
        return Ok(());
    }
    Err(
        Failure::new(Code::Disk, format!("{} exists already", path.display()))
            .hint("choose another name, or add --force"),
    )
}
