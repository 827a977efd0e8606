//! TCP as the links know it: in order and complete within one connection, until the connection is cut.
//!
//! A cut loses what is under way from a drawn moment on, which may be in the middle of a frame; the two ends notice at
//! different times. Connections do not know of each other, so the several links of one node overtake one another.

use std::collections::BTreeMap;

use tasuki::names::NodeId;

use crate::{
    cluster::machine_of,
    node::Input,
    world::{Event, World},
};

/// Names a connection of the whole run.
pub(crate) type ConnId = u64;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The replicator that connected.
    Dialer,
    /// The node that accepted.
    Acceptor,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Who connected.
    pub(crate) dialer: NodeId,
    /// Which of its replicators.
    pub(crate) core: usize,
    /// Who accepted.
    pub(crate) acceptor: NodeId,
    /// It was over before its dialer had been greeted.
    pub(crate) is_stillborn: bool,
    base_us: u64,
    /// By the end they go to: arrival of the last bytes, bytes not yet read, when bytes cease to arrive.
    lanes: [Lane; 2],
}

#[derive(Clone, Copy, Debug)]
struct Lane {
    last_us: u64,
    unread: usize,
    lost_after_us: u64,
}

/// All connections, and what is wrong with the network.
#[derive(Default)]
pub(crate) struct Wire {
    conns: BTreeMap<ConnId, Conn>,
    next: ConnId,
    /// From one machine to another nothing arrives before this time.
    blocked: BTreeMap<(usize, usize), u64>,
    /// Machines whose bytes take long until this time, and how long.
    slow: BTreeMap<usize, (u64, u64)>,
}

impl Wire {
    /// Opens a connection; it is up at the acceptor at once and at the dialer when it hears of it.
    pub(crate) fn open(&mut self, dialer: NodeId, core: usize, acceptor: NodeId, world: &mut World) -> ConnId {
        self.next += 1;
        let base_us = if world.percent(20) { world.between(2_000, 30_000) } else { world.between(50, 400) };
        let lane = Lane { last_us: world.now_us(), unread: 0, lost_after_us: u64::MAX };
        let lanes = [lane; 2];
        self.conns.insert(self.next, Conn { dialer, core, acceptor, is_stillborn: false, base_us, lanes });
        self.next
    }

