//! One signed statement alone: a call, a card, a receipt, …

use std::process::ExitCode;

use quorate_identity::{
    Code, DidKeyResolver, ResolvedDid, Resolver, Statement, UnixTime, Unverified, Verified,
    base64url, json::parse_strict, peek_typ,
};
use quorate_session::message::{
    Abort, Apply, Call, Cancel, Card, Confirm, Hello, Join, Kem, Ready, Receipt, verify_card,
};
use serde_json::{Value, json};

use crate::{args::Global, command::print_stdout, failure::Failure, invitation::now, text};

/// What was found about a statement.
struct Found {
    kind: &'static str,
    digest: String,
    issuer: String,
    key: String,
    payload: Value,
    /// For people: what it is, and what it does not prove.
    lines: Vec<String>,
}

pub fn run(global: &Global, text: &str) -> Result<ExitCode, Failure> {
    let found = judge(text)?;
    if global.json {
        let report = json!({"schema": crate::report::schema("verification"), "kind": found.kind, "valid": true,
            "digest": found.digest, "issuer": found.issuer, "key": found.key, "payload": found.payload});
        print_stdout(&report.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    super::print_lines(&found.lines);
    Ok(ExitCode::SUCCESS)
}

/// The specific type of a credential, before anything is proven.
pub fn credential_type(text: &str) -> Option<String> {
    let payload = base64url::decode(text.split('.').nth(1)?).ok()?;
    let payload = parse_strict(&payload).ok()?;
    Some(payload.get("type")?.get(1)?.as_str()?.to_owned())
}

fn judge(text: &str) -> Result<Found, Failure> {
    let typ = peek_typ(text)?;
    if typ == "vc+jwt" {
        return match credential_type(text).as_deref() {
            Some("QuorateCard") => Ok(card(&verify_card(text, now())?)),
            _ => Ok(call(&verified::<Call>(text, Some(now()))?)),
        };
    }
    macro_rules! alone {
        ($($kind:ident)*) => {
            $(if typ == <$kind as Statement>::TYP {
                return Ok(alone(typ, &verified::<$kind>(text, None)?));
            })*
        };
    }
    alone!(Receipt Join Confirm Abort Cancel Kem Ready Hello Apply);
    Err(Failure::new(
        Code::Header,
        format!("a {typ} is nothing that quorate can check alone"),
    ))
}

/// Verified by the keys of its DID, at `at` or at the time it gives itself.
fn verified<T: Statement>(text: &str, at: Option<UnixTime>) -> Result<Verified<T>, Failure> {
    let parsed = Unverified::<T>::parse(text)?;
    let keys = keys_of(parsed.issuer())?;
    let own = parsed.claims_unproven().validity().not_before;
    Ok(parsed.verify(&keys, at.or(own).unwrap_or_else(now))?)
}

fn keys_of(did: &quorate_identity::Did) -> Result<ResolvedDid, Failure> {
    let answer = DidKeyResolver.resolve(did).ok_or_else(|| {
        Failure::new(
            Code::DidResolve,
            format!("{did} cannot be resolved offline: only did:key can"),
        )
    })?;
    Ok(answer?)
}

fn found<T: Statement>(kind: &'static str, statement: &Verified<T>, lines: Vec<String>) -> Found {
    Found {
        kind,
        digest: statement.digest().to_string(),
        issuer: statement.issuer().to_string(),
        key: statement.key().thumbprint().to_string(),
        payload: serde_json::to_value(&**statement).unwrap_or_default(),
        lines,
    }
}

fn call(call: &Verified<Call>) -> Found {
    let subject = &call.subject;
    let lines = vec![
        text::row(
            "call",
            &format!(
                "{:?} from {}  {}",
                text::foreign(&subject.title),
                text::name(&subject.name),
                call.issuer
            ),
        ),
        text::row(
            "",
            &format!(
                "signature valid · apply until {} · digest {}",
                subject.time.apply_by.rfc3339(),
                call.digest()
            ),
        ),
        text::row(
            "program",
            &format!(
                "{}  {}",
                text::foreign(&subject.program.entry),
                subject.program.manifest
            ),
        ),
        text::row(
            "seats",
            &format!("{}, threshold {}", subject.mpc.m, subject.mpc.t),
        ),
        text::row(
            "not proven",
            "who will take the seats: that is in the closed invitation",
        ),
    ];
    found("call", call, lines)
}

fn card(card: &Verified<Card>) -> Found {
    let lines = vec![
        text::row(
            "card",
            &format!(
                "{} calls itself {:?}",
                card.issuer,
                text::name(&card.subject.name)
            ),
        ),
        text::row(
            "",
            &format!(
                "signature valid · until {} · digest {}",
                card.valid_until.rfc3339(),
                card.digest()
            ),
        ),
        text::row(
            "not proven",
            "that the name is true: that you know from whom you have the card",
        ),
    ];
    found("card", card, lines)
}

fn alone<T: Statement>(typ: &'static str, statement: &Verified<T>) -> Found {
    let kind = typ.trim_start_matches("quorate-").trim_end_matches("+jwt");
    let claims = serde_json::to_value(&**statement).unwrap_or_default();
    let mut lines = vec![
        text::row(
            "statement",
            &format!("{kind}, signed by {}", statement.issuer()),
        ),
        text::row(
            "",
            &format!("signature valid · digest {}", statement.digest()),
        ),
    ];
    for member in [
        "inv", "call", "roster", "outcome", "exit", "code", "note", "reason",
    ] {
        let said = claims.get(member).filter(|value| !value.is_null());
        if let Some(said) = said {
            let said = said
                .as_str()
                .map_or_else(|| said.to_string(), text::foreign);
            lines.push(text::row(member, &said));
        }
    }
    lines.push(text::row(
        "not proven",
        "that its signer was a party, and of which session: that needs the record",
    ));
    let mut found = found("statement", statement, lines);
    found.payload = json!({"typ": typ, "claims": claims});
    found
}
