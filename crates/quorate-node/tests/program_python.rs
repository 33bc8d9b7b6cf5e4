//! Finding a Python, and making an environment for one that lacks MPyC.

#![allow(clippy::panic)]

mod attach_support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use quorate_identity::Code;
use quorate_node::program::environment::{EnvironmentError, Step, prepare};
use quorate_node::program::python::{OLDEST, Search, Version, find, probe};
use quorate_node::program::{PythonError, PythonRuntime};

/// A file that calls itself Python and answers with `answer`.
fn fake(folder: &Path, name: &str, script: &str) -> PathBuf {
    std::fs::create_dir_all(folder).expect("a folder");
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    path
}

fn answer(version: &str, mpyc: &str) -> String {
    format!(
        r#"echo '{{"executable":"'$0'","version":[{version}],"word":64,"mpyc":{mpyc},"ensurepip":true}}'"#
    )
}

fn only(folders: &[&Path]) -> Search {
    let path = std::env::join_paths(folders).expect("no colon in them");
    Search {
        explicit: None,
        virtual_env: None,
        path: Some(path),
    }
}

#[tokio::test]
async fn a_real_python_says_what_it_is() {
    let path = attach_support::python();
    let search = Search {
        explicit: Some(path.clone()),
        ..Search::default()
    };
    let runtime = find(&search).await.expect("it is there");
    assert_eq!(runtime.path, path);
    assert!(runtime.version >= OLDEST);
    assert_eq!(runtime.require_mpyc(), Ok("0.11"));
    assert_eq!(runtime.word, 64);
}

#[tokio::test]
async fn no_python_names_what_was_tried_and_one_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = find(&only(&[folder.path()]))
        .await
        .expect_err("an empty folder");
    assert_eq!(error, PythonError::NoPython { tried: vec![] });
    assert_eq!(error.code(), Code::NoPython);
    assert_eq!(error.to_string(), "no Python 3.10 or newer was found");
    assert!(error.fix().contains("install"), "{}", error.fix());

    let old = fake(folder.path(), "python3", &answer("3, 9, 19", "null"));
    let error = find(&only(&[folder.path()])).await.expect_err("too old");
    assert_eq!(error.code(), Code::NoPython);
    let text = error.to_string();
    assert!(text.contains(old.to_str().expect("UTF-8")), "{text}");
    assert!(text.contains("Python 3.9.19 is too old"), "{text}");
}

#[tokio::test]
async fn explicit_goes_first_then_the_active_environment_then_the_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let explicit = fake(&at("x"), "mypython", &answer("3, 10, 0", "null"));
    let active = fake(&at("venv/bin"), "python", &answer("3, 11, 0", "null"));
    fake(&at("broken"), "python3", "exit 9");
    fake(&at("old"), "python3", &answer("3, 9, 21", "\"0.11\""));
    let good = fake(&at("good"), "python3", &answer("3, 12, 1", "\"0.11\""));
    fake(&at("broken"), "python", &answer("3, 13, 0", "\"0.11\""));
    let mut search = only(&[&at("broken"), &at("old"), &at("good")]);
    assert_eq!(find(&search).await.map(|found| found.path), Ok(good));
    search.virtual_env = Some(at("venv"));
    let found = find(&search).await.expect("the active one");
    assert_eq!((&found.path, found.version), (&active, Version(3, 11, 0)));
    let missing = found.require_mpyc().expect_err("it has none");
    assert_eq!(missing.code(), Code::NoMpyc);
    assert_eq!(
        missing.fix(),
        format!("{} -m pip install mpyc==0.11", active.display())
    );
    search.explicit = Some(explicit.clone());
    assert_eq!(find(&search).await.map(|found| found.path), Ok(explicit));
    search.explicit = Some(at("x/none"));
    assert!(find(&search).await.is_err(), "it must not look elsewhere");
}

