//! What happens outside, told to the core in its own words.

use std::time::{Duration, Instant};

use quorate_identity::{Code, UnixTime};
use quorate_session::{
    LinkId, LinkKind, PeerId, Pid, ProgramReport,
    message::{Engine, PathPolicy},
};

use super::{Machine, clock, show};
use crate::{
    attach::{GuardEvent, Refusal},
    overlay::OverlayEvent,
    party::{PartyEvent, Scope, control::ControlEvent},
    program::supervisor::{OUT_OF_MEMORY, ProgramEvent, TOO_HUNGRY},
    wireguard::MeshEvent,
};

/// Circuits among the addresses that the other parties are told.
const MAX_CIRCUITS_TOLD: usize = 4;
/// How long the abort of a party is waited for after its link to the program broke.
const LOST_LINK_GRACE: Duration = Duration::from_secs(3);

impl Machine {
    pub(super) fn on_overlay(&mut self, event: OverlayEvent) {
        let (at, now) = (clock::wall(), clock::now());
        match event {
            OverlayEvent::LinkUp {
                link,
                peer,
                address,
                ..
            } => match peer.parse::<PeerId>() {
                Ok(remote) => {
                    self.serving.link_up(LinkId(link), remote, &address);
                    let kind = LinkKind::Overlay {
                        local: self.session.peer_id(),
                        remote,
                    };
                    self.session.handle_link_up(LinkId(link), kind, at, now);
                }
                Err(_) => self.overlay.close_link(link),
            },
            OverlayEvent::Frame { link, bytes } => {
                self.session.handle_message(LinkId(link), &bytes, at, now);
            }
            OverlayEvent::LinkDown { link } => {
                self.serving.link_down(LinkId(link));
                self.session.handle_link_down(LinkId(link), now);
            }
            OverlayEvent::Reachable { ip } => self.on_reachable(ip),
            OverlayEvent::Listening { .. } | OverlayEvent::Gone { .. } => {
                self.tell_addresses();
                show(
                    &self.events,
                    PartyEvent::Listening {
                        addresses: self.overlay.addresses(),
                    },
                );
            }
            OverlayEvent::Relay(relay) => {
                self.note_relay(relay);
                self.ask_router();
                self.tell_addresses();
            }
            OverlayEvent::RelayRefused { relay, code, text } => {
                let code = code.to_string();
                show(&self.events, PartyEvent::RelayRefused { relay, code, text });
            }
            OverlayEvent::Note(text) => show(&self.events, PartyEvent::Note { text }),
        }
    }

