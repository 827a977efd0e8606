//! The wire: deltas out, acknowledgements back, claims and their answers.
//!
//! ```text
//!   worker 1 ─► Replicator ─┬─ link ──► peer's accept ─► its table
//!   worker 2 ─► Replicator ─┤   ◄── acks, objections, answers
//!   main     ─► Replicator ─┘   (this one also repairs a peer that may lack something)
//! ```
//!
//! A replicator lives on the arbiter of the HTTP worker it serves: an update never hops between threads on its way out,
//! and what is queued within one turn of the event loop leaves in one write. What may be released is decided in
//! `ledger`, what is done about an answer in `core`, both pure; what is true is decided in `session::replica`.

pub mod accept;
mod actor;
pub mod batch;
mod buckets;
mod channel;
pub mod core;
pub mod frame;
mod greeting;
pub mod intake;
pub mod ledger;
mod link;
mod refusals;
pub mod repair;
mod seal;
pub mod survey;

pub use actor::{
    Claim, Claimed, LinkReport, Observe, Offer, OwnDuty, PeerNeeds, Repairs, Replicate, Replicator, ReplicatorConfig,
    Retire, Touch, WouldHold,
};
pub use channel::{Broken, Channel, Dialling, Visit};
pub use link::Carried;
pub use seal::LinkSeal;
