//! Membership's list, merged with what is known.

use super::{Members, entry::Entry};
use crate::{
    limits,
    membership::{Duty, NodeMember, Roster},
    names::{NodeId, Route},
    time::Moment,
};

impl Members {
    /// Takes over membership's list. Returns how many nodes found no place ([`limits::MEMBERS`]).
    pub(crate) fn roster(&mut self, roster: &Roster, now: Moment) -> usize {
        let nodes: Vec<NodeMember> = roster.nodes().collect();
        self.forget_missing(&nodes, now);
        let mut refused = 0;
        for node in &nodes {
            if self.elect(&nodes, &node.route) == Some(node.id) && !self.place(node, now) {
                refused += 1;
            }
        }
        self.seen = nodes.iter().map(|node| node.id).collect();
        self.settle(now);
        refused
    }

    /// Which of several lives of one route counts: one that was not there before, else the known one, else the one
    /// that wants most.
    fn elect(&self, nodes: &[NodeMember], route: &Route) -> Option<NodeId> {
        let lives = || nodes.iter().filter(|node| node.route == *route);
        let eager = |node: &&NodeMember| match node.duty {
            Duty::Serving => 2,
            Duty::Starting => 1,
            Duty::Draining => 0,
        };
        let known = self.entries.iter().find(|entry| entry.route == *route).and_then(|entry| entry.node);
        let fresh = lives().filter(|node| !self.seen.contains(&node.id)).max_by_key(eager);
        let kept = || lives().find(|node| Some(node.id) == known);
        fresh.or_else(kept).or_else(|| lives().max_by_key(eager)).map(|node| node.id)
    }

    /// Nodes that left: those that the file names go back to the file's address.
    fn forget_missing(&mut self, nodes: &[NodeMember], now: Moment) {
        let gone = |entry: &Entry| entry.node.is_some() && !nodes.iter().any(|node| node.route == entry.route);
        for entry in self.entries.iter().filter(|entry| gone(entry) && entry.served) {
            self.left.retain(|route| *route != entry.route);
            self.left.push_back(entry.route.clone());
        }
        self.left.drain(..self.left.len().saturating_sub(limits::MEMBERS));
        self.entries.retain(|entry| entry.fixed.is_some() || !gone(entry));
        let orphans: Vec<usize> = (0..self.entries.len()).filter(|index| gone(&self.entries[*index])).collect();
        for index in orphans {
            let Some(fixed) = self.entries[index].fixed.clone() else { continue };
            let entry = &mut self.entries[index];
            (entry.node, entry.announced) = (None, None);
            if entry.address != fixed.address {
                let served = entry.served;
                let life = self.life(fixed.route.clone(), fixed.address, now);
                self.entries[index] = Entry { fixed: Some(fixed), duty: Duty::Serving, served, ..life };
            } else {
                entry.health.stir(now);
            }
        }
    }

    /// False when there is no place for another member.
    fn place(&mut self, node: &NodeMember, now: Moment) -> bool {
        let Some(index) = self.entries.iter().position(|entry| entry.route == node.route) else {
            if self.entries.len() >= limits::MEMBERS {
                return false;
            }
            let served = self.left.contains(&node.route);
            let life = self.life(node.route.clone(), node.http, now);
            self.insert(Entry { served, ..life.announced_by(node) });
            return true;
        };
        let entry = &mut self.entries[index];
        let first_named = entry.node.is_none() && entry.address == node.http;
        if entry.address == node.http && (first_named || entry.node == Some(node.id)) {
            entry.node = Some(node.id);
            if entry.announced.replace(node.duty) != Some(node.duty) {
                entry.wants(node.duty, now);
            }
            return true;
        }
        let (fixed, served) = (entry.fixed.take(), entry.served);
        let life = self.life(node.route.clone(), node.http, now);
        self.entries[index] = Entry { fixed, served, ..life.announced_by(node) };
        true
    }
}
