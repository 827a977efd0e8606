//! Everything one rendering works on: the root of what a template can name.

use std::sync::Arc;

use minijinja::{
    Value,
    value::{Enumerator, Object},
};

use super::{
    flash::FlashObject,
    request::{Request, RequestObject},
    response::ResponseObject,
    session::SessionObject,
};
use crate::{
    membership::Duty,
    names::{NodeId, Route},
    observe::SessionCounts,
    session::draft::Draft,
};

/// What pages see as `node`. Made when the roster changes, shared by all requests.
#[derive(Debug)]
pub struct NodeInfo {
    value: Value,
}

/// A node of the cluster, as pages see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its stable name.
    pub route: Route,
    /// What it wants to be asked for.
    pub duty: Duty,
    /// It is the node that renders the page.
    pub me: bool,
    /// This life of its process: another one after a restart.
    pub life: NodeId,
    /// How well it follows that node; none for that node itself, and before it was measured.
    pub follows: Option<Follows>,
}

/// How well a peer follows the node that renders the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follows {
    /// It holds what that node writes, before the reply leaves.
    pub in_sync: bool,
    /// For how long it has owed an acknowledgement, in milliseconds.
    pub lag_ms: u64,
}

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) session: Arc<SessionObject>,
    pub(super) request: Arc<RequestObject>,
    pub(super) response: Arc<ResponseObject>,
    node: Arc<NodeInfo>,
}

impl NodeInfo {
    /// This node's name, all nodes of the cluster in the order in which they are to be shown, and the sessions of this one.
    pub fn new(route: &Route, members: &[MemberInfo], sessions: SessionCounts) -> Self {
        let members: Vec<Value> = members.iter().map(member).collect();
        let sessions = Value::from_pairs([("owned", sessions.owned), ("held", sessions.held)]);
        let value = [("route", Value::from(route.as_str())), ("members", members.into()), ("sessions", sessions)];
        Self { value: Value::from_pairs(value) }
    }
}

fn member(member: &MemberInfo) -> Value {
    Value::from_pairs([
        ("route", Value::from(member.route.as_str())),
        ("duty", Value::from(duty(member.duty))),
        ("me", Value::from(member.me)),
        ("life", Value::from(member.life.to_string())),
        ("in_sync", Value::from(member.follows.map(|follows| follows.in_sync))),
        ("lag_ms", Value::from(member.follows.map(|follows| follows.lag_ms))),
    ])
}

impl Exchange {
    pub(super) fn new(request: Request, draft: Draft, node: &Arc<NodeInfo>) -> Self {
        let session = Arc::new(SessionObject::new(draft));
        let response = Arc::new(ResponseObject::new(&request.scheme, &request.host));
        let request = Arc::new(RequestObject::new(request, session.clone()));
        Self { session, request, response, node: node.clone() }
    }
}

impl Object for Exchange {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match key {
            "session" => Some(Value::from_dyn_object(self.session.clone())),
            "request" => Some(Value::from_dyn_object(self.request.clone())),
            "response" => Some(Value::from_dyn_object(self.response.clone())),
            "flash" => Some(Value::from_object(FlashObject::new(self.session.clone()))),
            "node" => Some(self.node.value.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["session", "request", "response", "flash", "node"])
    }
}

/// A colour for a name: an angle of the colour circle, 0 to 359. Names that differ in their last digit, as routes do,
/// lie far apart (the golden angle between neighbours).
pub(super) fn hue(name: &str) -> u32 {
    let sum = name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    (sum % 360 * 137 + 40) % 360
}

fn duty(duty: Duty) -> &'static str {
    match duty {
        Duty::Starting => "starting",
        Duty::Serving => "serving",
        Duty::Draining => "draining",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_routes_have_colours_that_are_told_apart() {
        for (a, b) in [("r1", "r2"), ("r2", "r3"), ("r1", "r3"), ("r3", "r4"), ("node-a", "node-b")] {
            let apart = hue(a).abs_diff(hue(b));
            assert!(apart.min(360 - apart) >= 60, "{a} {} and {b} {}", hue(a), hue(b));
        }
    }
}
