//! What a node keeps: rendezvous records that are what they should be, and nothing else.
//!
//! The store checks, not the owner of the swarm: a record that is refused is not acknowledged either.
//!
//! Limits: so many records as it is made for; of a full shelf the record goes that would expire first.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, hash_map},
    iter,
    time::{Duration, Instant},
};

use libp2p::{
    PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};
use quorate_session::{
    limits::RENDEZVOUS_LIFETIME_SECONDS,
    rendezvous::{check_value, may_replace},
};

use crate::party::clock;

/// A store of checked records.
pub(in crate::overlay) struct Shelf {
    most: usize,
    records: HashMap<RecordKey, Record>,
    /// By the time they expire.
    order: BTreeSet<(Instant, Vec<u8>)>,
    refused: u64,
}

impl Shelf {
    pub fn new(most: usize) -> Self {
        Self {
            most,
            records: HashMap::new(),
            order: BTreeSet::new(),
            refused: 0,
        }
    }

    /// Records kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Records that were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn check(&self, record: &Record) -> std::result::Result<(), quorate_identity::Rejection> {
        check_value(record.key.as_ref(), &record.value, clock::wall())?;
        match self.records.get(&record.key) {
            Some(old) => may_replace(&old.value, &record.value),
            None => Ok(()),
        }
    }

    fn take_out(&mut self, key: &RecordKey) {
        if let Some(old) = self.records.remove(key)
            && let Some(expires) = old.expires
        {
            self.order.remove(&(expires, key.to_vec()));
        }
    }

    fn make_room(&mut self, now: Instant) {
        while let Some((expires, key)) = self.order.first().cloned() {
            if expires > now && self.records.len() < self.most {
                return;
            }
            self.take_out(&RecordKey::from(key));
        }
    }
}

impl RecordStore for Shelf {
    type RecordsIter<'a> =
        iter::Map<hash_map::Values<'a, RecordKey, Record>, fn(&'a Record) -> Cow<'a, Record>>;
    type ProvidedIter<'a> = iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        self.records.get(key).map(Cow::Borrowed)
    }

    fn put(&mut self, mut record: Record) -> Result<()> {
        if let Err(rejection) = self.check(&record) {
            self.refused = self.refused.saturating_add(1);
            tracing::debug!(%rejection, "a rendezvous record is not kept");
            return Err(Error::ValueTooLarge);
        }
        let now = clock::now();
        let latest = now + Duration::from_secs(RENDEZVOUS_LIFETIME_SECONDS.unsigned_abs());
        let expires = record.expires.map_or(latest, |expires| expires.min(latest));
        record.expires = Some(expires);
        self.take_out(&record.key);
        self.make_room(now);
        self.order.insert((expires, record.key.to_vec()));
        self.records.insert(record.key.clone(), record);
        Ok(())
    }

    fn remove(&mut self, key: &RecordKey) {
        self.take_out(key);
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        self.records.values().map(Cow::Borrowed)
    }

    fn add_provider(&mut self, _: ProviderRecord) -> Result<()> {
        self.refused = self.refused.saturating_add(1);
        Err(Error::MaxProvidedKeys)
    }

    fn providers(&self, _: &RecordKey) -> Vec<ProviderRecord> {
        Vec::new()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        iter::empty()
    }

    fn remove_provider(&mut self, _: &RecordKey, _: &PeerId) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_identity::B64;
    use quorate_session::{
        Pid, RendezvousSecret,
        rendezvous::{Slot, Stamp},
    };

    fn record(place: u8, seq: u64) -> Record {
        let secret = RendezvousSecret::new([place; 32]);
        let slot = Slot::derive(&secret, &B64([1; 32]), Pid(0), 1);
        let exp = clock::wall().plus_seconds(600);
        let value = slot.seal_text("", Stamp { seq, exp }, &[0; 24]);
        Record::new(RecordKey::new(&slot.locator()), value)
    }

    #[test]
    fn a_full_shelf_takes_what_is_new_and_stays_within_its_size() {
        let mut shelf = Shelf::new(8);
        for place in 0..40 {
            shelf.put(record(place, 1)).expect("a right record");
            assert!(shelf.len() <= 8);
            assert!(shelf.get(&record(place, 1).key).is_some());
        }
        assert_eq!(shelf.order.len(), shelf.records.len());
        shelf.remove(&record(39, 1).key);
        assert_eq!((shelf.order.len(), shelf.len()), (7, 7));
    }

    #[test]
    fn only_right_records_and_newer_ones_are_kept() {
        let mut shelf = Shelf::new(8);
        shelf.put(record(1, 5)).expect("a right record");
        assert!(shelf.put(record(1, 4)).is_err());
        shelf.put(record(1, 6)).expect("a newer one");
        let mut elsewhere = record(2, 1);
        elsewhere.key = record(3, 1).key;
        assert!(shelf.put(elsewhere).is_err());
        let garbage = Record::new(RecordKey::new(&[1; 32]), vec![0; 4000]);
        assert!(shelf.put(garbage).is_err());
        let provider = ProviderRecord::new(vec![1; 32], PeerId::random(), Vec::new());
        assert!(shelf.add_provider(provider).is_err());
        assert_eq!((shelf.len(), shelf.refused()), (1, 4));
    }
}