    /// What the acceptor says to the dialer begins with a greeting, which arrives then.
    pub(crate) fn greet(&mut self, id: ConnId, at_us: u64) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.lanes[End::Dialer as usize].last_us = at_us;
        }
    }

    /// A connection that was opened.
    pub(crate) fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(&id)
    }

    /// The dialer notices the end of a connection that it was never greeted on.
    pub(crate) fn never_was(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.is_stillborn = true;
        }
    }

    /// The connections of which `wanted` holds.
    pub(crate) fn select(&self, wanted: impl Fn(&Conn) -> bool) -> Vec<ConnId> {
        self.conns.iter().filter(|(_, conn)| wanted(conn)).map(|(id, _)| *id).collect()
    }

    /// Bytes on their way to an end, or waiting there.
    pub(crate) fn unread(&self, id: ConnId, to: End) -> usize {
        self.conns.get(&id).map_or(0, |conn| conn.lanes[to as usize].unread)
    }

    /// The most bytes that wait on any link.
    pub(crate) fn longest_queue(&self) -> usize {
        self.conns.values().map(|conn| conn.lanes[End::Acceptor as usize].unread).max().unwrap_or(0)
    }

    /// Writes bytes towards an end; now and then they arrive in two parts.
    pub(crate) fn write(&mut self, id: ConnId, to: End, bytes: &[u8], world: &mut World) {
        if bytes.is_empty() {
            return;
        }
        let cut_at = if world.percent(5) { world.between(0, bytes.len() as u64 - 1) as usize } else { 0 };
        for part in [&bytes[..cut_at], &bytes[cut_at..]].into_iter().filter(|part| !part.is_empty()) {
            let Some(at_us) = self.arrival(id, to, world) else { return };
            let Some(conn) = self.conns.get_mut(&id) else { return };
            conn.lanes[to as usize].unread += part.len();
            let input = Input::Bytes { conn: id, end: to, bytes: part.to_vec() };
            world.at(at_us, Event::Node(conn.at(to), input));
        }
    }

    /// What of these bytes arrives now, and nothing of what was lost in a cut.
    pub(crate) fn arrive(&mut self, id: ConnId, to: End, mut bytes: Vec<u8>, world: &mut World) -> Option<Vec<u8>> {
        let lane = &mut self.conns.get_mut(&id)?.lanes[to as usize];
        if lane.lost_after_us == 0 {
            return None;
        }
        if world.now_us() > lane.lost_after_us {
            // The first loss may leave a part; everything behind it is gone.
            lane.lost_after_us = 0;
            bytes.truncate(world.between(0, bytes.len() as u64) as usize);
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    /// An end has read bytes.
    pub(crate) fn read(&mut self, id: ConnId, to: End, count: usize) {
        if let Some(conn) = self.conns.get_mut(&id) {
            let lane = &mut conn.lanes[to as usize];
            lane.unread = lane.unread.saturating_sub(count);
        }
    }

    /// Whether two nodes can connect at a time: each must hear the other.
    pub(crate) fn can_connect(&self, a: NodeId, b: NodeId, now_us: u64) -> bool {
        self.blocked_until(a, b).max(self.blocked_until(b, a)) <= now_us
    }

    /// Stops everything from one machine to another until a time; TCP repeats it afterwards.
    pub(crate) fn block(&mut self, from: usize, to: usize, until_us: u64) {
        let until = self.blocked.entry((from, to)).or_default();
        *until = until_us.max(*until);
    }

    fn blocked_until(&self, from: NodeId, to: NodeId) -> u64 {
        self.blocked.get(&(machine_of(from), machine_of(to))).copied().unwrap_or(0)
    }

    /// Makes a machine's bytes slow until a time.
    pub(crate) fn slow_down(&mut self, machine: usize, until_us: u64, by_us: u64) {
        self.slow.insert(machine, (until_us, by_us));
    }

    /// Cuts a connection: what is under way is lost from a drawn moment on, and each end notices in its own time.
    pub(crate) fn cut(&mut self, id: ConnId, world: &mut World) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        for end in [End::Dialer, End::Acceptor] {
            let tail_us = if world.percent(50) { 0 } else { world.between(0, 2_000) };
            let lane = &mut conn.lanes[end as usize];
            lane.lost_after_us = lane.lost_after_us.min(world.now_us() + tail_us);
            let noticed_us = tail_us + world.between(1, 20_000);
            let to = conn.at(end);
            world.after(noticed_us, Event::Node(to, Input::Closed { conn: id, end }));
        }
    }

    /// A process has ended and its kernel lives on: what was written arrives, then the end of the stream.
    pub(crate) fn hang_up(&mut self, id: ConnId, gone: NodeId, world: &mut World) {
        let Some(conn) = self.conns.get(&id) else { return };
        let other = if conn.dialer == gone { End::Acceptor } else { End::Dialer };
        let blocked_us = self.blocked_until(gone, conn.at(other));
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let at_us = conn.lanes[other as usize].last_us.max(world.now_us()).max(blocked_us) + 1;
        let lane = &mut conn.lanes[other as usize];
        lane.lost_after_us = lane.lost_after_us.min(at_us);
        world.at(at_us, Event::Node(conn.at(other), Input::Closed { conn: id, end: other }));
    }

    /// A machine has lost its power: what was under way from it is gone, and nobody is told.
    pub(crate) fn vanish(&mut self, id: ConnId, gone: NodeId) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let other = if conn.dialer == gone { End::Acceptor } else { End::Dialer };
        conn.lanes[other as usize].lost_after_us = 0;
    }

    fn arrival(&mut self, id: ConnId, to: End, world: &mut World) -> Option<u64> {
        let conn = self.conns.get(&id)?;
        let machines = [machine_of(conn.dialer), machine_of(conn.acceptor)];
        let slowed = machines.iter().filter_map(|machine| self.slow.get(machine));
        let extra_us = slowed.filter(|(until, _)| *until > world.now_us()).map(|(_, by)| by).max().copied();
        let (from, to_node) = match to {
            End::Acceptor => (conn.dialer, conn.acceptor),
            End::Dialer => (conn.acceptor, conn.dialer),
        };
        let blocked_us = self.blocked_until(from, to_node);
        let conn = self.conns.get_mut(&id)?;
        let delay_us = conn.base_us + world.between(0, conn.base_us / 2) + extra_us.unwrap_or(0);
        let lane = &mut conn.lanes[to as usize];
        lane.last_us = lane.last_us.max(world.now_us().max(blocked_us) + delay_us);
        Some(lane.last_us)
    }
}

impl Conn {
    /// The node at an end.
    pub(crate) fn at(&self, end: End) -> NodeId {
        match end {
            End::Dialer => self.dialer,
            End::Acceptor => self.acceptor,
        }
    }

    /// Whether a node is at one of the ends.
    pub(crate) fn touches(&self, node: NodeId) -> bool {
        self.dialer == node || self.acceptor == node
    }
}
