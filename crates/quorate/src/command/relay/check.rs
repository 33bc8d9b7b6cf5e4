//! `quorate relay check`.

use std::process::ExitCode;

use quorate_identity::Code;
use quorate_node::relay;
use serde_json::{Value, json};

use super::runtime;
use crate::{
    args::Global, command::print_stdout, failure::Failure, findings, report::schema, text,
};

pub fn run(global: &Global, address: &str) -> Result<ExitCode, Failure> {
    let checked = runtime()?.block_on(relay::check(address)).map_err(|why| {
        let text = format!("{} is no address of a relay: {why}", text::foreign(address));
        Failure::new(Code::Usage, text).hint("it looks like /ip4/203.0.113.7/tcp/4001/p2p/12D3Koo…")
    })?;
    let name = checked.announcement.as_ref().and_then(|a| a.name.clone());
    if global.json {
        let rtt = checked.rtt.map(|t| t.as_secs_f64() * 1000.0);
        let limits = checked.announcement.as_ref().map(|a| json!(a.limits));
        let load = checked.announcement.as_ref().map(|a| json!(a.load));
        let findings: Vec<Value> = checked.findings.iter().map(findings::document).collect();
        let document = json!({"schema": schema("relay"), "address": address,
            "reachable": checked.reachable, "usable": checked.usable, "rtt_ms": rtt, "name": name,
            "limits": limits, "load": load, "addresses": checked.addresses, "findings": findings});
        print_stdout(&document.to_string());
    } else {
        if let Some(name) = name {
            text::say(text::row(
                "calls itself",
                &format!("\"{}\"", text::name(&name)),
            ));
        }
        findings::say(&checked.findings);
        for address in checked.addresses.iter().filter(|_| checked.usable) {
            text::say(text::row("give to users", address));
        }
    }
    if checked.usable {
        return Ok(ExitCode::SUCCESS);
    }
    if global.json {
        return Ok(ExitCode::from(Code::NoPath.exit_code()));
    }
    let text = if checked.reachable {
        "the relay answers, but carries no circuit"
    } else {
        "the relay cannot be reached"
    };
    Err(Failure::new(Code::NoPath, text)
        .hint("see the lines above; quorate doctor looks at this machine's network"))
}
