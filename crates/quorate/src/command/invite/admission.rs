//! `--admit`: who gets a seat without a question.

use quorate_identity::Did;

use crate::{command::contacts::parse_did, failure::Failure};

/// What was said beforehand.
#[derive(Debug, Default)]
pub struct Admission {
    all: bool,
    listed: Vec<(Did, Option<String>)>,
}

/// What becomes of an application.
#[derive(Debug, PartialEq, Eq)]
pub enum Rule {
    /// It is admitted, under this name if one was given.
    Admit(Option<String>),
    /// It is refused.
    Refuse,
    /// The person decides.
    Ask,
}

impl Admission {
    /// Reads the values of `--admit`: `all`, `DID`, `NAME=DID`.
    pub fn parse(words: &[String]) -> Result<Self, Failure> {
        let mut admission = Self::default();
        for word in words {
            if word == "all" {
                admission.all = true;
                continue;
            }
            let (name, did) = match word.split_once('=') {
                Some((name, did)) => (Some(name.to_owned()), did),
                None => (None, word.as_str()),
            };
            if let Some(name) = &name {
                quorate_node::files::check_petname(name).map_err(quorate_node::Fault::from)?;
            }
            admission.listed.push((parse_did(did)?, name));
        }
        Ok(admission)
    }

    /// Whether a person is needed.
    pub fn asks_somebody(&self) -> bool {
        !self.all && self.listed.is_empty()
    }

    /// A list is complete: who is not on it is refused.
    pub fn about(&self, did: &Did) -> Rule {
        match self.listed.iter().find(|(listed, _)| listed == did) {
            Some((_, name)) => Rule::Admit(name.clone()),
            None if self.all => Rule::Admit(None),
            None if self.listed.is_empty() => Rule::Ask,
            None => Rule::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_list_admits_by_name_and_refuses_others() {
        let did = |seed: u8| quorate_identity::SigningKey::from_seed(&[seed; 32]).did();
        let list = Admission::parse(&[format!("sud={}", did(1)), did(2).to_string()]).unwrap();
        assert_eq!(list.about(&did(1)), Rule::Admit(Some("sud".into())));
        assert_eq!(list.about(&did(2)), Rule::Admit(None));
        assert_eq!(list.about(&did(3)), Rule::Refuse);
        assert_eq!(Admission::parse(&[]).unwrap().about(&did(1)), Rule::Ask);
        let all = Admission::parse(&["all".into(), format!("sud={}", did(1))]).unwrap();
        assert_eq!(all.about(&did(1)), Rule::Admit(Some("sud".into())));
        assert_eq!(all.about(&did(3)), Rule::Admit(None));
        assert!(Admission::parse(&["everybody".into()]).is_err());
        assert!(Admission::parse(&[format!("a b={}", did(1))]).is_err());
    }
}
