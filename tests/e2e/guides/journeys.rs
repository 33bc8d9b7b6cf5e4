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

#[test]
fn journey_f_every_failure_has_its_code_its_exit_code_and_its_next_step() {
    let budget = Budget {
        commands: 18,
        // One look at a program that was sent along.
        consents: 1,
        messages: 5,
    };
    run("when-it-fails.md", &budget);
}

#[test]
fn journey_b_strangers_on_three_machines_need_one_message() {
    let budget = Budget {
        commands: 3,
        // One of each guest to ask for a seat, one more for the face that is new to them, and two of the inviter.
        consents: 6,
        messages: 1,
    };
    run("three-machines.md", &budget);
}

#[test]
fn journey_c_again_takes_one_command_of_each() {
    let budget = Budget {
        // Nine to get to know each other, and three for each session.
        commands: 9 + 3 + 3,
        consents: 2,
        messages: 0,
    };
    run("again.md", &budget);
}
#[test]
fn journey_b_three_organizations_behind_three_nats_need_one_message() {
    let budget = Budget {
        // One of each party, and one of whoever runs the relay.
        commands: 4,
        consents: 6,
        messages: 2,
    };
    run("three-networks.md", &budget);
}

#[test]
fn a_relay_is_run_looked_at_stopped_and_kept_for_those_on_a_list() {
    let budget = Budget {
        // Three of the operator to run it, stop it and run it again for some; the rest looks at what it does.
        commands: 17,
        // As in journey b, and one to start the program.
        consents: 7,
        messages: 1,
    };
    run("relay.md", &budget);
}
