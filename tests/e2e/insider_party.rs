//! A cheating party for the tests: it joins like everybody, says that it runs the agreed program,
//! runs another one, and lets it lie about its number.
//!
//! Usage: `insider HOME INVITATION AGREED_PROGRAM PYTHON PROGRAM NOTES`

#![allow(clippy::unwrap_used)]

use std::path::Path;

use quorate_identity::{DidKeyResolver, Resolver, Unverified};
use quorate_node::{
    files::{Home, IdentityFile, ProgramFiles},
    party::{self, Execution, PartyConfig, Scope, Stop},
};
use quorate_session::{Bundle, Fingerprint, Invitation};

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, home, file, agreed, python, program, notes] = args.as_slice() else {
        std::process::exit(2)
    };
    let home = Home::below(Path::new(home));
    let bundle = Bundle::parse(std::fs::read_to_string(file).unwrap().trim()).unwrap();
    let invitation = Unverified::<Invitation>::parse(&bundle.invitation).unwrap();
    let issuer = DidKeyResolver
        .resolve(invitation.issuer())
        .unwrap()
        .unwrap();
    let at = invitation.claims_unproven().valid_from;
    let invitation = invitation.verify(&issuer, at).unwrap();
    let agreed =
        ProgramFiles::read(Path::new(agreed), Some(&invitation.subject.program.entry)).unwrap();
    let mpc = invitation.subject.mpc.clone();
    let config = PartyConfig {
        reach: quorate_node::overlay::Reach::default(),
        network: Vec::new(),
        key: IdentityFile::load(&home).unwrap().unwrap().key,
        secret: bundle.secret,
        addresses: Vec::new(),
        fingerprint: Fingerprint {
            quorate: env!("CARGO_PKG_VERSION").into(),
            mpyc: mpc.version,
            python: "3.11.0".into(),
            word: mpc.word,
            program: agreed.digest(),
            env: None,
        },
        program: ProgramFiles::read(Path::new(program), None).unwrap(),
        python: Some(python.into()),
        private_args: vec![notes.clone()],
        working_folder: "/".into(),
        scope: Scope::Local,
        check_own_program: false,
        execution: Execution::default(),
        home,
        name: "insider".into(),
        control: None,
        log: None,
        stdout: Box::new(|| Box::new(tokio::io::stdout())),
        stderr: Box::new(|| Box::new(tokio::io::stderr())),
        invitation,
    };
    let (events, mut shown) = tokio::sync::mpsc::channel(party::EVENT_QUEUE);
    let (_stop, stopped) = tokio::sync::watch::channel(Stop::No);
    let run = tokio::spawn(party::run(config, events, stopped));
    while shown.recv().await.is_some() {}
    let _ = run.await.unwrap();
}
