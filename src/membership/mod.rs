//! The neighbours: who is in the cluster, and how members find each other.
//!
//! ```text
//!            group socket ── beacons ──┐                        ┌── discovery: who is asked when
//!  others ◄─ gossip socket ─ datagrams ┼─► Membership ─► core ──┼── swim: who is live (foca)
//!            probe sockets ─ refusals ─┘      actor             └── datagram: wrapping, seal
//!                                               └─► RosterChanged to every subscriber
//! ```
//!
//! Every process is a member, the balancer too, and announces what others need to use it. A member that stops
//! answering is gone within 3 s, one that leaves at once, and one whose link broke as soon as a peer says so. A
//! restarted process is a new member; one that was declared down by mistake returns by itself.
//!
//! Nothing here knows what members do with each other: sessions, links and requests are elsewhere.

mod actor;
mod codec;
mod datagram;
mod discovery;
mod dns;
mod health;
mod identity;
mod multicast;
mod neighbours;
mod replay;
mod report;
mod roster;
mod seal;
mod seed;
mod strangers;
mod swim;
mod timers;
mod udp;
#[cfg(test)]
mod virtual_time;

pub use actor::{HandOver, Leave, LinkBroken, Membership, Observe, SetDuty, Subscribe};
pub use discovery::Way;
pub use report::{Datagrams, MemberReport, MemberState, Report};
pub use roster::{Duty, Member, NodeMember, Role, Roster, RosterChanged, SharedDuty};
pub use udp::bind;
