//! Every fixed bound, with its unit in the type or the name and its reason beside it.
//!
//! What an administrator may want to change is a setting instead (`settings/`).

use std::time::Duration;

/// Bytes of a route name. It stands in every session cookie.
pub const ROUTE_BYTES: usize = 32;

/// Bytes of a context path.
pub const CONTEXT_PATH_BYTES: usize = 255;

/// Session cookies of one request that are looked at: nested webapps may each have set one
/// (RFC 6265 section 5.4 sends the longer path first), anything above is noise or an attack.
pub const SESSION_COOKIES_TRIED: usize = 4;

// --- HTTP ---

/// A request head must be complete within this time. Tomcat: 20 s, Apache mod_reqtimeout: 20 to 40 s.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A request body that a page reads as a form. Tomcat's maxPostSize.
pub const FORM_BYTES: usize = 2 * 1024 * 1024;

/// How long a node keeps an idle connection of the balancer.
pub const NODE_KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long the balancer keeps an idle connection to a node.
pub const POOL_IDLE: Duration = Duration::from_secs(30);

// A pooled connection that the node closes first is a failed request in the making.
const _: () = assert!(POOL_IDLE.as_secs() * 2 <= NODE_KEEP_ALIVE.as_secs());

// --- Sessions ---

/// Attributes of one session.
pub const SESSION_ATTRIBUTES: usize = 1_024;

/// Bytes of an attribute name.
pub const ATTRIBUTE_NAME_BYTES: usize = 255;

/// Bytes of all encoded values of one session: one session must never be what fills a link's queue.
pub const SESSION_BYTES: usize = 1024 * 1024;

/// Nesting of an encoded value. The default of rmp-serde, 1,024, overflows a worker's stack in a debug build.
pub const VALUE_DEPTH: usize = 32;

/// Shards of the session table: a sweep or an export holds one of them at a time, and so stops few requests.
pub const TABLE_SHARDS: usize = 256;

/// Requests that wait for their turn in one session. A browser opens 6 connections; 200 parallel requests of one
/// session are a promise.
pub const TURN_WAITERS: usize = 1_024;

/// Time between looks for sessions that are over. Tomcat looks every 60 s.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Ended sessions told in one message to the replicator.
pub const SWEEP_BATCH: usize = 1_024;

/// How long an ended session is remembered. Longer than any delta can be under way: a link that is silent for
/// [`LINK_SILENCE`] is closed.
pub const TOMBSTONE: Duration = Duration::from_secs(600);

/// A peer that acknowledges nothing for this long is disconnected (TCP_USER_TIMEOUT, tcp(7)).
pub const LINK_SILENCE: Duration = Duration::from_secs(10);

const _: () = assert!(TOMBSTONE.as_secs() > 10 * LINK_SILENCE.as_secs());

// --- Replication ---

/// Bytes of one frame on a link, its length prefix left out.
pub const FRAME_BYTES: usize = 2 * 1024 * 1024;

/// Bytes of a frame before the peer has been greeted.
pub const GREETING_BYTES: usize = 4 * 1024;

/// Time for a greeting.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes queued for one peer on one link; above it the peer is marked for repair and nothing more is queued.
pub const LINK_QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// Whole records on their way to a joining peer and not yet acknowledged, for one link.
pub const EXPORT_WINDOW: usize = 1_024;

// The largest session fits a frame with its names and head, and a queue holds several frames.
const _: () = assert!(SESSION_BYTES + SESSION_ATTRIBUTES * (ATTRIBUTE_NAME_BYTES + 32) + 1_024 <= FRAME_BYTES);
const _: () = assert!(FRAME_BYTES * 4 <= LINK_QUEUE_BYTES);

/// Connections accepted on the replication port and not yet greeted.
pub const PENDING_GREETINGS: usize = 64;

/// First pause before a link is tried again; it doubles up to [`LINK_RETRY_LAST`].
pub const LINK_RETRY_FIRST: Duration = Duration::from_millis(20);

/// Longest pause before a link is tried again.
pub const LINK_RETRY_LAST: Duration = Duration::from_millis(500);

/// Bytes read from a link at once.
pub const LINK_READ_BYTES: usize = 64 * 1024;

/// How often a replicator looks for peers and claims whose time is over.
pub const REPLICATOR_TICK: Duration = Duration::from_millis(20);

/// Messages in a replicator's mailbox before senders wait; actix's default of 16 is less than one burst.
pub const REPLICATOR_MAILBOX: usize = 4_096;

/// How long the links of a joining peer must have been quiet before everything is copied to it.
pub const EXPORT_QUIET: Duration = Duration::from_millis(40);

/// A peer that was told everything less than this before a node was lost is told again: what the lost node owned was left
/// to that node to tell. Longer than it takes to notice a loss and to copy everything.
pub const EXPORT_AGAIN: Duration = Duration::from_secs(60);

/// A claim that is refused by a higher one is tried again this often.
pub const CLAIM_TRIES: usize = 4;

/// Answers to claims of one link that wait to be written.
pub const CLAIMS_ANSWERED: usize = 1_024;