#[tokio::test]
async fn things_that_are_no_python_are_said_to_be_none() {
    let folder = tempfile::tempdir().expect("a folder");
    for (script, why) in [
        ("echo hello", "does not answer like a Python"),
        ("echo sorry >&2; exit 4", "sorry"),
        ("yes | head -c 1000000", "does not answer like a Python"),
    ] {
        let path = fake(folder.path(), "python3", script);
        let unsuitable = probe(&path).await.expect_err("no Python");
        assert!(unsuitable.why.contains(why), "{unsuitable}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_python_that_does_not_answer_is_given_up_and_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = fake(folder.path(), "python3", "sleep 1000 & wait");
    let unsuitable = probe(&path).await.expect_err("it never answers");
    assert_eq!(unsuitable.why, "timed out");
}

#[tokio::test]
async fn an_environment_is_made_once_used_again_and_mended() {
    let data = tempfile::tempdir().expect("a folder");
    let base = probe(&attach_support::python()).await.expect("it works");
    let prepared = |steps: &'static str| {
        let (base, data) = (base.clone(), data.path().to_owned());
        async move {
            let mut seen = Vec::new();
            let runtime = prepare(&data, &base, |step| seen.push(step)).await;
            let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
            assert!(runtime.path.starts_with(&data));
            assert_eq!(runtime.mpyc.as_deref(), Some("0.11"));
            let seen: Vec<_> = seen
                .into_iter()
                .map(|step| match step {
                    Step::Waiting => 'w',
                    Step::Creating => 'c',
                    Step::Installing => 'i',
                })
                .collect();
            (seen, steps, runtime)
        }
    };
    // Two at once: one makes it, the other waits and uses it.
    let (one, two) = tokio::join!(prepared("ci"), prepared("w"));
    let mut seen = [String::from_iter(one.0), String::from_iter(two.0)];
    seen.sort_unstable();
    assert_eq!(seen, [one.1, two.1]);
    let home: &PythonRuntime = &one.2;
    let home = home
        .path
        .ancestors()
        .nth(2)
        .expect("HOME/bin/python")
        .to_owned();
    let folder = std::fs::metadata(home.parent().expect("python/")).expect("it is there");
    assert_eq!(folder.mode() & 0o777, 0o700);

    let (seen, ..) = prepared("").await;
    assert!(seen.is_empty(), "an intact environment is used again");

    std::fs::remove_file(home.join("quorate-ready")).expect("it is there");
    std::fs::write(home.join("rubbish"), "").expect("written");
    let (seen, ..) = prepared("").await;
    assert_eq!(seen, ['c', 'i'], "an interrupted one is made anew");
    assert!(!home.join("rubbish").exists());

    std::fs::remove_file(home.join("bin/python")).expect("it is there");
    let (seen, ..) = prepared("").await;
    assert_eq!(seen, ['c', 'i'], "a broken one is made anew");
}

#[tokio::test]
async fn a_python_that_cannot_make_environments_names_the_missing_package() {
    let data = tempfile::tempdir().expect("a folder");
    let mut base = probe(&attach_support::python()).await.expect("it works");
    base.ensurepip = false;
    base.version = Version(3, 11, 2);
    let error = prepare(data.path(), &base, |_| {})
        .await
        .expect_err("it cannot");
    assert!(
        matches!(error, EnvironmentError::NoEnsurePip(..)),
        "{error}"
    );
    assert_eq!(error.code(), Code::NoMpyc);
    assert_eq!(error.fix(), "sudo apt install python3.11-venv");
}

#[tokio::test]
async fn a_failing_installation_says_why_and_leaves_nothing_that_counts() {
    let data = tempfile::tempdir().expect("a folder");
    // Makes an environment whose Python cannot install anything.
    let script = r#"mkdir -p "$4/bin"; printf '#!/bin/sh\necho "no such index" >&2; exit 1\n' > "$4/bin/python"; chmod +x "$4/bin/python""#;
    let path = fake(data.path(), "python3", &script.replace("$4", "$3"));
    let base = PythonRuntime {
        path,
        version: Version(3, 11, 0),
        mpyc: None,
        word: 64,
        ensurepip: true,
    };
    let error = prepare(data.path(), &base, |_| {})
        .await
        .expect_err("it fails");
    assert_eq!(error.to_string(), "cannot install MPyC 0.11: no such index");
    assert!(
        !data
            .path()
            .join("python/mpyc-0.11-cp3.11/quorate-ready")
            .exists()
    );
}
