//! The life of a process: start, drain and end.

use std::time::Duration;

use super::KILL_GRACE;

/// File descriptors that are kept back from connections of clients: for links of replication, of which each peer has one a
/// worker in both directions, listeners, event queues, uploads, logs and orders.
pub const DESCRIPTORS_KEPT_BACK: usize = 192;

/// Fewer than these are told of at the start: about 400 users at once.
pub const DESCRIPTORS_FEW: usize = 1_024;

/// Orders that wait for a node.
pub const ORDERS: usize = 16;

/// How often a starting or stopping node looks whether it may go on.
pub const READY_POLL: Duration = Duration::from_millis(5);

/// How long a node that has loaded a snapshot waits for those that stopped together with it before it serves without them:
/// machines that were switched on at the same time are not ready at the same time.
pub const RETURN: Duration = Duration::from_secs(15);

/// How long another live node must have this node's name before the log says so: an earlier life of this node is off the list
/// sooner.
pub const NAMESAKE: Duration = Duration::from_secs(10);

/// Between two such lines.
pub const NAMESAKE_LINE: Duration = Duration::from_secs(60);

/// How often a node that starts looks whether its earlier life is over.
pub const LOCK_LOOK: Duration = Duration::from_millis(20);

/// How often a process looks whether one of its actors has died.
pub const ACTOR_CHECK: Duration = Duration::from_secs(1);

/// How long the news of a drain may take to every balancer: a round of gossip, and one more.
pub const DRAIN_HEARD: Duration = Duration::from_millis(400);

/// A stopping node waits so long for a peer that it cannot tell anything: one that has died is off the list by then.
pub const DRAIN_UNTOLD: Duration = Duration::from_secs(3);

/// A draining node is left alone when no request has come for this long.
pub const DRAIN_QUIET: Duration = Duration::from_millis(150);

/// What a stopping node grants its connections when the time for a graceful stop is used up already.
pub const LAST_REPLIES: Duration = Duration::from_millis(500);

// A child is killed when it takes longer; links and membership are told one after the other.
const _: () = assert!(LAST_REPLIES.as_millis() + 2 * LEAVE_TIMEOUT.as_millis() < KILL_GRACE.as_millis());

/// Time to tell the others that this member leaves.
pub const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a connection is read on after a reply that did not wait for the body, so that the reply arrives (RFC 9112
/// section 9.6).
pub const LINGER: Duration = Duration::from_secs(2);
