//! The vectors of `schemas/v1/vectors`: each is held against the schema and against the reader, the setup or the session
//! that it is for; and every refusal that `docs/protocol.md` describes has one, or a test that shows it.
//!
//! The stored files are what is tested. `cargo xtask vectors` makes them again from fixed seeds.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../schema_set/mod.rs"]
mod schema_set;

mod coverage;
mod judge;
mod make;
mod protocol;
mod vector;

use judge::{Verdict, judge, schema_says};
use schema_set::Schemas;
use std::{collections::BTreeSet, env, fs};
use vector::{SchemaSays, Vector, file_text, stored, stored_context, vectors_folder};

/// Set by `cargo xtask vectors`: write the vectors instead of comparing them.
const WRITE: &str = "QUORATE_WRITE_VECTORS";

/// The verdict as code, rule and words; nothing if it was taken.
fn outcome(verdict: &Verdict) -> Option<(String, Option<&'static str>, &str)> {
    match verdict {
        Verdict::Taken => None,
        Verdict::Refused(rejection) => Some((
            rejection.code.to_string(),
            Some(rejection.rule),
            &rejection.detail,
        )),
        Verdict::Ended(code, detail) => Some((code.to_string(), None, detail)),
    }
}

/// What is wrong with the verdict on a vector, if anything.
fn judged_wrongly(
    vector: &Vector,
    verdict: &Verdict,
    refusals: &[protocol::Refusal],
) -> Option<String> {
    let (wanted, got) = (&vector.refused, outcome(verdict));
    let (Some(wanted), Some((code, rule, detail))) = (wanted, &got) else {
        return (wanted.is_some() != got.is_some())
            .then(|| format!("wanted {wanted:?}, got {got:?}"));
    };
    let main = wanted.rule.split('.').next().unwrap();
    let as_wanted = wanted.code == *code
        && wanted.ends == rule.is_none()
        && rule.is_none_or(|rule| rule == main || rule == wanted.rule);
    let described = refusals.iter().any(|refusal| {
        refusal.rule == wanted.rule && refusal.code == *code && refusal.is_shown_by(detail)
    });
    if !as_wanted {
        return Some(format!("wanted {wanted:?}, got {got:?}"));
    }
    (!described).then(|| {
        format!(
            "docs/protocol.md, {}: {code} {detail:?} is not there",
            wanted.rule
        )
    })
}

#[test]
fn every_vector_is_judged_as_it_says() {
    let (context, refusals, schemas) = (
        stored_context(),
        protocol::refusals(&protocol::text()),
        Schemas::load(),
    );
    let mut wrong = Vec::new();
    for (name, vector) in stored() {
        let says = schema_says(&vector, &schemas);
        if says != vector.schema {
            wrong.push(format!("{name}: the schema {says:?}"));
        }
        let verdict = judge(&vector, &context);
        wrong.extend(
            judged_wrongly(&vector, &verdict, &refusals).map(|why| format!("{name}: {why}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_stored_vectors_are_the_ones_that_are_made() {
    let (context, vectors) = make::all();
    let folder = vectors_folder();
    let mut texts: Vec<(String, String)> = vectors
        .iter()
        .map(|vector| (vector.name.clone(), file_text(vector)))
        .collect();
    texts.push(("context".into(), file_text(&context)));
    let names: BTreeSet<&String> = texts.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), texts.len(), "a name stands twice");
    if env::var_os(WRITE).is_some() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in &texts {
            fs::write(folder.join(format!("{name}.json")), text).unwrap();
        }
    }
    for (name, text) in &texts {
        let there = fs::read_to_string(folder.join(format!("{name}.json"))).unwrap_or_default();
        assert!(
            there == *text,
            "{name} is not up to date: cargo xtask vectors"
        );
    }
    for name in stored().keys() {
        assert!(
            names.contains(name),
            "{name} is not made any more: cargo xtask vectors"
        );
    }
}

#[test]
fn names_begin_with_the_code_and_there_are_enough_of_each_type() {
    let schemas = Schemas::load();
    let vectors = stored();
    for (name, vector) in &vectors {
        let code = vector
            .refused
            .as_ref()
            .map_or("OK", |refused| &refused.code);
        assert!(
            name.starts_with(&format!("{code}-{}-", vector.what.to_lowercase())),
            "{name}"
        );
        assert!(vector.about.ends_with('.'), "{name}: {}", vector.about);
        let taken_against_schema = vector.refused.is_none() && vector.schema == SchemaSays::Refuses;
        assert!(
            !taken_against_schema,
            "{name}: what is taken fits its schema"
        );
        schemas.assert_takes("vector", &serde_json::to_value(vector).unwrap());
    }
    let invalid = vectors.values().filter(|vector| vector.refused.is_some());
    assert!(invalid.clone().count() >= 150, "{}", invalid.count());
    for what in make::STATEMENTS.iter().chain(&["frame", "bundle"]) {
        let of_type = |refused: bool| {
            vectors
                .values()
                .filter(move |v| v.what == *what && v.refused.is_some() == refused)
                .count()
        };
        assert!(
            of_type(true) >= 10 && of_type(false) >= 1,
            "{what}: {}",
            of_type(true)
        );
    }
}
