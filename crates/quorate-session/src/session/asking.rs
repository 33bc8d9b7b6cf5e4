//! Asking for announced statements: one link at a time, so that a large group does not send
//! everybody everything many times over.
//!
//! ```text
//! have(D) on link a ─► want(D) to a ── D arrives ─► done
//! have(D) on link b ─► b is noted     no D for ASK_WAIT, or a goes down ─► want(D) to b, …
//! ```
//! Whoever announces and does not deliver costs [`ASK_WAIT`], once per link of theirs: all others
//! that announced are asked before they are asked again.
//!
//! Limits: [`MAX_ASKED`] statements asked for at a time, with [`MAX_LINKS`] links each; beyond
//! it every link that announces is asked at once.

use super::Session;
use crate::{
    limits::{ASK_WAIT, MAX_ASKED, MAX_DIGESTS, MAX_LINKS},
    link::{Frame, LinkId},
};
use quorate_identity::Digest;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

/// A statement that was asked for.
pub(super) struct Asked {
    /// Who was asked last.
    link: LinkId,
    /// The next one is asked then.
    until: Instant,
    /// Who else announced it, in this order.
    others: VecDeque<LinkId>,
}

impl Session {
    /// The other end of `link` has these.
    pub(super) fn handle_have(&mut self, link: LinkId, digests: &[Digest], now: Instant) {
        let mut wanted = Vec::new();
        for digest in digests {
            if !self.ledger.wants(digest) {
                continue;
            }
            if let Some(asked) = self.asked.get_mut(digest) {
                if asked.link != link
                    && asked.others.len() < MAX_LINKS
                    && !asked.others.contains(&link)
                {
                    asked.others.push_back(link);
                }
                continue;
            }
            if self.asked.len() < MAX_ASKED {
                let asked = Asked {
                    link,
                    until: now + ASK_WAIT,
                    others: VecDeque::new(),
                };
                self.asked.insert(*digest, asked);
            }
            wanted.push(*digest);
        }
        self.want(link, &wanted);
    }

    /// When the next link has to be asked.
    pub(super) fn asking_timeout(&self) -> Option<Instant> {
        self.asked.values().map(|asked| asked.until).min()
    }

    /// Asks the next link for what did not come.
    pub(super) fn ask_others(&mut self, now: Instant) {
        if self.asking_timeout().is_none_or(|at| at > now) {
            return;
        }
        let mut wants: BTreeMap<LinkId, Vec<Digest>> = BTreeMap::new();
        let (links, ledger) = (&self.links, &self.ledger);
        self.asked.retain(|digest, asked| {
            if asked.until > now {
                return true;
            }
            if !ledger.wants(digest) {
                return false;
            }
            let proven = |link: &LinkId| links.get(link).is_some_and(|l| l.proven().is_some());
            while let Some(next) = asked.others.pop_front() {
                if proven(&next) {
                    wants.entry(next).or_default().push(*digest);
                    asked.link = next;
                    asked.until = now + ASK_WAIT;
                    return true;
                }
            }
            // Whoever announces it again is asked.
            false
        });
        for (link, digests) in wants {
            self.want(link, &digests);
        }
    }

    /// A link is gone: what it was asked for is asked of others at once.
    pub(super) fn ask_instead_of(&mut self, link: LinkId, now: Instant) {
        for asked in self.asked.values_mut().filter(|asked| asked.link == link) {
            asked.until = asked.until.min(now);
        }
    }

    fn want(&mut self, link: LinkId, digests: &[Digest]) {
        for chunk in digests.chunks(MAX_DIGESTS) {
            let digests = chunk.to_vec();
            self.transmit(link, &Frame::Want { digests });
        }
    }
}
