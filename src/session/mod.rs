//! The memory: sessions, who owns them, and what may be done to them.
//!
//! ```text
//!   request ─► turn (one at a time) ─► Draft ─► commit ─┐
//!                                                       ├─► Slot of the table ─► Update to the holders
//!   peer ─► Update, ClaimRequest ─► apply, promise ─────┘
//! ```
//!
//! What is true of a session is decided in `replica`, a pure state machine over one slot. This folder knows nothing of
//! HTTP and nothing of sockets.

mod actor;
mod attributes;
pub mod claim;
pub mod delta;
pub mod digest;
pub mod draft;
pub mod lease;
pub mod merge;
pub mod placement;
mod pool;
pub mod replica;
pub mod snapshot;
pub mod stamp;
mod table;
pub mod tries;
pub mod value;

pub use actor::{SessionStore, Swept};
pub use table::{NoTurn, Placed, Slots, Table, Turn};
