//! Every fixed bound, with its unit in the type or the name and its reason beside it.
//!
//! What an administrator may want to change is a setting instead (`settings/`).

mod balancer;
mod command;
mod http;
mod membership;
mod process;
mod replication;
mod sessions;
mod webapps;

pub use self::{balancer::*, command::*, http::*, membership::*, process::*, replication::*, sessions::*, webapps::*};

/// Bytes of a route name. It stands in every session cookie.
pub const ROUTE_BYTES: usize = 32;

/// Bytes of a context path.
pub const CONTEXT_PATH_BYTES: usize = 255;

/// Session cookies of one request that are looked at: nested webapps may each have set one
/// (RFC 6265 section 5.4 sends the longer path first), anything above is noise or an attack.
pub const SESSION_COOKIES_TRIED: usize = 4;
