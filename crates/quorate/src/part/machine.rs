//! What the program may use of this machine, as the user wants it and the machine allows it.

use quorate_identity::Code;
use quorate_node::program::{Confinement, Network, confine};
use quorate_session::message::Engine;

use crate::{
    args::{ExecutionArgs, Isolate, Memory},
    failure::Failure,
    text,
};

/// What the program gets, and the line that says so to the person before agreeing.
pub struct Confined {
    pub confinement: Confinement,
    pub line: String,
    /// What is worth a note even where no lines are shown.
    pub warning: Option<String>,
}

impl Confined {
    /// What was shown is what happens: a program that was to have no network does not get this machine's later, because
    /// something changed or another process decides. It is refused then.
    pub fn hold(&self, args: &mut ExecutionArgs) {
        if self.confinement.network == Network::None {
            args.isolate = Isolate::Always;
        }
    }
}

/// Decides by trying: whether a program can be isolated depends on the machine's settings.
pub fn confined(args: &ExecutionArgs, engine: Engine) -> Result<Confined, Failure> {
    let memory = match args.memory {
        None => Some(confine::default_memory()),
        Some(Memory::Unlimited) => None,
        Some(Memory::Bytes(bytes)) => Some(bytes),
    };
    let shared = |why: &str| format!("the program can use this machine's network: {why}");
    let (network, text, warning) = match args.isolate {
        Isolate::Always if engine == Engine::Exec => {
            return Err(Failure::new(
                Code::Engine,
                "a program of the engine exec reaches the others by loopback and cannot do without this machine's network",
            )
            .hint("use --isolate auto if you trust the program"));
        }
        Isolate::Auto if engine == Engine::Exec => {
            let text = shared("it reaches the other parties by loopback");
            (Network::Machine, text, None)
        }
        Isolate::Never => (Network::Machine, shared("--isolate never"), None),
        wanted => match confine::probe() {
            Ok(()) => {
                let text = "the program gets none: it reaches the other parties only";
                (Network::None, text.to_owned(), None)
            }
            Err(why) if wanted == Isolate::Always => return Err(impossible(&why)),
            Err(why) => {
                let text = shared(&format!("this machine allows no private one ({why})"));
                (Network::Machine, text.clone(), Some(text))
            }
        },
    };
    Ok(Confined {
        confinement: Confinement { network, memory },
        line: text::row("network", &text),
        warning,
    })
}

fn impossible(why: &std::io::Error) -> Failure {
    let restricted = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    let apparmor = std::fs::read_to_string(restricted).is_ok_and(|on| on.trim() == "1");
    let failure = Failure::new(
        Code::Userns,
        format!("the program cannot get a network of its own on this machine: {why}"),
    );
    if apparmor {
        failure
            .note("because", "AppArmor does not allow user namespaces to ordinary programs")
            .hint(
                "an administrator can allow them: sysctl kernel.apparmor_restrict_unprivileged_userns=0; \
                 or use --isolate auto, and the program can use this machine's network",
            )
    } else {
        failure.hint(
            "an administrator can allow user namespaces (sysctl user.max_user_namespaces, user.max_net_namespaces); \
             or use --isolate auto, and the program can use this machine's network",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::AttachMode;

    #[test]
    fn what_was_shown_as_isolated_is_not_decided_anew() {
        let confined = |network| Confined {
            confinement: Confinement {
                network,
                memory: None,
            },
            line: String::new(),
            warning: None,
        };
        let mut args = ExecutionArgs {
            isolate: Isolate::Auto,
            attach: AttachMode::Auto,
            memory: None,
        };
        confined(Network::Machine).hold(&mut args);
        assert_eq!(args.isolate, Isolate::Auto);
        confined(Network::None).hold(&mut args);
        assert_eq!(args.isolate, Isolate::Always, "later it must fail instead");
    }
}
