//! `quorate relay`: carrying sessions of others, and looking at who does.

mod check;
mod run;
mod service;

use std::process::ExitCode;

use crate::{
    args::{Global, RelayAction, RelayArgs},
    failure::Failure,
};

pub fn run(global: &Global, args: RelayArgs) -> Result<ExitCode, Failure> {
    match args.action {
        RelayAction::Run(args) => run::run(global, *args),
        RelayAction::Check { address } => check::run(global, &address),
        RelayAction::InstallService { write, run } => service::run(global, write.as_deref(), &run),
    }
}

/// The runtime of a command that has sockets.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.map_err(|e| Failure::new(quorate_identity::Code::Internal, e.to_string()))
}
