//! `quorate verify`: is this invitation genuine, and what does it say?

use std::process::ExitCode;

use serde_json::json;

use crate::{
    args::{Global, VerifyArgs},
    command::print_stdout,
    failure::Failure,
    invitation::{describe, receive},
};

pub fn run(global: &Global, args: &VerifyArgs) -> Result<ExitCode, Failure> {
    let received = receive(&args.file)?;
    let invitation = &received.invitation;
    if global.json {
        let report = json!({"schema": crate::report::schema("verification"), "kind": "invitation", "valid": true,
            "digest": invitation.digest(), "issuer": invitation.issuer, "key": invitation.key().thumbprint(),
            "secret": received.bundle.is_some(), "credential": &**invitation});
        print_stdout(&report.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    for line in describe(invitation, None) {
        print_stdout(&anstream::adapter::strip_str(&line).to_string());
    }
    if received.bundle.is_none() && !global.quiet {
        crate::text::say(
            "  note: this is the bare credential; to join, the whole file of the organizer is needed",
        );
    }
    Ok(ExitCode::SUCCESS)
}