    /// Lets the other parties know where this one can be reached.
    pub(super) fn tell_addresses(&mut self) {
        let path = self.config.invitation.subject.net.path;
        let mut all = self.mapped_addresses();
        all.extend(self.overlay.addresses());
        let (circuits, direct): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|a| a.contains("/p2p-circuit"));
        let local = self.config.scope == Scope::Local;
        let of_machine = |a: &String| a.starts_with("/ip4/127.") || a.starts_with("/ip6/::1/");
        // Where all data goes over relays, nobody needs to know where anybody is.
        let shown = |a: &String| path != PathPolicy::Relay && (local || !of_machine(a));
        let circuits = circuits.into_iter().take(MAX_CIRCUITS_TOLD);
        let addresses: Vec<String> = circuits.chain(direct.into_iter().filter(shown)).collect();
        self.publish_addresses(&addresses);
        // Parties alone are told that this one is a relay.
        let mut told = self.serving.addresses();
        told.extend(addresses);
        self.session.set_addresses(told, clock::now());
    }

    pub(super) fn on_mesh(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Signal { to, data } => self.session.signal(Pid(to), data, clock::now()),
            MeshEvent::Path {
                index,
                path,
                reason,
            } => {
                self.stands_otherwise();
                show(
                    &self.events,
                    PartyEvent::Path {
                        index,
                        path: path.to_string(),
                        reason: reason.code().into(),
                        detail: self.in_words(index, reason),
                    },
                );
            }
            // The control stream over it says more.
            MeshEvent::Up { .. } => {}
            MeshEvent::Fatal(why) => {
                tracing::error!(%why, "the mesh failed");
                let me = self.session.me();
                self.session.abort(
                    Code::Internal,
                    Some(me),
                    "its mesh failed",
                    clock::wall(),
                    clock::now(),
                );
            }
        }
    }

    pub(super) fn on_control(&mut self, event: ControlEvent) {
        let (at, now) = (clock::wall(), clock::now());
        let Some(installed) = self.installed.as_mut() else {
            return;
        };
        match event {
            ControlEvent::Up {
                link,
                peer,
                outgoing,
            } => {
                installed.streams.insert(link, (peer, outgoing));
                let kind = LinkKind::Tunnel {
                    roster: installed.plan.roster,
                    pid: Pid(peer),
                };
                self.session.handle_link_up(link, kind, at, now);
                let reached = |pid: Pid| installed.streams.values().any(|(peer, _)| *peer == pid.0);
                if !installed.announced && installed.plan.peers.iter().all(|p| reached(p.pid)) {
                    installed.announced = true;
                    self.session
                        .handle_mesh_ready(installed.plan.roster, at, now);
                }
            }
            ControlEvent::Frame { link, bytes } => {
                self.session.handle_message(link, &bytes, at, now);
            }
            ControlEvent::Down { link } => {
                installed.streams.remove(&link);
                self.session.handle_link_down(link, now);
            }
        }
    }

    pub(super) fn on_guard(&mut self, event: GuardEvent) {
        let (at, now) = (clock::wall(), clock::now());
        match event {
            GuardEvent::Spoof { peer, claimed } => {
                let note = format!("the program of party {peer} claimed to be party {claimed}");
                self.session
                    .abort(Code::PidSpoof, Some(Pid(peer)), &note, at, now);
            }
            GuardEvent::OwnProgram { claimed, .. } => {
                let me = self.session.me();
                let note = format!("its program claimed to be party {claimed}");
                self.session.abort(Code::PidSpoof, Some(me), &note, at, now);
            }
            GuardEvent::Refused {
                why: why @ Refusal::ProgramSilent(_),
                ..
            } => {
                let me = self.session.me();
                self.session
                    .abort(why.code(), Some(me), &why.to_string(), at, now);
            }
            // Each link is for one connection: once it is used up the run cannot go on.
            GuardEvent::Refused {
                peer,
                why: why @ (Refusal::Silent(_) | Refusal::NotReached(_)),
            } => {
                self.session
                    .abort(why.code(), Some(Pid(peer)), &why.to_string(), at, now);
            }
            GuardEvent::Refused { peer, why } => show(
                &self.events,
                PartyEvent::Refused {
                    code: why.code().as_str().into(),
                    detail: why.to_string(),
                    from: Some(format!("party {peer}")),
                },
            ),
            GuardEvent::Closed { total, lost: true } if self.running.is_some() => {
                self.lost_link
                    .get_or_insert((total.peer, now + LOST_LINK_GRACE));
            }
            GuardEvent::Connected { .. } | GuardEvent::Closed { .. } => {}
        }
    }

    pub(super) fn on_program(&mut self, event: ProgramEvent) {
        let (at, now) = (clock::wall(), clock::now());
        self.report_mesh(matches!(event, ProgramEvent::Exit { .. }));
        let engine = self.config.invitation.subject.mpc.engine();
        let is_exec = engine == Some(Engine::Exec);
        let Some(running) = self.running.as_mut() else {
            return;
        };
        match event {
            ProgramEvent::Connected { .. } => {
                show(
                    &self.events,
                    PartyEvent::Program {
                        state: "connected".into(),
                        run: self.session.runs(),
                    },
                );
                self.session
                    .handle_program(ProgramReport::Connected, at, now);
            }
            ProgramEvent::Finished {
                elapsed,
                bytes_sent,
            } => {
                running.finished = Some((elapsed, bytes_sent));
                let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
                show(
                    &self.events,
                    PartyEvent::Finished {
                        elapsed_ms,
                        bytes_sent,
                    },
                );
            }
            ProgramEvent::Exit { code, signal } => {
                let counted = self.installed.as_ref().map(|i| i.guard.bytes_sent());
                if let (true, Some(0), Some(bytes_sent)) = (is_exec, code, counted) {
                    // It says nothing about itself; the guard knows.
                    let elapsed = now - running.started;
                    running.finished = Some((elapsed, bytes_sent));
                    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
                    let finished = PartyEvent::Finished {
                        elapsed_ms,
                        bytes_sent,
                    };
                    show(&self.events, finished);
                }
                let elapsed = running
                    .finished
                    .map_or_else(|| now - running.started, |(elapsed, _)| elapsed);
                let report = ProgramReport::Exited {
                    code: code.unwrap_or_else(|| 128 + signal.unwrap_or(0)),
                    signal,
                    bytes_sent: running.finished.map(|(_, bytes)| bytes),
                    elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                    // What the program wrote may hold private data: only how it ended is told.
                    note: match (code, signal) {
                        (Some(OUT_OF_MEMORY), _) => "out of memory: a party sent too much".into(),
                        (Some(TOO_HUNGRY), _) => {
                            "out of memory: it wanted more than it may have".into()
                        }
                        // Nothing here sends it to a program that runs: another process did, or the kernel.
                        (None, Some(9)) => {
                            "killed by signal 9, as by a system that runs out of memory".into()
                        }
                        (Some(code), _) => format!("exit {code}"),
                        (None, Some(signal)) => format!("killed by signal {signal}"),
                        (None, None) => "ended in an unknown way".into(),
                    },
                };
                self.running = None;
                self.session.handle_program(report, at, now);
            }
        }
    }

    /// A program that lost one of its links waits for ever; its party's abort, if there is one,
    /// names the true cause and comes first.
    pub(super) fn give_up_lost_link(&mut self, at: UnixTime, now: Instant) {
        if let Some((peer, _)) = self.lost_link.take_if(|(_, until)| *until <= now)
            && self.running.is_some()
        {
            let note = format!("the program's link to party {peer} broke");
            self.session
                .abort(Code::PartyLeft, Some(Pid(peer)), &note, at, now);
        }
    }
}
