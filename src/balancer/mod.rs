//! The door: users connect here, and each is led to the node that knows them.
//!
//! ```text
//!            ┌── one of these on each worker ───────────────────────┐
//! client ──► serve ──► forward ──► choice ──► pool ── http/1.1 ──► member
//!              │          │ ▲         ▲ reads
//!    manager ◄─┘    retry ◄─┘      Published ◄── view ── Balancer (actor) ◄── roster, health checks
//!    sorry page                       │ counters, "refused", trouble ──────►│
//!                                     └────────────────────────────────────┘
//! ```
//!
//! What it promises: a request is sent again only when that is safe (`retry`), a session stays with its member while
//! that may serve and moves to the same place for everyone when not (`choice`), nothing is held whole in memory but
//! small request bodies (`upload`, `answer`), and a member that refuses connections is left alone once a request met it.
//!
//! What it does not know: sessions. It reads a name and a route, and believes neither; the nodes decide who owns what
//! and say so with `Tasuki-Retry`.
//!
//! Before a request is a request it is bytes: `framing` keeps what is doubtful from actix-web, on plain connections and over
//! TLS (`client`, `tls`); HTTP/2 is hyper's (`http2`), in front of the same `serve`.
//!
//! Pure: `framing`, `sticky`, `methods`, `choice`, `retry`, `health`, `orders`, `members`, `paths`, `throttle`. The view is read by requests
//! without a lock and replaced by the actor; requests tell the actor only of trouble, and only once for each burst.

mod actor;
mod answer;
mod certificate;
mod choice;
mod client;
mod connection;
mod control;
mod departure;
mod door;
mod entrance;
mod forward;
mod framing;
mod guard;
mod headers;
mod health;
mod http2;
mod keeper;
mod kept;
mod local;
mod manager;
mod members;
mod methods;
mod orders;
mod pace;
mod pages;
mod paths;
mod pool;
mod refusals;
mod retry;
mod rules;
mod serve;
mod shared;
mod sockets;
mod sticky;
mod throttle;
mod tls;
mod tunnel;
mod upload;
mod view;
mod wire;
mod worker;

pub use actor::{Balancer, IsSettled, Observe};
pub use door::{Door, Hall, prepare, start};
pub use kept::Kept;
pub use sockets::Sockets;
pub use tls::check_certificate;
pub use view::{MemberReport, Standing};
