//! Engine `exec`: a program that is started as it is, and told where the others are.
//!
//! Placeholders in arguments: `{index}`, `{n}`, `{threshold}`, `{hosts_file}`, `{listen}`,
//! `{peer:K}`. Each is replaced once; what it is replaced by is not looked at again, and other
//! braces stay. The same is in the environment: `QUORATE_INDEX`, `QUORATE_N`, `QUORATE_THRESHOLD`,
//! `QUORATE_PEERS` (`host:port` per line, IPv4, in the order of the parties), `QUORATE_LISTEN`,
//! `QUORATE_SESSION_DIR` (a private folder that is removed after the run).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::attach::Places;

/// An argument names a party that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{placeholder} in an argument names no other party: there are {parties}, from 0")]
pub struct PlaceholderRefusal {
    placeholder: String,
    parties: u16,
}

/// Whether every `{peer:K}` in `args` names one of `parties`.
pub fn check_placeholders(args: &[String], parties: u16) -> Result<(), PlaceholderRefusal> {
    for arg in args {
        let mut rest = arg.as_str();
        while let Some((_, after)) = rest.split_once("{peer:") {
            let Some((number, next)) = after.split_once('}') else {
                break;
            };
            if number.parse().is_ok_and(|k: u64| k >= u64::from(parties)) {
                return Err(PlaceholderRefusal {
                    placeholder: format!("{{peer:{number}}}"),
                    parties,
                });
            }
            rest = next;
        }
    }
    Ok(())
}

/// What a program of this engine is told.
#[derive(Debug)]
pub struct Told<'a> {
    /// Where everybody is.
    pub places: &'a Places,
    /// Parties that may pool what they see.
    pub threshold: u16,
    /// Private folder of the run.
    pub session_dir: &'a Path,
}

impl Told<'_> {
    /// The file that lists the parties; its content is [`Told::peers`].
    pub fn hosts_file(&self) -> PathBuf {
        self.session_dir.join("hosts")
    }

    /// One `host:port` a line, in the order of the parties.
    pub fn peers(&self) -> String {
        let lines = self.places.hosts.iter().map(|host| format!("{host}\n"));
        lines.collect()
    }

    /// The variables.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let places = self.places;
        vec![
            ("QUORATE_INDEX", places.me.to_string().into()),
            ("QUORATE_N", places.hosts.len().to_string().into()),
            ("QUORATE_THRESHOLD", self.threshold.to_string().into()),
            ("QUORATE_PEERS", self.peers().into()),
            ("QUORATE_LISTEN", places.listen().to_string().into()),
            ("QUORATE_SESSION_DIR", self.session_dir.into()),
        ]
    }

    /// An argument with its placeholders replaced.
    pub fn expand(&self, arg: &str) -> String {
        let mut out = String::new();
        let mut rest = arg;
        while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let name = rest.find('}').map(|end| &rest[1..end]);
            let known = name.and_then(|name| Some((self.value(name)?, name.len())));
            if let Some((value, length)) = known {
                out.push_str(&value);
                rest = &rest[length + 2..];
            } else {
                out.push('{');
                rest = &rest[1..];
            }
        }
        out + rest
    }

    fn value(&self, name: &str) -> Option<String> {
        let places = self.places;
        Some(match name {
            "index" => places.me.to_string(),
            "n" => places.hosts.len().to_string(),
            "threshold" => self.threshold.to_string(),
            "hosts_file" => self.hosts_file().to_str()?.to_owned(),
            "listen" => places.listen().to_string(),
            _ => {
                let party: usize = name.strip_prefix("peer:")?.parse().ok()?;
                places.hosts.get(party)?.to_string()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn places() -> Places {
        let host = |port| format!("127.0.0.1:{port}").parse().unwrap();
        Places {
            me: 1,
            hosts: vec![host(5000), host(5001), host(5002)],
        }
    }

    #[test]
    fn placeholders_are_replaced_once_and_other_braces_stay() {
        let places = places();
        let told = Told {
            places: &places,
            threshold: 1,
            session_dir: Path::new("/tmp/{n}"),
        };
        for (arg, expanded) in [
            ("{index}", "1"),
            ("--id={index}/{n}", "--id=1/3"),
            ("{listen}", "127.0.0.1:5001"),
            ("{peer:2}x{peer:0}", "127.0.0.1:5002x127.0.0.1:5000"),
            ("{hosts_file}", "/tmp/{n}/hosts"),
            ("{threshold}", "1"),
            ("{\"a\": {n}}", "{\"a\": 3}"),
            ("{", "{"),
            ("{}", "{}"),
            ("{unknown} {{index}", "{unknown} {1"),
            ("é{é}", "é{é}"),
        ] {
            assert_eq!(told.expand(arg), expanded, "{arg}");
        }
        assert_eq!(
            told.peers(),
            "127.0.0.1:5000\n127.0.0.1:5001\n127.0.0.1:5002\n"
        );
    }

    #[test]
    fn a_party_that_does_not_exist_is_refused() {
        let check = |arg: &str| check_placeholders(&[arg.to_owned()], 3);
        assert!(check("{peer:2}").is_ok());
        assert!(check("{peer:x} {peer:").is_ok());
        assert!(check("{peer:0}{peer:3}").is_err());
        assert!(check("{peer:99999999}").is_err());
    }
}
