//! The move: one webapp changes on all nodes, or on none.
//!
//! ```text
//! tasuki deploy ─ http, key ─► a node: coordinator ─┬─ channel ─► its own host   check, activate, probe, confirm
//!                               (campaign decides)  ├─ channel ─► r2's host
//!                                                   └─ channel ─► r3's host
//!                     a node that was not there: sync ─ channel ─► any host      manifest, archives
//! ```
//!
//! The archive is on every node, unpacked and compiled, before the first one serves it. What serves on trial goes back
//! when the coordinator says so or is heard of no more; the coordinator's own node confirms first, on its disk, and from
//! then on the new state spreads to whoever has not heard of it. Nodes agree by the serial of each webapp's entry: the
//! higher one stands, on every node, in whatever order the news come.
//!
//! What is decided is in `manifest` and `campaign`, both pure; `host` is this node's side, `store` its disk.

mod campaign;
mod coordinator;
mod host;
mod manifest;
mod message;
mod probe;
mod store;
mod sync;

pub use self::{
    coordinator::{Event, Order, Plan, Wanted},
    host::{Deployments, HostConfig, Unavailable},
    manifest::{Digest, Manifest},
    store::{Incoming, Store},
    sync::{Neighbourhood, Synced, start},
};
