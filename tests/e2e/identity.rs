//! `quorate id` and `quorate version`.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::world::{World, output};

#[test]
fn an_identity_is_made_at_first_use_and_private() {
    let world = World::new(&["alba"]);
    let mut again = world.quorate(0);
    again.args(["id"]);
    let again = output(again);
    assert_eq!(again.stdout.trim(), world.dids[0]);
    let key = world.home(0).join("data/identity/default.json");
    assert_eq!(
        fs::metadata(key).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn an_identity_moves_by_export_and_import_and_is_not_lost_by_accident() {
    let world = World::new(&["alba", "bo"]);
    let file = world.path("alba.key");
    let mut export = world.quorate(0);
    export.args(["id", "export", "--out"]).arg(&file);
    output(export).assert_done();
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let mut import = world.quorate(1);
    import.args(["id", "import"]).arg(&file);
    output(import).assert_refused("E_STATE", 76);
    let mut import = world.quorate(1);
    import.args(["id", "import", "--replace"]).arg(&file);
    let imported = output(import);
    imported.assert_done();
    assert_eq!(imported.stdout.trim(), world.dids[0]);

    let mut new = world.quorate(0);
    new.args(["id", "new"]);
    output(new).assert_refused("E_STATE", 76);
}

#[test]
fn version_tells_the_protocol() {
    let world = World::new(&["alba"]);
    let mut version = world.quorate(0);
    version.args(["version", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&output(version).stdout).unwrap();
    assert_eq!(report["protocol"], "quorate/1");
    assert_eq!(report["quorate"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn quorate_alone_shows_the_way() {
    let world = World::new(&["alba"]);
    let shown = output(world.quorate(0));
    shown.assert_done();
    for verb in ["demo", "invite", "join", "again", "status"] {
        assert!(
            shown.stderr.contains(&format!("quorate {verb}")),
            "{}",
            shown.stderr
        );
    }
}
