//! The own contact card: the DID, the name and the key to seal invitations to.

use quorate_identity::{SigningKey, sign};
use quorate_session::{SealSecret, limits::MAX_CARD_SECONDS, message::card};

use super::User;
use crate::{command::invite::random, failure::Failure, invitation::now};

/// The card of this user under `name`, as text. It can be made again at any time: the seal key comes
/// from the identity.
pub fn own_card(user: &User<'_>, name: &str) -> Result<String, Failure> {
    card_of(&user.identity.key, name)
}

/// The card of `key` under `name`.
pub fn card_of(key: &SigningKey, name: &str) -> Result<String, Failure> {
    let from = now();
    let card = card(
        key.did(),
        name.to_owned(),
        SealSecret::of(key).public(),
        random()?,
        from,
        from.plus_seconds(MAX_CARD_SECONDS),
    )?;
    Ok(sign(card, key)?.text().to_string())
}
