//! What a node keeps: rendezvous records that are what they should be, and nothing else.
//!
//! The store checks, not the owner of the swarm: a record that is refused is not acknowledged either.
//!
//! Limits: so many records as it is made for. One source (an IPv4 address, or an IPv6 network of 64 bits) fills one part in
//! [`SHELF_SHARES`] of it; of a full shelf a record goes of the source that has most of them, the one that would expire first.
//!
//! Security: anybody can make any number of right records, and says itself when they expire. Provides that a source pushes
//! out its own records, and those of others only where they have as many. Does not provide anything against a host that
//! has many addresses.

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

use crate::{overlay::source::Source, party::clock};

/// One source fills at most one part in so many of a shelf.
const SHELF_SHARES: usize = 16;

/// By the time they expire.
type Order = BTreeSet<(Instant, Vec<u8>)>;

/// A record, and where it came from.
pub(in crate::overlay) struct Kept {
    record: Record,
    source: Source,
}

/// A store of checked records.
pub(in crate::overlay) struct Shelf {
    most: usize,
    records: HashMap<RecordKey, Kept>,
    order: Order,
    by_source: HashMap<Source, Order>,
    /// Where the records come from that are put now.
    source: Source,
    refused: u64,
}

impl Shelf {
    pub fn new(most: usize) -> Self {
        Self {
            most,
            records: HashMap::new(),
            order: Order::new(),
            by_source: HashMap::new(),
            source: Source::Ourselves,
            refused: 0,
        }
    }

    /// What is put from now on comes from there.
    pub fn take_from(&mut self, source: Source) {
        self.source = source;
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
            Some(old) => may_replace(&old.record.value, &record.value),
            None => Ok(()),
        }
    }

    fn take_out(&mut self, key: &RecordKey) {
        let Some(old) = self.records.remove(key) else {
            return;
        };
        let Some(expires) = old.record.expires else {
            return;
        };
        let place = (expires, key.to_vec());
        self.order.remove(&place);
        if let Some(order) = self.by_source.get_mut(&old.source) {
            order.remove(&place);
            if order.is_empty() {
                self.by_source.remove(&old.source);
            }
        }
    }

    fn put_in(&mut self, record: Record, expires: Instant, source: Source) {
        let place = (expires, record.key.to_vec());
        self.order.insert(place.clone());
        self.by_source.entry(source).or_default().insert(place);
        self.records
            .insert(record.key.clone(), Kept { record, source });
    }

    fn kept_of(&self, source: Source) -> usize {
        self.by_source.get(&source).map_or(0, BTreeSet::len)
    }

    /// Makes room for one more of this source.
    fn make_room(&mut self, source: Source, now: Instant) {
        while let Some((expires, key)) = self.order.first().cloned()
            && expires <= now
        {
            self.take_out(&RecordKey::from(key));
        }
        let share = self.most.div_ceil(SHELF_SHARES);
        while source != Source::Ourselves && self.kept_of(source) >= share {
            if !self.take_first_of(source) {
                return;
            }
        }
        while self.records.len() >= self.most {
            let with_new = |of: &Source, order: &Order| order.len() + usize::from(*of == source);
            let all = self.by_source.iter();
            let fullest = all.max_by_key(|(of, order)| with_new(of, order));
            let Some(fullest) = fullest.map(|(of, _)| *of) else {
                return;
            };
            if !self.take_first_of(fullest) {
                return;
            }
        }
    }

    /// Takes out what would expire first of this source; whether there was something.
    fn take_first_of(&mut self, source: Source) -> bool {
        let order = self.by_source.get(&source);
        let Some((_, key)) = order.and_then(|order| order.first().cloned()) else {
            return false;
        };
        self.take_out(&RecordKey::from(key));
        true
    }
}

impl RecordStore for Shelf {
    type RecordsIter<'a> =
        iter::Map<hash_map::Values<'a, RecordKey, Kept>, fn(&'a Kept) -> Cow<'a, Record>>;
    type ProvidedIter<'a> = iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        self.records
            .get(key)
            .map(|kept| Cow::Borrowed(&kept.record))
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
        // Whoever repeats what is here does not make it its own.
        let old = self.records.get(&record.key);
        let same = old.filter(|old| old.record.value == record.value);
        let source = same.map_or(self.source, |old| old.source);
        self.take_out(&record.key);
        self.make_room(source, now);
        self.put_in(record, expires, source);
        Ok(())
    }

    fn remove(&mut self, key: &RecordKey) {
        self.take_out(key);
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        self.records
            .values()
            .map(|kept| Cow::Borrowed(&kept.record))
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
pub(super) mod tests {
    use super::*;
    use quorate_identity::B64;
    use quorate_session::{
        Pid, RendezvousSecret,
        rendezvous::{Slot, Stamp},
    };
    use std::net::Ipv4Addr;

    pub(in crate::overlay::dht) fn record(place: u8, seq: u64) -> Record {
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

    fn host(n: u8) -> Source {
        Source::Ip4(Ipv4Addr::new(192, 0, 2, n))
    }

    #[test]
    fn a44_who_floods_a_shelf_pushes_out_its_own_records_only() {
        let mut shelf = Shelf::new(4 * SHELF_SHARES);
        for place in 0..4 {
            shelf.take_from(host(place));
            shelf.put(record(place, 1)).expect("a right record");
        }
        shelf.take_from(host(99));
        for place in 10..200 {
            shelf.put(record(place, 1)).expect("a right record");
            // What others put does not become its own by saying it again.
            let _ = shelf.put(record(place % 4, 1));
        }
        assert_eq!((shelf.len(), shelf.kept_of(host(99))), (8, 4));
        for place in 0..4 {
            assert!(shelf.get(&record(place, 1).key).is_some(), "{place}");
        }
        assert!(shelf.get(&record(199, 1).key).is_some(), "the newest");
    }

    #[test]
    fn a44_many_who_flood_leave_those_alone_who_have_few_records() {
        let mut shelf = Shelf::new(4 * SHELF_SHARES);
        shelf.take_from(host(0));
        shelf.put(record(0, 1)).expect("a right record");
        let mut place = 0;
        for n in 1..=30 {
            shelf.take_from(host(n));
            for _ in 0..6 {
                place += 1;
                shelf.put(record(place, 1)).expect("a right record");
                assert!(shelf.len() <= 4 * SHELF_SHARES);
            }
            assert!(shelf.get(&record(place, 1).key).is_some(), "the newest");
        }
        assert!(shelf.get(&record(0, 1).key).is_some());
        let all: usize = shelf.by_source.values().map(BTreeSet::len).sum();
        assert_eq!((all, shelf.order.len()), (shelf.len(), shelf.len()));
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
