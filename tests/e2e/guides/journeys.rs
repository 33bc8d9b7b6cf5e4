//! The guides, each with the steps that its journey may take.

use super::{Budget, run};

#[test]
fn journey_a_the_first_session_takes_one_command_after_installing() {
    let budget = Budget {
        commands: 1,
        consents: 0,
        messages: 0,
    };
    run("first-session.md", &budget);
}
