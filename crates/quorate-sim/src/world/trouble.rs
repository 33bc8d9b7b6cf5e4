//! What goes wrong: faults of the schedule, and liars.

use super::{REDIAL_MS, STRANGER, STRANGER_DIALS, What, World};
use crate::{
    invariants::Invariant,
    liar::{carries_ready, flood},
    schedule::{FaultKind, Liar},
    setting::outsider_key,
};
use quorate_session::{Frame, LinkKind, Pid, State};

impl World<'_> {
    pub(super) fn fault(&mut self, index: usize) {
        let fault = self.schedule.faults[index].clone();
        self.record(&format!("fault {:?}", fault.what));
        match fault.what {
            FaultKind::Partition { party } => {
                self.cut_off.insert(Pid(party));
                (0..self.nodes.len())
                    .filter(|i| self.nodes[*i].pid.0 == party)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|i| self.drop_tunnels_of(i));
            }
            FaultKind::Crash { party, lose_record } => self.crash(usize::from(party), lose_record),
            FaultKind::DiskFull { party } => {
                self.disk_full.insert(Pid(party));
            }
            FaultKind::SlowDisk { party } => {
                self.slow_disk.insert(Pid(party), fault.heal_ms);
            }
            FaultKind::TunnelsBreak => {
                (0..self.nodes.len()).for_each(|index| self.drop_tunnels_of(index));
            }
            FaultKind::ProgramFails { party } => self.exit(usize::from(party), 1),
            FaultKind::NeverStarts { .. } => {}
        }
    }

    pub(super) fn heal(&mut self, index: usize) {
        match self.schedule.faults[index].what {
            FaultKind::Partition { party } => {
                self.cut_off.remove(&Pid(party));
            }
            FaultKind::Crash { party, .. } => self.start(usize::from(party)),
            FaultKind::DiskFull { party } => {
                self.disk_full.remove(&Pid(party));
            }
            FaultKind::SlowDisk { party } => {
                self.slow_disk.remove(&Pid(party));
            }
            FaultKind::TunnelsBreak
            | FaultKind::ProgramFails { .. }
            | FaultKind::NeverStarts { .. } => {}
        }
    }

    pub(super) fn crash(&mut self, index: usize, lose_record: bool) {
        if self.nodes[index].session.is_none() {
            return;
        }
        self.nodes[index].die(lose_record);
        for link in self.wires_of(index) {
            self.cut(link, Some(index));
        }
    }

    pub(super) fn gossip(&mut self, from: usize, bytes: &[u8]) {
        if !Frame::parse(bytes).is_ok_and(|frame| carries_ready(&frame)) {
            return;
        }
        for link in self.wires_of(from) {
            let Some(wire) = self.wires.get(&link) else {
                continue;
            };
            let to = wire.other(from);
            if wire.roster.is_none() && to != STRANGER {
                self.post(link, to, bytes.to_vec(), true);
            }
        }
    }

    pub(super) fn flood(&mut self, n: u64) {
        let Some(Liar::Flooder { party }) = self.schedule.liar else {
            return;
        };
        let index = usize::from(party);
        let at = self.nodes[index].wall(self.now_ms);
        let epoch = u64::try_from(at.0).unwrap_or(0) * 1000;
        let inv = self.invitations[0].digest();
        let bytes = flood(
            &self.nodes[index].key,
            inv,
            self.schedule.parties,
            epoch,
            at,
            n,
        )
        .encode();
        for link in self.wires_of(index) {
            let to = self.wires[&link].other(index);
            if to != STRANGER {
                self.post(link, to, bytes.clone(), true);
            }
        }
    }

    pub(super) fn stranger_dials(&mut self, index: usize, count: u64) {
        let Some(session) = &self.nodes[index].session else {
            return self.later(REDIAL_MS, What::StrangerDials(index, count));
        };
        if count >= STRANGER_DIALS || session.state() == State::Closed {
            return;
        }
        let local = session.peer_id();
        let link = self.wire(STRANGER, index, None);
        self.link_up(
            index,
            link,
            LinkKind::Overlay {
                local,
                remote: self.stranger.peer,
            },
        );
        let hello = self.stranger.hello(&local).encode();
        self.post(link, index, hello, true);
        self.later(7 * REDIAL_MS, What::StrangerDials(index, count + 1));
    }

    pub(super) fn stranger_hears(&mut self, from: usize, link: u64, bytes: &[u8]) {
        let (Ok(frame), Some(session)) = (Frame::parse(bytes), &self.nodes[from].session) else {
            return;
        };
        let (peer, at) = (session.peer_id(), self.nodes[from].wall(self.now_ms));
        let inv = self.invitations[0].digest();
        if let Some(answers) = self.stranger.answer(&frame, &peer, inv, at) {
            for frame in answers {
                self.post(link, from, frame.encode(), true);
            }
        } else {
            let (pid, did) = (self.nodes[from].pid, outsider_key().did());
            let text = format!("{pid} tells {did} more than who it is");
            self.monitor
                .violated(Invariant::OnlyRosterKeys, self.now_ms, text);
        }
    }
}
