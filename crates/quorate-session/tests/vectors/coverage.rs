//! Every refusal that `docs/protocol.md` describes has a vector, or a test that is named here because no bytes can show it;
//! every code has a rule, or a test that shows it to a user.

use crate::{
    judge::judge,
    outcome,
    protocol::{self, reads_as},
    vector::{stored, stored_context},
};
use quorate_identity::Code;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Refusals that depend on something other than bytes: rule, beginning of the words, a test that shows it.
const NOT_BY_BYTES: &[(&str, &str, &str)] = &[
    // Only whoever signs meets these.
    (
        "J1",
        "the statement would be",
        "a12_limits_and_a26_thresholds_are_refused_before_signing",
    ),
    ("J6", "the issuer is not", "nobody_signs_in_another_name"),
    (
        "S3.2",
        "too many parties",
        "a12_invitations_beyond_the_limits_are_refused",
    ),
    // Keys are refused where people choose them; tests use them.
    ("K2", "the secret key of", "keys_of_rfc_8032_are_known"),
    (
        "S3.3",
        "the engine exec has",
        "exec_says_nothing_about_mpyc",
    ),
    // What a user does not do.
    (
        "S8.4",
        "it was not started",
        "a_holder_that_says_nothing_ends_the_session_when_the_time_to_start_is_over",
    ),
    // What a resolver answers.
    (
        "J6",
        "resolved keys are",
        "a_foreign_document_never_verifies",
    ),
    (
        "D2",
        "did:key did not",
        "a_did_key_resolves_to_its_own_key_for_both_uses",
    ),
    (
        "D2",
        "the document does not",
        "a_did_key_resolves_to_its_own_key_for_both_uses",
    ),
    // The own machine: program, clock, disk.
    (
        "S3.14",
        "manifest cannot",
        "digest_is_the_sha256_of_the_canonical_rows",
    ),
    (
        "S3.16",
        "the program has no",
        "a59_links_devices_and_missing_entries_are_refused",
    ),
    (
        "S3.19",
        "your program",
        "a27_a_program_that_differs_is_refused_before_anything_is_installed",
    ),
    (
        "S4.13",
        "this machine's clock",
        "an_epoch_is_higher_than_any_before_and_a_clock_far_behind_is_named",
    ),
    (
        "S6.1",
        "the session's record",
        "f27_what_cannot_be_stored_is_never_signed",
    ),
    (
        "S6.1",
        "storing the",
        "f27_what_cannot_be_stored_is_never_signed",
    ),
    ("S6.7", "roster cannot", "larger_groups_agree_too"),
    (
        "S8.7",
        "its program ended",
        "a55_a_program_that_fails_stops_all_and_its_party_is_named",
    ),
    // Many links at once.
    (
        "S5.9",
        "has more links",
        "a_party_gets_no_fifth_link_and_is_not_banned_for_it",
    ),
    // Refused earlier by another rule; the check is there so that no single mistake lets it through.
    (
        "C1",
        "nobody approved",
        "nothing_is_sent_and_nobody_is_asked_before_the_user_approved",
    ),
    (
        "C2",
        "not all parties",
        "a17_a_join_that_never_comes_is_missing_by_name",
    ),
    (
        "C2",
        "the join at",
        "a22_a_join_of_another_session_or_an_older_epoch_is_stale",
    ),
    (
        "C4",
        "our own entry",
        "a18_a_second_instance_of_one_identity_stops_both",
    ),
    (
        "C8",
        "the organizer cancelled",
        "f39_the_issuer_cancels_in_every_phase",
    ),
    (
        "C9",
        "the join is signed",
        "every_vector_is_judged_as_it_says",
    ),
    (
        "S7.4",
        "its KEM key",
        "a29_a_join_without_the_hybrid_kem_is_refused",
    ),
    (
        "S8.2",
        "a ready is not",
        "a_ready_outside_the_tunnel_does_not_count",
    ),
    // What the organizer's own command refuses.
    (
        "S9.2",
        "only the organizer",
        "a32_only_the_organizer_can_cancel",
    ),
    // Time passes.
    (
        "S8.5",
        "no tunnel",
        "a_mesh_that_never_works_ends_at_the_latest_start",
    ),
    (
        "S8.5",
        "… was not ready",
        "a_mesh_that_never_works_ends_at_the_latest_start",
    ),
    (
        "S8.6",
        "nothing was heard",
        "f05_silence_of_a_running_party_stops_the_others_and_names_it",
    ),
    (
        "S8.8",
        "the latest end",
        "f40_the_latest_end_aborts_a_running_computation",
    ),
    (
        "S9.8",
        "it joined again",
        "f06_a_party_that_comes_back_after_one_other_ended_ends_the_run_for_all",
    ),
    // First contact: what depends on more than one message is shown by its own tests.
    (
        "F1",
        "a ticket carries",
        "addresses_that_do_not_fit_are_refused",
    ),
    (
        "F1",
        "… is no address",
        "addresses_that_do_not_fit_are_refused",
    ),
    (
        "F2",
        "the call is valid",
        "calls_beyond_their_limits_are_refused",
    ),
    (
        "F2",
        "the session would",
        "calls_beyond_their_limits_are_refused",
    ),
    (
        "F2",
        "a call lists no",
        "calls_beyond_their_limits_are_refused",
    ),
    (
        "F5",
        "a second request",
        "garbage_ends_its_link_and_nothing_else",
    ),
    (
        "F5",
        "an application came",
        "an_application_before_the_call_was_asked_for_is_refused",
    ),
    (
        "F5",
        "a frame came",
        "garbage_ends_its_link_and_nothing_else",
    ),
    (
        "F5",
        "an answer to",
        "an_answer_to_another_invitation_is_refused",
    ),
    ("F5", "the inviter sends", "a_host_that_floods_is_left"),
    ("F5", "sends more frames", "a_flood_of_frames_ends_the_link"),
    (
        "F5",
        "sends a larger",
        "garbage_ends_its_link_and_nothing_else",
    ),
    ("F6", "", "a_call_that_the_ticket_does_not_name_is_refused"),
    (
        "F7",
        "",
        "an_application_from_another_connection_is_refused",
    ),
    (
        "F8",
        "",
        "an_invitation_with_other_terms_is_refused_with_what_differs",
    ),
    (
        "F9",
        "",
        "an_offer_by_a_stranger_and_frames_out_of_order_are_refused",
    ),
    ("F10", "", "a_changed_text_or_list_of_readers_is_refused"),
    // Rendezvous records: a place and its keys belong to each.
    (
        "S13.1",
        "",
        "a41_false_old_oversized_and_ten_thousand_answers_are_refused_and_bounded",
    ),
    (
        "S13.2",
        "",
        "a43_nobody_without_the_secret_writes_or_overwrites_a_record",
    ),
    (
        "S13.3",
        "",
        "a44_records_of_another_hour_or_session_are_not_used",
    ),
    (
        "S13.4",
        "",
        "a43_nobody_without_the_secret_writes_or_overwrites_a_record",
    ),
    ("S13.5", "", "what_is_sealed_with_another_key_is_refused"),
    (
        "S13.7",
        "the whereabouts do not fit",
        "addresses_that_do_not_fit_are_left_out_from_the_end",
    ),
    (
        "S13.8",
        "the whereabouts are those",
        "a43_an_insider_who_writes_for_another_party_is_not_believed",
    ),
    (
        "S13.8",
        "the whereabouts are signed",
        "what_a_key_that_is_not_pinned_signs_is_not_used",
    ),
    (
        "S13.9",
        "",
        "a44_records_of_another_hour_or_session_are_not_used",
    ),
    // What networks allow.
    ("N13", "no path that", "what_the_parties_agreed_on_is_kept"),
    // What relays say about themselves.
    (
        "S12",
        "",
        "an_announcement_beyond_its_limits_or_of_another_form_is_refused",
    ),
    // What a relay with a list asks, and answers.
    (
        "S14.1",
        "a pass",
        "a_pass_of_somebody_else_for_something_else_or_of_another_time_is_refused",
    ),
    ("S14.1", "the relay's answer", "an_answer_is_a_code_or_ok"),
    ("S14.3", "", "only_a_did_that_says_its_key_can_be_shown"),
    (
        "S14.4",
        "",
        "a_pass_of_somebody_else_for_something_else_or_of_another_time_is_refused",
    ),
    (
        "S14.5",
        "",
        "a_pass_of_somebody_else_for_something_else_or_of_another_time_is_refused",
    ),
    // Two records that meet.
    (
        "R3",
        "a record of another",
        "what_one_copy_lacks_another_one_adds",
    ),
    (
        "R3",
        "the kept record",
        "a_record_of_a_run_that_was_not_done_leads_to_a_new_start",
    ),
];

