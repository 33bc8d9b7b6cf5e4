//! Engine: what runs the program of a session.
//!
//! `mpyc`: the entry is a Python program on MPyC, started on links that are handed over. `exec`: the entry is an executable
//! file, started with the public arguments; it is told by placeholders and variables where the other parties are. The terms
//! of both say how many parties may pool what they see; that an `exec` program keeps to it is the program's own business.
//!
//! Source: protocol section 4, S3.3 and section 12, G9 to G12.

use super::Mpc;
use quorate_identity::{Code, Rejection};

/// What runs the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Python with MPyC.
    #[default]
    Mpyc,
    /// The program itself.
    Exec,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Mpyc, Self::Exec];

    /// Its name in an invitation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mpyc => "mpyc",
            Self::Exec => "exec",
        }
    }
}

impl Mpc {
    /// The engine, if this version knows it; every invitation that was read has one.
    pub fn engine(&self) -> Option<Engine> {
        Engine::ALL
            .into_iter()
            .find(|engine| engine.as_str() == self.engine)
    }

    /// S3.3: a known engine, and nothing said about MPyC where there is none.
    pub(super) fn check_engine(&self) -> Result<(), Rejection> {
        match self.engine() {
            None => Err(Rejection::new(
                Code::Version,
                "S3",
                "the engines of this version are mpyc and exec",
            )),
            Some(Engine::Mpyc) => Ok(()),
            Some(Engine::Exec) => {
                let silent = self.version.is_empty()
                    && self.python.is_empty()
                    && !self.prss
                    && self.bit_length.is_none()
                    && self.sec_param.is_none();
                if silent {
                    return Ok(());
                }
                Err(Rejection::new(
                    Code::Format,
                    "S3",
                    "the engine exec has no version, no Python and no parameters of MPyC",
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mpc(engine: &str) -> Mpc {
        Mpc {
            engine: engine.into(),
            version: String::new(),
            m: 3,
            t: 1,
            prss: false,
            bit_length: None,
            sec_param: None,
            word: 64,
            python: String::new(),
        }
    }

    #[test]
    fn engines_are_known_by_their_exact_names() {
        for engine in Engine::ALL {
            assert_eq!(mpc(engine.as_str()).engine(), Some(engine));
            assert!(mpc(engine.as_str()).check_engine().is_ok());
        }
        for name in ["", "Exec", "mp-spdz", "exec "] {
            let refusal = mpc(name).check_engine().expect_err(name);
            assert_eq!(refusal.code, Code::Version, "{name}");
        }
    }

    #[test]
    fn exec_says_nothing_about_mpyc() {
        let with = |change: fn(&mut Mpc)| {
            let mut mpc = mpc("exec");
            change(&mut mpc);
            mpc.check_engine()
        };
        let changes: [fn(&mut Mpc); 5] = [
            |m| m.version = "0.11".into(),
            |m| m.python = "3.12".into(),
            |m| m.prss = true,
            |m| m.bit_length = Some(32),
            |m| m.sec_param = Some(30),
        ];
        for change in changes {
            assert!(with(change).is_err());
        }
    }
}
