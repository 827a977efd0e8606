//! Who is in the cluster: what a member says of itself, and the list everyone else works from.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use actix::Message;
use serde::{Deserialize, Serialize};

use crate::names::{NodeId, Route};

/// One live member, as it announced itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// This life of the process.
    pub id: NodeId,
    /// UDP for membership and, of a node, TCP for replication.
    pub address: SocketAddr,
    /// What it does.
    pub role: Role,
}

/// What a member does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Holds sessions and answers requests.
    Node {
        /// Its stable name.
        route: Route,
        /// Where it answers HTTP.
        http: SocketAddr,
        /// What it wants to be asked for.
        duty: Duty,
    },
    /// Forwards requests. Holds nothing.
    Balancer,
}

/// What a node wants to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// It does not yet know its peers: nothing.
    Starting,
    /// Everything.
    Serving,
    /// Nothing new; other nodes may claim what it owns.
    Draining,
}

/// This node's own duty, shared by everyone who acts on it.
#[derive(Clone, Debug)]
pub struct SharedDuty(Arc<AtomicU8>);

/// The live members at one moment, this process left out, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// The others.
    pub members: Vec<Member>,
    /// Every configured peer has answered or refused, or `discovery_timeout` has passed: whoever is not on the list
    /// is not there.
    pub discovered: bool,
}

/// Told to every subscriber when the list has changed, and once right after it subscribed.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct RosterChanged(pub Arc<Roster>);

/// A node among the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMember {
    /// This life of the process.
    pub id: NodeId,
    /// Where links to it connect.
    pub replication: SocketAddr,
    /// Its stable name.
    pub route: Route,
    /// Where it answers HTTP.
    pub http: SocketAddr,
    /// What it wants to be asked for.
    pub duty: Duty,
}

impl SharedDuty {
    /// A starting node.
    pub fn starting() -> Self {
        Self(Arc::new(AtomicU8::new(Duty::Starting as u8)))
    }

    /// The duty now.
    pub fn get(&self) -> Duty {
        match self.0.load(Ordering::Acquire) {
            duty if duty == Duty::Starting as u8 => Duty::Starting,
            duty if duty == Duty::Serving as u8 => Duty::Serving,
            _ => Duty::Draining,
        }
    }

    /// Changes it for everyone.
    pub fn set(&self, duty: Duty) {
        self.0.store(duty as u8, Ordering::Release);
    }
}

impl Roster {
    /// The nodes on the list.
    pub fn nodes(&self) -> impl Iterator<Item = NodeMember> + '_ {
        self.members.iter().filter_map(|member| match &member.role {
            Role::Node { route, http, duty } => Some(NodeMember {
                id: member.id,
                replication: member.address,
                route: route.clone(),
                http: *http,
                duty: *duty,
            }),
            Role::Balancer => None,
        })
    }

    /// The node of this life, if it is live.
    pub fn node(&self, id: NodeId) -> Option<NodeMember> {
        self.nodes().find(|node| node.id == id)
    }
}