/// Codes of a machine, a person or a command, which no rule of the protocol raises: code, a test that shows it.
const NOT_BY_RULES: &[(Code, &str)] = &[
    (
        Code::NoPython,
        "no_python_names_what_was_tried_and_one_command",
    ),
    (Code::Contact, "a_name_means_one_person"),
    (
        Code::Left,
        "leave_ends_the_session_for_all_within_seconds_and_names_who_left",
    ),
    (Code::NoMpyc, "no_python_and_no_mpyc"),
];

#[test]
fn every_refusal_in_the_protocol_has_a_vector_or_a_test() {
    let context = stored_context();
    let mut shown = BTreeSet::new();
    let refusals = protocol::refusals(&protocol::text());
    for (_, vector) in stored() {
        let verdict = judge(&vector, &context);
        let (Some(wanted), Some((code, _, detail))) = (&vector.refused, outcome(&verdict)) else {
            continue;
        };
        shown.extend(refusals.iter().filter(|refusal| {
            refusal.rule == wanted.rule && refusal.code == code && refusal.is_shown_by(detail)
        }));
    }
    let tests = tests();
    let mut missing = Vec::new();
    let mut used = BTreeSet::new();
    for refusal in &refusals {
        let by_test = NOT_BY_BYTES
            .iter()
            .find(|(rule, words, _)| refusal.rule == *rule && refusal.words.starts_with(words));
        match by_test {
            Some(entry) if !shown.contains(refusal) => {
                used.insert(entry.2);
                if !tests.contains(entry.2) {
                    missing.push(format!("{}: there is no test {}", refusal.rule, entry.2));
                }
            }
            Some(_) => missing.push(format!(
                "{} {:?} has a vector and an exception",
                refusal.rule, refusal.words
            )),
            None if shown.contains(refusal) => {}
            None => missing.push(format!(
                "{} {} {:?} has no vector",
                refusal.rule, refusal.code, refusal.words
            )),
        }
    }
    for (rule, words, test) in NOT_BY_BYTES {
        if !used.contains(test) {
            missing.push(format!("{rule} {words:?} is no refusal any more"));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_code_has_a_rule_or_a_test() {
    let text = protocol::text();
    let rules = text.split("\n## 14 ").next().unwrap();
    let tests = tests();
    let exceptions: BTreeMap<Code, &str> = NOT_BY_RULES.iter().copied().collect();
    let mut missing = Vec::new();
    for code in Code::ALL {
        let in_rules = rules.contains(&format!("`{code}`"));
        match exceptions.get(code) {
            Some(_) if in_rules => {
                missing.push(format!("{code} has a rule and an exception"));
            }
            Some(test) if !tests.contains(*test) => {
                missing.push(format!("{code}: there is no test {test}"));
            }
            None if !in_rules => {
                missing.push(format!("{code} stands in no rule"));
            }
            _ => {}
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The names of all tests of the workspace.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut names = BTreeSet::new();
    for folder in ["crates", "tests"] {
        collect(&root.join(folder), &mut names);
    }
    names
}

fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                } else if let Some(name) = line
                    .strip_prefix("async ")
                    .unwrap_or(line)
                    .strip_prefix("fn ")
                {
                    if is_test {
                        names.insert(name.split('(').next().unwrap().to_owned());
                    }
                    is_test = false;
                }
            }
        }
    }
}

#[test]
fn a_missing_vector_is_noticed() {
    let document = "### X1 Of a test\n\n*Refused as* `E_SIG` \"never … so\". *Checked in* nowhere.\n| S99.1 | a | `E_TIME` \"late\" | b |\n";
    let found = protocol::refusals(document);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(reads_as("never ever so", &found[0].words) && !reads_as("never", &found[0].words));
    assert_eq!(
        (found[1].rule.as_str(), found[1].code.as_str()),
        ("S99.1", "E_TIME")
    );
}
