//! The neighbours: who is in the cluster, and how members find each other.

mod roster;

pub use roster::{Duty, Member, NodeMember, Role, Roster, RosterChanged, SharedDuty};
