//! What nodes tell each other, and how long they wait.

use std::time::Duration;

use super::{ATTRIBUTE_NAME_BYTES, DRAFT_CHANGES, LINK_SILENCE, REMOVED_ATTRIBUTES, SESSION_ATTRIBUTES, SESSION_BYTES};

/// Bytes of one message of a channel: a part of an archive, or a list of what a cluster has deployed.
pub const CHANNEL_MESSAGE_BYTES: usize = 1024 * 1024;

/// Channels of other nodes that wait to be looked at.
pub const VISITS: usize = 16;

/// Bytes of one frame on a link, its length prefix left out.
pub const FRAME_BYTES: usize = 2 * 1024 * 1024;

/// Bytes of a frame before the peer has been greeted.
pub const GREETING_BYTES: usize = 4 * 1024;

/// Time for a greeting.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes queued for one peer on all links to it, with up to seven workers; above its part of them a link has the peer marked
/// for repair, and queues nothing more.
pub const PEER_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// The part of [`PEER_QUEUE_BYTES`] of one of so many links to a peer: one for each worker, and one for repairs. It has room
/// for the largest commits of several requests that end together.
pub const fn link_queue_bytes(links: usize) -> usize {
    let (part, least) = (PEER_QUEUE_BYTES / links, FRAME_BYTES * 4);
    if part < least { least } else { part }
}

/// Ends of sessions told in a repair and not yet acknowledged, for one peer: some milliseconds of its work, because the
/// lease is renewed over the same link.
pub const REPAIR_WINDOW: usize = 2_048;

/// Bytes of sessions in one batch of a repair, from which on it is sent: some hundred small sessions, a fraction of a
/// millisecond for either end. The last session of a batch may be a large one.
pub const REPAIR_BATCH_BYTES: usize = 60 * 1024;

/// Batches of one repair that are not acknowledged: enough for a peer that waits its turn on a busy processor for 20 ms to
/// find work when it gets one. The lease is renewed over the same link and waits for their bytes, but not until they are
/// taken into the table.
pub const REPAIR_BATCHES: usize = 16;

/// A peer that has told something in a repair within this time has more to tell, or is just done. To look meanwhile whether
/// it lacks something would find all that is on its way, and take longer than the repair itself.
pub const REPAIR_TOLD: Duration = Duration::from_secs(1);

/// Attribute names that the sessions of one batch share while it is read; they are looked through one by one.
pub const REPAIR_NAMES: usize = 16;

/// Bytes queued for a peer up to which a repair adds more. What else goes over the same link waits for no more than that.
pub const REPAIR_QUEUE_BYTES: usize = 256 * 1024;

/// Sessions of one list that a peer is asked about in a repair: 96 KiB.
pub const REPAIR_LIST: usize = 4_096;

/// Sessions of which a repair knows at once that they are to be told or listed, for one peer: 6 MiB at most. The rest is
/// looked up when half of these are dealt with.
pub const REPAIR_IDS: usize = 262_144;

/// Bytes of sessions that are packed as they are looked up, so that nobody looks for them twice: what a repair knows of
/// small sessions. Of larger ones only the ids are kept. Half as much again is there while one look follows another.
pub const REPAIR_AHEAD_BYTES: usize = 24 * 1024 * 1024;

// However many links there are.
const _: () = assert!(REPAIR_QUEUE_BYTES < FRAME_BYTES);

// A batch fits a frame with the largest session as its last one.
const _: () = assert!(REPAIR_BATCH_BYTES + SESSION_FRAME_BYTES + 64 <= FRAME_BYTES);
const _: () = assert!(REPAIR_LIST * 24 + 64 <= FRAME_BYTES && REPAIR_LIST <= REPAIR_IDS);

/// Bytes of the largest session in a frame, with its names and head.
const SESSION_FRAME_BYTES: usize =
    SESSION_BYTES + (SESSION_ATTRIBUTES + REMOVED_ATTRIBUTES) * (ATTRIBUTE_NAME_BYTES + 32) + 1_024;

// The largest delta fits a frame.
const _: () = assert!(SESSION_BYTES + DRAFT_CHANGES * (ATTRIBUTE_NAME_BYTES + 32) + 1_024 <= FRAME_BYTES);

// The largest session fits a frame.
const _: () = assert!(SESSION_FRAME_BYTES <= FRAME_BYTES);

/// Ports tried for membership and replication where none is configured: Tomcat's receiver port with its autoBind of 100.
pub const REPLICATION_PORTS: std::ops::RangeInclusive<u16> = 4000..=4099;

/// Connections accepted on the replication port and not yet greeted: of addresses where members live, and of all others.
pub const PENDING_GREETINGS: usize = 64;

