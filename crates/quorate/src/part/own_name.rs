//! What this user calls itself: asked once, kept with the identity.

use quorate_identity::Code;
use quorate_node::files::MAX_NAME_CHARS;

use super::User;
use crate::{consent::Terminal, failure::Failure, text};

/// Characters of the DID in the name of somebody who has none.
const DID_CHARS: usize = 4;

/// The name that others will see: the one given, the one kept, or the answer of the person at the
/// terminal, which is kept. Where nobody can be asked it says no more than the DID does.
pub async fn own_name(user: &mut User<'_>, given: Option<&str>) -> Result<String, Failure> {
    if let Some(name) = given {
        return check(name).map(|()| name.to_owned());
    }
    if let Some(name) = &user.identity.name {
        return Ok(name.clone());
    }
    let did = user.identity.key.did();
    let last = did.as_str().len().saturating_sub(DID_CHARS);
    let fallback = format!("party-{}", &did.as_str()[last..]);
    let Some(mut terminal) = Terminal::open(user.global).filter(|_| !user.global.json) else {
        return Ok(fallback);
    };
    let suggestion = account().unwrap_or(fallback);
    let question =
        format!("What do you call yourself? The others see it. [Enter for {suggestion:?}]  ");
    let answer = user
        .unless_stopped(async { Ok(terminal.ask(&question).await) })
        .await?;
    let name = match answer.as_deref() {
        None => return Err(Failure::new(Code::Declined, "no name was given")),
        Some("") => suggestion,
        Some(name) => name.to_owned(),
    };
    check(&name)?;
    user.identity.name = Some(name.clone());
    user.identity.replace(&user.home)?;
    Ok(name)
}

/// `anna@lab7`, where both are known and plain.
fn account() -> Option<String> {
    let user = std::env::var("USER").ok().filter(|u| !u.is_empty())?;
    let host = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    let name = format!("{user}@{host}");
    check(&name).is_ok().then_some(name)
}

fn check(name: &str) -> Result<(), Failure> {
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name != text::name(name) {
        return Err(Failure::new(
            Code::Usage,
            format!("a name is 1 to {MAX_NAME_CHARS} plain characters"),
        ));
    }
    Ok(())
}
