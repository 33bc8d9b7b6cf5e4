//! The process that `--detach` starts; not for people.

use std::process::ExitCode;

use crate::{
    args::Global,
    failure::Failure,
    invitation::received,
    part::{Consent, Invited, Orders, keep_on_hangup, take_part, with_user},
};

pub fn run(global: &Global) -> Result<ExitCode, Failure> {
    let orders = Orders::read(std::io::stdin().lock())?;
    // The memory that they came in holds secrets; it is emptied now that they are read.
    let _ = rustix::fs::ftruncate(std::io::stdin(), 0);
    // A session of its own: no terminal can end it. It fails only for who has one already.
    let _ = rustix::process::setsid();
    keep_on_hangup();
    with_user(global, false, async |user| {
        let received = received(&orders.bundle)?;
        let options = orders.options()?;
        let Some(bundle) = received.bundle else {
            return Err(Failure::new(
                quorate_identity::Code::Internal,
                "the orders have no bundle",
            ));
        };
        let invited = Invited {
            invitation: received.invitation,
            bundle,
            claims: orders.claims.clone(),
            delivery: None,
            control: None,
            program: None,
        };
        take_part(&user, invited, options, Consent::Ask).await
    })
}
