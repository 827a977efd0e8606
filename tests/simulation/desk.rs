//! What a replicator does to its world, as the actor's `Outside` has it: bytes to links, verdicts to those who wait.

use std::collections::BTreeMap;

use bytes::BytesMut;
use tasuki::{
    names::NodeId,
    replication::{
        core::{ClaimEnded, ClaimId, Core, Lagging, Port, Queued},
        frame::{self, Reply, Request, Ticket},
        ledger::{Sequence, Verdict, WaitId},
        repair::Repaired,
        survey::Survey,
    },
    session::delta::{Answer, Update},
    time::Moment,
};

use crate::{
    Canary,
    cluster::{Cluster, machine_of},
    node::Input,
    slots::SimSlots,
    wire::{ConnId, End},
    world::Event,
};

/// What a core does, collected within one turn of its event loop.
pub(crate) struct Desk {
    /// The links that are up, and what is queued for each.
    links: Vec<Outgoing>,
    settled: Vec<(WaitId, Verdict)>,
    claimed: Vec<(ClaimId, ClaimEnded)>,
    needs: Vec<NodeId>,
    surveys: Vec<Survey>,
    canary: Option<Canary>,
    asked: BTreeMap<Ticket, NodeId>,
    /// Who is taken to have nothing to say, without being asked.
    not_asked: Vec<(NodeId, Ticket)>,
}

/// One link that is up.
struct Outgoing {
    peer: NodeId,
    conn: ConnId,
    room: usize,
    out: BytesMut,
    /// Updates among it.
    updates: Sequence,
}

/// What a core decided before its caller could begin to wait.
#[derive(Default)]
pub(crate) struct AtOnce {
    pub(crate) verdict: Option<Verdict>,
    pub(crate) claimed: Option<ClaimEnded>,
}

impl Port for Desk {
    fn send(&mut self, peer: NodeId, request: &Request) -> Queued {
        let one_peer_only = self.canary == Some(Canary::ClaimAsksOnePeer);
        if let Request::Claim(ticket, _) = request
            && one_peer_only
            && *self.asked.entry(*ticket).or_insert(peer) != peer
        {
            self.not_asked.push((peer, *ticket));
            return Queued::Yes;
        }
        self.queue(peer, |out| frame::put_request(out, request))
    }

    fn send_update(&mut self, peer: NodeId, update: &Update) -> Queued {
        let queued = self.queue(peer, |out| frame::put_update(out, update));
        if let Some(link) = self.links.iter_mut().find(|link| link.peer == peer && queued == Queued::Yes) {
            link.updates += 1;
        }
        queued
    }

    fn settled(&mut self, wait: WaitId, verdict: Verdict) {
        self.settled.push((wait, verdict));
    }

    fn claimed(&mut self, claim: ClaimId, ended: ClaimEnded) {
        self.claimed.push((claim, ended));
    }

    fn needs(&mut self, peer: NodeId) {
        self.needs.push(peer);
    }

    fn lagging(&mut self, _: NodeId, _: Lagging) {}

    fn survey(&mut self, survey: Survey) {
        self.surveys.push(survey);
    }

    fn repaired(&mut self, _: NodeId, _: Repaired) {}
}

impl Desk {
    fn queue(&mut self, peer: NodeId, put: impl FnOnce(&mut BytesMut)) -> Queued {
        let Some(link) = self.links.iter_mut().find(|link| link.peer == peer) else { return Queued::Full };
        if link.out.len() >= link.room && self.canary != Some(Canary::QueueWithoutBound) {
            return Queued::Full;
        }
        put(&mut link.out);
        Queued::Yes
    }
}

impl Cluster {
    /// Lets a core act, and does what it asked for.
    pub(crate) fn with_core<R>(
        &mut self,
        id: NodeId,
        core: usize,
        act: impl FnOnce(&mut Core<SimSlots>, Moment, &mut Desk) -> R,
    ) -> Option<(R, AtOnce)> {
        let (now, room, canary) = (self.moment(id), self.rules.queue_bytes, self.canary);
        let machine = machine_of(id);
        let node = self.machines[machine].node.as_mut().filter(|node| node.id == id)?;
        let up = node.links.range((core, NodeId(0))..=(core, NodeId(u64::MAX)));
        let links = up.filter_map(|((_, peer), link)| {
            let conn = link.up.as_ref()?.0;
            let room = room.saturating_sub(self.wire.unread(conn, End::Acceptor));
            Some(Outgoing { peer: *peer, conn, room, out: BytesMut::new(), updates: 0 })
        });
        let mut desk = Desk {
            links: links.collect(),
            settled: Vec::new(),
            claimed: Vec::new(),
            needs: Vec::new(),
            surveys: Vec::new(),
            canary,
            asked: std::mem::take(&mut node.asked[core]),
            not_asked: Vec::new(),
        };
        let result = act(&mut node.cores[core], now, &mut desk);
        while let Some((peer, ticket)) = desk.not_asked.pop() {
            node.cores[core].replied(peer, [Reply::Answer(ticket, Answer::Unknown)], now, &mut desk);
        }
        while let Some(survey) = desk.surveys.pop() {
            let found = survey.run(&node.slots);
            node.cores[core].surveyed(found, now, &mut desk);
        }
        node.asked[core] = std::mem::take(&mut desk.asked);
        for Outgoing { peer, conn, out, updates, .. } in &desk.links {
            self.wire.write(*conn, End::Acceptor, out, &mut self.world);
            if let Some(link) = node.links.get_mut(&(core, *peer)) {
                link.sent += updates;
            }
        }
        let at_once = self.hand_out(id, core, desk);
        Some((result, at_once))
    }

    /// Wakes whoever waits for what the core decided.
    fn hand_out(&mut self, id: NodeId, core: usize, desk: Desk) -> AtOnce {
        let mut at_once = AtOnce::default();
        let machine = machine_of(id);
        let Some(node) = self.machines[machine].node.as_mut() else { return at_once };
        node.needs_under_way += desk.needs.len();
        for peer in desk.needs {
            let delay_us = self.world.between(0, 500);
            self.world.after(delay_us, Event::Node(id, Input::Needs(peer)));
        }
        for (wait, verdict) in desk.settled {
            match node.waits.remove(&(core, wait)) {
                Some(job) => self.world.after(0, Event::Node(id, Input::Verdict(job, verdict))),
                None => at_once.verdict = Some(verdict),
            }
        }
        for (claim, ended) in desk.claimed {
            match node.claims.remove(&(core, claim)) {
                Some(job) => self.world.after(0, Event::Node(id, Input::Claimed(job, ended))),
                None => at_once.claimed = Some(ended),
            }
        }
        at_once
    }
}
