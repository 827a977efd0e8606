//! Sessions: their size, life and snapshots.

use std::time::Duration;

use super::{FRAME_BYTES, SAVE_PATIENCE, WEBAPPS};

/// Ids that are drawn for a new session, until one suits the node that creates it. With 8 nodes and one copy one of three
/// or four does; what is found in vain costs a packet more for each write.
pub const ID_DRAWS: usize = 64;

/// How long a node that need not hold a session remembers who has claimed it: longer than any claim takes, with pauses.
pub const CLAIM_REMEMBERED: Duration = Duration::from_secs(30);

/// Attributes of one session.
pub const SESSION_ATTRIBUTES: usize = 1_024;

/// Removed attributes of one session that are remembered. One that was dropped may come back from the other side of a
/// split; whoever has seen it removed knows better all the same.
pub const REMOVED_ATTRIBUTES: usize = 32;

/// Attributes that one request changes, those included that it removes again.
pub const DRAFT_CHANGES: usize = 2 * SESSION_ATTRIBUTES;

/// Bytes of an attribute name.
pub const ATTRIBUTE_NAME_BYTES: usize = 255;

/// Bytes of all encoded values of one session: one session must never be what fills a link's queue.
pub const SESSION_BYTES: usize = 1024 * 1024;

/// Attribute names that one thread shares between its sessions. Names that pages make up, one for each user or thing,
/// fill it in vain; the names that count come first.
pub const POOLED_NAMES: usize = 1_024;

/// Context paths that one thread shares between its sessions.
pub const POOLED_CONTEXTS: usize = WEBAPPS;

/// Nesting of an encoded value. The default of rmp-serde, 1,024, overflows a worker's stack in a debug build.
pub const VALUE_DEPTH: usize = 32;

/// Shards of the session table: a sweep or an export holds one of them at a time, and so stops few requests.
pub const TABLE_SHARDS: usize = 256;

/// Sessions whose memory a look at the whole table asks for at once: as many as a processor has reads under way.
pub const SLOTS_FETCHED: usize = 16;

/// Requests that wait for their turn in one session. A browser opens 6 connections; 200 parallel requests of one
/// session are a promise.
pub const TURN_WAITERS: usize = 1_024;

/// Time between looks for sessions that are over. Tomcat looks every 60 s.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Ended sessions told in one message to the replicator.
pub const SWEEP_BATCH: usize = 1_024;

/// Bytes of a snapshot's block, from which on it is written.
pub const SNAPSHOT_BLOCK_BYTES: usize = 64 * 1024;

/// Bytes of a snapshot that the disk has not confirmed. While it takes these, the file does not grow, and who waits for it
/// sees nothing. Smaller pieces than this cost time.
pub const SNAPSHOT_UNSETTLED_BYTES: usize = 4 * 1024 * 1024;

/// Bytes a second of the slowest disk that is waited for: of a memory card that others write to as well, say.
pub const SNAPSHOT_SLOWEST: usize = 256 * 1024;

const _: () = assert!(SNAPSHOT_UNSETTLED_BYTES <= SNAPSHOT_SLOWEST * SAVE_PATIENCE.as_secs() as usize);

/// Bytes of the longest block of a snapshot: one that was almost full, and the largest session.
pub const SNAPSHOT_BLOCK_MOST: usize = SNAPSHOT_BLOCK_BYTES + SNAPSHOT_ENTRY_BYTES;

/// Bytes of one session in a snapshot: as much as fits a frame.
pub const SNAPSHOT_ENTRY_BYTES: usize = FRAME_BYTES;

/// A snapshot that is older is not loaded: nobody waits for its sessions, or a clock is wrong.
pub const SNAPSHOT_AGE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Snapshots of one node that were set aside because they are damaged, as many because they are out of date, and as many that
/// could not be read.
pub const SNAPSHOTS_ASIDE: usize = 8;

/// How long an ended session is remembered. Longer than any delta can be under way: a link that is silent for
/// [`LINK_SILENCE`] is closed.
pub const TOMBSTONE: Duration = Duration::from_secs(600);

/// The longest time for which it is, of a session that may live longer than this elsewhere: a node that was away for longer
/// can bring it back.
pub const TOMBSTONE_LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// A peer that acknowledges nothing for this long is disconnected (TCP_USER_TIMEOUT, tcp(7)).
pub const LINK_SILENCE: Duration = Duration::from_secs(10);

/// Time between questions to a peer that has been silent for [`LINK_SILENCE`] (TCP_KEEPINTVL, tcp(7)).
pub const LINK_PROBE: Duration = Duration::from_secs(3);

const _: () = assert!(TOMBSTONE.as_secs() > 10 * LINK_SILENCE.as_secs());

/// The most copies of a session that can be asked for. Each is a message for every write.
pub const COPIES: usize = 16;

/// Time between two lines in the log of one kind, about writes that too few nodes hold or new sessions without room; all of
/// them are counted.
pub const NOTABLE_TOLD: Duration = Duration::from_secs(10);

/// A copy on a node that is no holder any more is dropped when it has not been told of for this long, and the live nodes
/// have been the same for this long: whoever holds the session now has been told by then.
pub const STRAY_COPY: Duration = Duration::from_secs(600);

/// A copy that was given to a node which has told nothing since is told to the holders for this long: that node may have given
/// its claim up.
pub const UNSETTLED: Duration = STRAY_COPY;

/// How long a node that was lost may be alive on the other side of a split, so that an old copy is not taken for the newest
/// one where only some nodes hold a session. As long as such copies are kept.
pub const MISSING: Duration = STRAY_COPY;

/// What a lost node has held or owned is held by others again after this time: it falls off the list, its sessions are copied.
pub const REPLACED: Duration = Duration::from_secs(30);

/// How long a node remembers what it was told under a claim that came to nothing: no longer than other nodes keep the copies
/// that they have promised to it.
pub const CLAIM_TRIED: Duration = Duration::from_secs(300);

/// Sessions of which it does so: those whose claims fail while a network is split.
pub const CLAIMS_REMEMBERED: usize = 1_024;

/// Epochs of one session that are remembered so.
pub const CLAIMS_TRIED: usize = 16;

/// Such nodes that are remembered.
pub const MISSING_NODES: usize = 64;