/// As long as its link has been broken for less than this, a peer that nobody listens for has ended: a process that dies may
/// close its listener a little later than its links.
pub const LINK_DEATH: Duration = Duration::from_secs(1);
/// Pause before a peer is tried again whose link has just broken and that breaks off greetings: it may be dying.
pub const LINK_RETRY_DYING: Duration = Duration::from_millis(5);
/// First pause before a link is tried again; it doubles up to [`LINK_RETRY_LAST`].
pub const LINK_RETRY_FIRST: Duration = Duration::from_millis(20);

/// How long a live member is without a link before somebody has to look, and between two lines about it. One that has died
/// is off the list sooner.
pub const LINK_ABSENCE: Duration = Duration::from_secs(15);

/// Longest pause before a link is tried again.
pub const LINK_RETRY_LAST: Duration = Duration::from_millis(500);

/// Bytes read from a link at once.
pub const LINK_READ_BYTES: usize = 64 * 1024;

/// Bytes given to a link's socket at once: sealing more would hold up the worker for longer than a millisecond.
pub const LINK_WRITE_BYTES: usize = 1024 * 1024;

/// How often a replicator looks for peers and claims whose time is over.
pub const REPLICATOR_TICK: Duration = Duration::from_millis(20);

/// Messages in a replicator's mailbox before senders wait; actix's default of 16 is less than one burst.
pub const REPLICATOR_MAILBOX: usize = 4_096;

/// How long there must have been no new reason before a repair begins: the links of all workers come up one after the
/// other, and one repair serves them all.
pub const REPAIR_QUIET: Duration = Duration::from_millis(40);

/// How long a repair goes on without a word from its peer before it begins anew. A link that is dead ends sooner, by
/// [`LINK_SILENCE`].
pub const REPAIR_PATIENCE: Duration = Duration::from_secs(30);

/// How long a repair waits for the commits of one session to be safe before it leaves that session to them. Longer than one
/// commit takes: then there was another since, and the peer was told of it.
pub const REPAIR_OPEN: Duration = Duration::from_secs(5);

/// The pause before a repair that found something is followed by a look whether all is well now; it doubles. A peer that
/// joined has been told everything by then, also what others tell it.
pub const REPAIR_AGAIN: Duration = Duration::from_secs(5);

/// The pause before a look whether what was left to other nodes has been told by them: about as long as they are behind.
pub const REPAIR_LEFT: Duration = Duration::from_millis(100);

/// Such looks in a row. Under load something is always on its way, and differs for that moment.
pub const REPAIR_LOOKS: u32 = 3;

const _: () = assert!(REPAIR_PATIENCE.as_secs() > LINK_SILENCE.as_secs());

/// Copies from one link that wait for the turns of their sessions. A turn comes within the time of a request, so a repair
/// is not held up by them.
pub const MERGES_WAITING: usize = 256;

/// How long a copy waits for the turn of its session, in the queue of the session's requests. Its sender believes by then
/// that it is held; one that is given up comes again with the next repair, a minute later.
pub const MERGE_PATIENCE: Duration = Duration::from_secs(60);

/// A confirmation of a peer lets a node answer from its own copies for this long. A node that was paused for less is not
/// noticed; one that ends is replaced at once, but one that only falls silent not sooner than this.
pub const LEASE: Duration = Duration::from_millis(300);

// Several renewals fit a lease.
const _: () = assert!(REPLICATOR_TICK.as_millis() * 10 <= LEASE.as_millis());

/// While a member that gives no sign counts as live for less than this, nobody is told that a session does not exist: that
/// member may have it. Longer than membership takes to notice that a node is down.
pub const UNHEARD: Duration = Duration::from_secs(10);

/// A claim that is refused by a higher one is tried again this often.
pub const CLAIM_TRIES: usize = 4;

/// How long a claim that was outranked twice rests before it is tried a third time, and twice as long before the next: two
/// nodes that outrank each other again and again, each before the other's claim is over, would both never own the session.
/// Longer than two rounds of questions take on a slow link.
pub const CLAIM_REST: Duration = Duration::from_millis(60);

/// Sessions that a draining node offers to another one at a time; it offers more when these have moved.
pub const OFFER_SESSIONS: usize = 256;

/// Claims under way of sessions that were offered. Few: requests have their own claims, and go first.
pub const OFFER_CLAIMS: usize = 16;

/// How long a draining node waits for the sessions of one offer to move before it offers others.
pub const OFFER_PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks of a draining node at what it still owns.
pub const OFFER_PAUSE: Duration = Duration::from_millis(250);

/// The same when nothing was left at the last one: a look at a million sessions is work, and a node may stay drained for days.
pub const OFFER_IDLE: Duration = Duration::from_secs(2);

/// A worker that has not said in this time how its links are is not asked on: it hangs, or the machine does.
pub const LINK_REPORT: Duration = Duration::from_secs(2);

/// Claims of one link that wait for the turn of their session, from which on nothing more is read of it: far more than a
/// node has requests under way.
pub const CLAIMS_WAITING: usize = 16 * 1024;

/// Answers to claims of one link that wait to be written.
pub const CLAIMS_ANSWERED: usize = 1_024;
