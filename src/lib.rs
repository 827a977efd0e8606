//! tasuki, an application server that carries users' sessions from node to node.
//!
//! ```text
//! client ─ http ─► balancer ─ http ─► node ─► webapp ─► session ─► replication ─ tcp ─► peers
//!         :12121   route in cookie    :18080  page      commit     deltas, acks          hold a copy
//!                                       ▲                              │
//!                                       └──── reply released ◄─────────┘ when enough copies are held
//! ```
//!
//! # The words
//!
//! | word | meaning |
//! |---|---|
//! | member | a process of the cluster: a node or a balancer |
//! | node | holds sessions and answers requests |
//! | route | a node's stable name, the suffix of the session cookie |
//! | owner | the one node that may commit a session now |
//! | holder | a node with a copy of a session |
//! | epoch | the rank of an ownership: the higher one wins |
//! | claim | a node asks the others to become the owner |
//! | lease | the right, confirmed again and again by the peers, to act as an owner |
//! | fence | a holder refuses an owner of a lower epoch |
//! | delta | the changes of one commit, on their way to the holders |
//! | in sync | of a peer: it is waited for before a reply is released |
//! | duty | what a node wants to be asked for: serving, draining |
//! | drain | no new sessions; the others take the owned ones over, idle ones too |

pub mod balancer;
pub mod cli;
pub mod deployment;
pub mod descriptors;
pub mod limits;
pub mod membership;
pub mod names;
pub mod node;
pub mod observe;
pub mod replication;
pub mod server;
pub mod session;
pub mod settings;
pub mod supervisor;
pub mod time;
mod untold;
pub mod webapp;
