//! Settings: raw as they are written, checked as they are used.
//!
//! ```text
//! built-in defaults < conf/tasuki.toml < TASUKI__SECTION__KEY < command line
//!        └────────────── raw (as written) ── check ──► Settings (as used)
//!                                              └────► Refusal: where, key, value, rule, what to do
//! ```
//!
//! Nothing is ignored: an unknown key, a variable with a typing error or a key of a later release is refused.

mod alike;
mod badge;
mod check;
mod checked;
mod defaults;
mod folders;
mod keys;
mod listening;
mod load;
mod raw;
mod refusal;
mod secret;
mod suggest;
mod values;

pub use alike::Alike;
pub use badge::Badge;
pub use checked::{
    Ack, Balancer, Cluster, Discovery, Manager, Method, Node, Session, SessionManager, Settings, Static, StaticMember,
    Tls,
};
pub(crate) use folders::absolute;
pub use keys::{VARIABLE_PREFIX, variable_of};
pub use listening::Listening;
pub use load::{DEFAULT_FILE, Loaded, Sources};
pub use refusal::{Place, Refusal};
pub use secret::{DEFAULT_SECRET_FILE, Key, Secret};
