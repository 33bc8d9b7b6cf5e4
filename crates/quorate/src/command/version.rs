//! `quorate version`.

use std::process::ExitCode;

use serde_json::json;

use crate::{args::Global, command::print_stdout};

pub fn run(global: &Global) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    if global.json {
        let report = json!({"schema": crate::report::schema("version"), "quorate": version, "protocol": "quorate/1",
            "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)});
        print_stdout(&report.to_string());
    } else {
        print_stdout(&format!("quorate {version} (protocol quorate/1)"));
    }
    ExitCode::SUCCESS
}
