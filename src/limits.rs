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

/// Time for a form's body, once its head is there.
pub const FORM_TIMEOUT: Duration = Duration::from_secs(30);

/// Files of one form.
pub const UPLOADS: usize = 64;

/// Bytes of a file that are kept in memory; from there on it is written to the disk, in pieces of this size: fewer trips to
/// a thread that may wait for the disk.
pub const UPLOAD_PIECE_BYTES: usize = 128 * 1024;

/// Time for the body of a form with files. A form of 32 MiB over 1 Mbit/s takes 4.5 minutes.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Silence in the middle of such a body.
pub const UPLOAD_SILENCE: Duration = Duration::from_secs(20);

/// Bytes of all files that a node is being sent or has in its hands. Above it a form with files is answered 503.
pub const UPLOADS_BYTES: u64 = 1024 * 1024 * 1024;

/// Bytes of a file's name, as on most file systems.
pub const FILE_NAME_BYTES: usize = 255;

/// Values in a JSON body, those in others included: some dozen bytes each. A form of [`FORM_BYTES`] could have a million.
pub const JSON_VALUES: usize = 100_000;

/// Nesting of a JSON body. All of it can be kept in a session, with a level or two around it.
pub const JSON_DEPTH: usize = 24;

const _: () = assert!(JSON_DEPTH + 2 < VALUE_DEPTH);

/// A body of the control interface.
pub const CONTROL_BYTES: usize = 4 * 1024;

/// How long a node keeps an idle connection of the balancer.
pub const NODE_KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long the balancer keeps an idle connection to a node.
pub const POOL_IDLE: Duration = Duration::from_secs(30);

// A pooled connection that the node closes first is a failed request in the making.
const _: () = assert!(POOL_IDLE.as_secs() * 2 <= NODE_KEEP_ALIVE.as_secs());

// --- Sessions ---

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

/// Bytes of the longest block of a snapshot: one that was almost full, and the largest session.
pub const SNAPSHOT_BLOCK_MOST: usize = SNAPSHOT_BLOCK_BYTES + SNAPSHOT_ENTRY_BYTES;

/// Bytes of one session in a snapshot: as much as fits a frame.
pub const SNAPSHOT_ENTRY_BYTES: usize = FRAME_BYTES;

/// A snapshot that is older is not loaded: nobody waits for its sessions, or a clock is wrong.
pub const SNAPSHOT_AGE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Snapshots of one node that were set aside because they are damaged, and as many because they are out of date.
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

/// Time between two lines in the log about writes that are refused for want of copies; all of them are counted.
pub const SHORTAGE_TOLD: Duration = Duration::from_secs(10);

/// A copy on a node that is no holder any more is dropped when it has not been told of for this long, and the live nodes
/// have been the same for this long: whoever holds the session now has been told by then.
pub const STRAY_COPY: Duration = Duration::from_secs(600);

// --- Replication ---

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

/// Bytes queued for one peer on one link; above it the peer is marked for repair and nothing more is queued.
pub const LINK_QUEUE_BYTES: usize = 16 * 1024 * 1024;

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

const _: () = assert!(REPAIR_QUEUE_BYTES < LINK_QUEUE_BYTES);

// A batch fits a frame with the largest session as its last one.
const _: () = assert!(REPAIR_BATCH_BYTES + SESSION_FRAME_BYTES + 64 <= FRAME_BYTES);
const _: () = assert!(REPAIR_LIST * 24 + 64 <= FRAME_BYTES && REPAIR_LIST <= REPAIR_IDS);

/// Bytes of the largest session in a frame, with its names and head.
const SESSION_FRAME_BYTES: usize =
    SESSION_BYTES + (SESSION_ATTRIBUTES + REMOVED_ATTRIBUTES) * (ATTRIBUTE_NAME_BYTES + 32) + 1_024;

// The largest delta fits a frame.
const _: () = assert!(SESSION_BYTES + DRAFT_CHANGES * (ATTRIBUTE_NAME_BYTES + 32) + 1_024 <= FRAME_BYTES);

// The largest session fits a frame, and a queue holds several frames.
const _: () = assert!(SESSION_FRAME_BYTES <= FRAME_BYTES);
const _: () = assert!(FRAME_BYTES * 4 <= LINK_QUEUE_BYTES);

/// Ports tried for membership and replication where none is configured: Tomcat's receiver port with its autoBind of 100.
pub const REPLICATION_PORTS: std::ops::RangeInclusive<u16> = 4000..=4099;

/// Connections accepted on the replication port and not yet greeted.
pub const PENDING_GREETINGS: usize = 64;

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

/// Answers to claims of one link that wait to be written.
pub const CLAIMS_ANSWERED: usize = 1_024;
// --- Membership ---

/// Bytes of a datagram's body. With its head and its seal it fits an Ethernet frame unfragmented.
pub const DATAGRAM_BODY_BYTES: usize = 1_400;

/// Lives of members whose sealed datagrams are known, so that none is taken twice. The one that was silent longest is
/// forgotten: twice the members, for restarts.
pub const SENDERS: usize = 2 * MEMBERS;

/// Time between two lines of the log about datagrams and links that are not sealed with this cluster's secret. The
/// line says how many there were.
pub const UNSEALED_LINE: Duration = Duration::from_secs(10);

/// Members remembered, those that are down included, and members of one balancer. Every node holds every session, so a cluster is far smaller.
pub const MEMBERS: usize = 256;

/// News of members that wait to be passed on. More than twice the members only if somebody forges them: then
/// datagrams are dropped until these have been told.
pub const UNTOLD_NEWS: usize = 2 * MEMBERS;

/// Bytes of a member's announcement that a newer version added and this one only carries along.
pub const UNKNOWN_FIELDS_BYTES: usize = 64;

/// Addresses taken from one name in `cluster.peers`.
pub const ADDRESSES_OF_A_PEER: usize = 8;

/// Addresses taken from one name in `cluster.dns`.
pub const ADDRESSES_OF_A_NAME: usize = 64;

/// Time between two lines of the log about a name that cannot be looked up.
pub const UNRESOLVED_LINE: Duration = Duration::from_secs(60);

/// Addresses heard by multicast that are remembered between beacons.
pub const HEARD_ADDRESSES: usize = 256;

/// Sender addresses of other clusters that are logged, once each.
pub const STRANGERS_LOGGED: usize = 64;

/// Probes for an absent peer that are under way at once; each is a socket.
pub const PROBES_AT_ONCE: usize = 32;
// --- Webapps ---

/// Folders of the webapps folder that are looked at.
pub const WEBAPPS: usize = 256;

/// Files of one webapp: its list of static files is kept in memory.
pub const WEBAPP_FILES: usize = 20_000;

/// Nesting of a webapp's folders.
pub const WEBAPP_DEPTH: usize = 32;

/// Bytes of an archive, and of what it unpacks to (OWASP ASVS 5.2.5).
pub const ARCHIVE_BYTES: u64 = 100 * 1024 * 1024;

/// Entries of an archive.
pub const ARCHIVE_ENTRIES: usize = 10_000;

/// An archive unpacks to at most so many times its size: text rarely shrinks to a tenth, a bomb to a thousandth.
pub const ARCHIVE_RATIO: u64 = 100;

/// Unpacked bytes from which on [`ARCHIVE_RATIO`] counts: small files of spaces do no harm.
pub const ARCHIVE_RATIO_FROM: u64 = 1024 * 1024;

/// Bytes of the name of an archive's entry.
pub const ARCHIVE_PATH_BYTES: usize = 255;

/// An archive that does not open whole and has not changed for this long is broken; until then it is being copied.
/// Longer than a slow network stalls.
pub const ARCHIVE_PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of one sentence of a report about a webapp: one of each webapp fit [`CONTROL_ANSWER_BYTES`].
pub const REPORTED_BYTES: usize = 400;

const _: () = assert!(WEBAPPS * (REPORTED_BYTES + CONTEXT_PATH_BYTES * 2) <= CONTROL_ANSWER_BYTES);

/// Webapps that were checked for the cluster and wait to be deployed. A deployment checks one and then deploys it.
pub const WEBAPPS_PREPARED: usize = 4;

/// Names that the cluster has ever deployed; each is remembered, also when it was undeployed.
pub const DEPLOYED_NAMES: usize = 256;

/// Archives of one name that are kept to go back to. kubernetes: 10 revisions; an archive is larger.
pub const DEPLOYED_EARLIER: usize = 3;

/// Bytes of an archive in one message between nodes.
pub const ARCHIVE_PART_BYTES: usize = 256 * 1024;

const _: () = assert!(ARCHIVE_PART_BYTES < CHANNEL_MESSAGE_BYTES);

/// Deployments that wait to be looked at by the node that was asked.
pub const DEPLOY_ORDERS: usize = 8;

/// News of one deployment that wait to be read.
pub const DEPLOY_EVENTS: usize = 64;

/// The longest wait for one step at one node: it may have to unpack and compile a large archive.
pub const DEPLOY_STEP: Duration = Duration::from_secs(60);

/// A node that hears nothing of a deployment for this long, though the connection stands, takes it back.
pub const DEPLOY_TRIAL: Duration = Duration::from_secs(600);

/// The longest time a canary is watched.
pub const DEPLOY_WATCH: Duration = Duration::from_secs(300);

const _: () = assert!(DEPLOY_WATCH.as_secs() + DEPLOY_STEP.as_secs() < DEPLOY_TRIAL.as_secs());

/// The longest wait for the page that a webapp is asked for when it has begun to answer.
pub const DEPLOY_PROBE: Duration = Duration::from_secs(10);

/// How often a node asks each other one what is deployed; one that it has not asked yet is asked at once.
pub const DEPLOY_SYNC: Duration = Duration::from_secs(2);

/// How often a node looks whom to ask.
pub const DEPLOY_SYNC_TICK: Duration = Duration::from_millis(50);

/// Bytes of WEB-INF/web.xml.
pub const DESCRIPTOR_BYTES: u64 = 1024 * 1024;

/// Nesting of elements in WEB-INF/web.xml.
pub const DESCRIPTOR_DEPTH: usize = 16;

/// Elements of WEB-INF/web.xml: they are in memory while it is read.
pub const DESCRIPTOR_ELEMENTS: usize = 20_000;

/// Remarks about one descriptor or folder that are kept; more of the same kind teach nobody anything.
pub const WEBAPP_REMARKS: usize = 32;

/// Bytes of one template.
pub const TEMPLATE_BYTES: u64 = 1024 * 1024;

/// Bytes of all templates of one webapp.
pub const TEMPLATES_BYTES: u64 = 32 * 1024 * 1024;

/// Files above this many bytes count with their name and size in a webapp's version, not with their content: a
/// deployment must not wait for the disk.
pub const HASHED_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Static files up to this size are kept in memory once they were asked for, and compressed if their kind is worth it.
/// Larger ones are streamed from the disk.
pub const ASSET_KEPT_BYTES: u64 = 1024 * 1024;

/// Memory of a node for static files and their compressed forms, of all webapps together. What is asked for least gives
/// way.
pub const ASSETS_KEPT_BYTES: u64 = 64 * 1024 * 1024;

/// Parts of that memory, each with its own lock and its own share.
pub const ASSET_SHELVES: u64 = 4;

/// One of so many bytes of each part is for what was asked for only once: it drives out nothing that is asked for often.
pub const ASSET_NEW_SHARE: u64 = 4;

const _: () = assert!(ASSETS_KEPT_BYTES / ASSET_SHELVES / ASSET_NEW_SHARE >= 2 * ASSET_KEPT_BYTES);

/// What is smaller is not compressed: with its head it fits into one packet as it is. nginx's gzip_min_length is 20 bytes.
pub const COMPRESSED_FROM_BYTES: u64 = 1024;

/// A larger page is sent as it is: it would hold up the other requests of its worker for some milliseconds.
pub const COMPRESSED_PAGE_BYTES: u64 = 256 * 1024;

/// Bytes of a static file that are given to a connection at once: a slow client holds no more than this in memory.
pub const ASSET_CHUNK_BYTES: usize = 64 * 1024;

/// Work of one rendering of a page, in minijinja's fuel: about one unit an instruction and one each 64 bytes made.
/// Bounds the time on the worker (some milliseconds) and the memory (16 MB).
pub const PAGE_FUEL: u64 = 250_000;

/// Stack of a thread that renders pages. [`PAGE_FUEL`] lets a page wrap a value in itself some 70,000 times, and minijinja
/// compares, prints and frees such a value by recursion, at about 400 bytes a level. Only address space until it is used.
pub const PAGE_STACK_BYTES: usize = 64 * 1024 * 1024;

const _: () = assert!(PAGE_FUEL / 3 * 400 < PAGE_STACK_BYTES as u64);

/// Nesting of includes and macros in one rendering. minijinja's default, 500, is made for the stack of a main thread.
pub const PAGE_RECURSION: usize = 160;

/// Bytes of a static file that is an error page: it is kept in memory.
pub const ERROR_PAGE_BYTES: u64 = 256 * 1024;

/// Bytes of one rendered page.
pub const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Characters of a line that is shown with a page's fault.
pub const FAULT_LINE: usize = 160;

/// Templates named on the way to a page's fault.
pub const FAULT_TEMPLATES: usize = 8;

/// Names of a failed template that are shown.
pub const FAULT_NAMES: usize = 64;

/// Fields of a query or a form. Tomcat's maxParameterCount.
pub const PARAMETERS: usize = 1_000;

/// Nesting of a value that a page prints or makes JSON of.
pub const PRINTED_DEPTH: usize = 256;

/// Spaces by which a page indents JSON, for each level.
pub const JSON_INDENT: usize = 16;

/// Time from which on a rendering is named in the log: it keeps its worker from other requests. Fuel bounds most of what a
/// page does, but not how long it compares large texts.
pub const PAGE_SLOW: Duration = Duration::from_secs(1);

/// Messages kept for the next page. A page that is never shown must not fill the session.
pub const FLASHES: usize = 16;

/// Bytes of such a message, and below of its kind; what is longer is cut.
pub const FLASH_BYTES: usize = 1_024;

/// See [`FLASH_BYTES`].
pub const FLASH_KIND_BYTES: usize = 32;

/// Headers and cookies that one page may set.
pub const PAGE_HEADERS: usize = 64;

/// Bytes of a header that a page sets. Tomcat's maxHttpHeaderSize.
pub const PAGE_HEADER_BYTES: usize = 8 * 1024;

/// How often a node looks how far its peers are, for the pages that show it.
pub const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

/// Silence in the webapps folder before it is read: whoever copies is done by then.
pub const DEPLOY_QUIET: Duration = Duration::from_millis(300);

/// How often the webapps folder is looked at without a hint: network file systems give none. Tomcat: 10 s.
pub const DEPLOY_POLL: Duration = Duration::from_secs(5);

const _: () = assert!(DEPLOY_QUIET.as_millis() * 2 <= DEPLOY_POLL.as_millis());

// --- Life of a process ---

/// Orders that wait for a node.
pub const ORDERS: usize = 16;

/// How often a starting or stopping node looks whether it may go on.
pub const READY_POLL: Duration = Duration::from_millis(5);

/// How often a process looks whether one of its actors has died.
pub const ACTOR_CHECK: Duration = Duration::from_secs(1);

/// How long the news of a drain may take to every balancer: a round of gossip, and one more.
pub const DRAIN_HEARD: Duration = Duration::from_millis(400);

/// A draining node is left alone when no request has come for this long.
pub const DRAIN_QUIET: Duration = Duration::from_millis(150);

/// What a stopping node grants its connections when the time for a graceful stop is used up already.
pub const LAST_REPLIES: Duration = Duration::from_millis(500);

// A child is killed when it takes longer.
const _: () = assert!(LAST_REPLIES.as_millis() + LEAVE_TIMEOUT.as_millis() < KILL_GRACE.as_millis());

/// Time to tell the others that this member leaves.
pub const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a connection is read on after a reply that did not wait for the body, so that the reply arrives (RFC 9112
/// section 9.6).
pub const LINGER: Duration = Duration::from_secs(2);
// --- Settings and the command ---

/// Bytes of a settings file. Ours, with every key and its explanation, has a hundredth of it.
pub const SETTINGS_BYTES: usize = 1024 * 1024;

/// Bytes of a cluster's name. It stands in every datagram.
pub const CLUSTER_NAME_BYTES: usize = 64;

/// Bytes of the session cookie's name. It stands in every request.
pub const COOKIE_NAME_BYTES: usize = 64;

/// Bytes of a secret file: two lines of digits, and room for remarks.
pub const SECRET_FILE_BYTES: usize = 4 * 1024;

/// Secrets that one file may hold: the one in use, and the last or the next one while it is replaced.
pub const SECRETS: usize = 2;

/// Entries of one list in the settings: peers, members, networks.
pub const SETTING_LIST: usize = 256;

/// The largest `balancer.retry_body_bytes`: bodies are kept in memory, one for each request on its way.
pub const RETRY_BODY_BYTES: usize = 16 * 1024 * 1024;

/// HTTP workers of one process.
pub const WORKERS: usize = 1_024;

/// Nodes that one `tasuki up` starts: their HTTP ports are 10,000 apart, and one machine is no cluster.
pub const CHILD_NODES: usize = 9;

/// Bytes of an answer that the command reads: a status of [`SETTING_LIST`] nodes fits.
pub const STATUS_BYTES: usize = 8 * 1024 * 1024;

/// How long the command waits for one answer of the balancer.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long `tasuki restart` waits until the node is back and in sync.
pub const RESTART_TIMEOUT: Duration = Duration::from_secs(30);

/// How long `tasuki drain --wait` waits until the node owns nothing that can move: a million sessions, a busy cluster.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// How long `tasuki up` waits for its children before it prints their addresses anyway.
pub const UP_TIMEOUT: Duration = Duration::from_secs(10);

/// What a child gets beyond `shutdown_timeout` before it is killed.
pub const KILL_GRACE: Duration = Duration::from_secs(2);

/// A child that lives shorter than this is started again more slowly each time.
pub const SHORT_LIFE: Duration = Duration::from_secs(10);

/// The first wait before a child is started again; it doubles from there.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The longest wait before a child is started again.
pub const BACKOFF_LAST: Duration = Duration::from_secs(5);
// --- Balancer ---

/// Bytes of a request target. RFC 9110 section 4.1 asks for at least 8,000; Tomcat and httpd take 8 KiB.
pub const REQUEST_TARGET_BYTES: usize = 8 * 1024;

/// Bytes of all header fields of a request that is forwarded.
pub const REQUEST_HEADERS_BYTES: usize = 64 * 1024;

/// How long the balancer keeps an idle connection of a client. Apache: 5 s, Tomcat: 20 s, nginx: 75 s.
pub const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// After so long without a word a client's connection rests: it is kept, but nothing that a request needs.
pub const CLIENT_REST: Duration = Duration::from_secs(1);
const _: () = assert!(CLIENT_REST.as_millis() < CLIENT_KEEP_ALIVE.as_millis());

/// How long a client that was answered early may go on sending before its connection is closed: a close with unread
/// bytes would be a reset, and the client might never see the answer.
pub const CLIENT_LINGER: Duration = Duration::from_secs(2);

/// Bytes of a client's next requests that are read before its last one is answered: then TCP holds it back, and that it goes
/// away is noticed later.
pub const CLIENT_HELD_BYTES: usize = 64 * 1024;

/// Bytes read at once from a client that waits for an answer.
pub const CLIENT_READ_BYTES: usize = 4 * 1024;

/// Connections that are read on for that long after a request that was refused unread. They no longer count as connections;
/// above this they are closed at once.
pub const CLIENTS_LINGERING: usize = 1_024;

/// A client that sends nothing of an announced body for this long is answered 408. Apache mod_reqtimeout: 20 s.
pub const CLIENT_STALL: Duration = Duration::from_secs(20);

/// A client that takes nothing of an answer for this long is disconnected. nginx's send_timeout: 60 s; Apache's Timeout: 60 s.
pub const CLIENT_WRITE_STALL: Duration = Duration::from_secs(30);

/// A client that was waited for longer than [`CLIENT_STALL`] in all must have sent its body at least this fast in that time.
/// Apache mod_reqtimeout's MinRate.
pub const CLIENT_BYTES_PER_SECOND: u64 = 500;

/// A body small enough to be kept for a retry is read whole before a member is chosen, within this time: one byte a
/// second is no body. As long as a node gives a form ([`FORM_TIMEOUT`]).
pub const SMALL_BODY_TIMEOUT: Duration = FORM_TIMEOUT;

/// Between two looks at whether the clients of a balancer that has been replaced are gone.
pub const CLIENTS_CHECK: Duration = Duration::from_millis(20);

/// A balancer that takes another's place waits so long for the other to let go of `balancer.membership`.
pub const PORT_HANDED_OVER: Duration = Duration::from_secs(5);

/// Connections of clients, over all workers. Envoy's advice for the edge.
pub const CLIENT_CONNECTIONS: usize = 10_000;

/// Silence on a client's connection before the kernel asks whether it is still there; four unanswered questions
/// [`CLIENT_PROBE_INTERVAL`] apart end it. The only end of a WebSocket whose client lost its network: within two minutes.
pub const CLIENT_PROBE: Duration = Duration::from_secs(60);

/// See [`CLIENT_PROBE`].
pub const CLIENT_PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// Connections that wait to be accepted. The kernel cuts it to net.core.somaxconn.
pub const ACCEPT_BACKLOG: u32 = 1_024;

/// The longest wait for a TCP connection to a member, and never more than `balancer.timeout`. Linux sends a SYN that was lost
/// again after 1 s (RFC 6298 section 2): one lost packet must not cost the connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Silence on a connection to a member before the kernel asks whether it is still there; three unanswered questions
/// [`MEMBER_KEEPALIVE_INTERVAL`] apart end it, so that an answer from a machine that lost power does not hang for ever.
pub const MEMBER_KEEPALIVE: Duration = Duration::from_secs(15);

/// See [`MEMBER_KEEPALIVE`].
pub const MEMBER_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Idle connections kept by one worker for one member. More than a worker needs at once in most intranets; what is
/// above it is opened anew.
pub const POOL_CONNECTIONS: usize = 256;

/// How often a worker closes pooled connections that grew old or whose member went away.
pub const POOL_SWEEP: Duration = Duration::from_secs(1);

/// Bytes of the head of a member's answer.
pub const ANSWER_HEAD_BYTES: usize = 128 * 1024;

/// Bytes read at once from a member through a WebSocket.
pub const TUNNEL_READ_BYTES: usize = 8 * 1024;

/// "Not done here" answers that one request may follow, beside `balancer.max_attempts`. Nothing was executed, so they
/// cost only time; two allow "the owner is r3" and then a move because r3 has gone meanwhile, the third is in hand.
pub const NOT_DONE_HOPS: u32 = 3;

/// Repeated requests are compared with all requests of this span. Finagle's RetryBudget: 10 s.
pub const RETRY_ALLOWANCE_SPAN: Duration = Duration::from_secs(10);

/// Requests of one worker that may be repeated in [`RETRY_ALLOWANCE_SPAN`] beside `balancer.retry_percent`: with few requests
/// the death of a member would else use it up at once. Finagle: 10 a second.
pub const RETRY_RESERVE: u64 = 100;

/// A request is sent again only within this many times `balancer.timeout` of its arrival, unless `balancer.retry_timeout`
/// says otherwise.
pub const RETRY_TIMEOUTS: u32 = 2;

/// What members have carried counts half after this time for `by_traffic`. mod_jk's `maintain`: 60 s.
pub const TRAFFIC_HALF_LIFE: Duration = Duration::from_secs(60);

/// A member that answers with errors again and again is left out no longer than this, unless `balancer.retry` is. Envoy's
/// max_ejection_time.
pub const EJECTION_LONGEST: Duration = Duration::from_secs(300);

/// How long a request waits for a member when none may serve but one is on its way (starting, not yet probed).
pub const MEMBER_WAIT: Duration = Duration::from_secs(1);

/// Requests of one worker that wait for a member; more are sent the sorry page at once.
pub const MEMBER_WAITERS: usize = 512;

/// Time between health checks of a member whose state is changing.
pub const FAST_PROBE: Duration = Duration::from_millis(100);

/// How long after a change a member is probed fast.
pub const FAST_PROBE_SPAN: Duration = Duration::from_secs(10);

/// Broken webapps that the manager's page names.
pub const MANAGER_WARNINGS: usize = 16;

/// How often the balancer looks which health checks are due.
pub const PROBE_TICK: Duration = Duration::from_millis(25);

/// The longest wait for the answer to a health check, and never more than `balancer.timeout`.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest wait for a node's status, so that the manager page is quick when a node hangs.
pub const STATUS_TIMEOUT: Duration = Duration::from_millis(300);

/// The longest wait for a node to accept a new duty or a restart.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a node's answer to the balancer's own questions.
pub const CONTROL_ANSWER_BYTES: usize = 256 * 1024;

/// Bytes of a sorry page.
pub const SORRY_PAGE_BYTES: u64 = 1024 * 1024;

/// Bytes of the file that keeps what an administrator has set: [`MEMBERS`] routes with their values fit twice.
pub const KEPT_ORDERS_BYTES: u64 = 128 * 1024;

/// Warnings about requests that one worker logs in one second; the others are counted.
pub const WARNINGS_PER_SECOND: u32 = 10;

// A retry needs time after the first attempt has run into its timeout.
const _: () = assert!(RETRY_TIMEOUTS >= 2);

/// Bytes of a request head that are looked at before it is refused unread. Twice what actix-http keeps, which answers 431
/// first.
pub const HEAD_SCANNED_BYTES: usize = 256 * 1024;

/// Bytes of chunk extensions of one body, and bytes of its trailers. Neither means anything here; hyper and Go allow as
/// much, since bodies of nothing else were used to waste time (CVE-2023-39326).
pub const CHUNK_EXTRA_BYTES: usize = 16 * 1024;

/// Streams of one HTTP/2 connection at once. RFC 9113 section 6.5.2 advises at least 100; nginx has 128.
pub const HTTP2_STREAMS: u32 = 100;

/// Bytes of an answer that an HTTP/2 stream is given at a time: a client that takes them within [`CLIENT_WRITE_STALL`], some
/// 500 bytes a second, is slow and not stalled. The size of a frame, where a client asks for no other.
pub const HTTP2_PIECE_BYTES: usize = 16 * 1024;

/// Streams that an HTTP/2 client may reset within [`HTTP2_RESETS_WITHIN`] before its connection is closed: each has cost a
/// request to a member (CVE-2023-44487). A browser resets what a user scrolls away from.
pub const HTTP2_RESETS: usize = 100;

/// See [`HTTP2_RESETS`].
pub const HTTP2_RESETS_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of a head that an HTTP/2 client is told to keep to, and that h2 enforces: what HTTP/1 may have, with 32 bytes a
/// field as RFC 9113 section 6.5.2 counts them.
pub const HTTP2_HEAD_BYTES: u32 = (REQUEST_HEADERS_BYTES + REQUEST_TARGET_BYTES + 96 * 32) as u32;

/// Time for a TLS handshake. nginx: 60 s, HAProxy: the time for a head.
pub const TLS_HANDSHAKE: Duration = HEAD_TIMEOUT;

/// The longest wait for the disk when an administrator sets something: it holds then, and is not kept.
pub const DISK_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a balancer looks whether another process in its place was told something of a member.
pub const ORDERS_POLL: Duration = Duration::from_millis(250);

/// From so long before its end a certificate is warned of. ACME clients renew 30 days before: what is younger than this has
/// a renewal that fails.
pub const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// How often the files of the certificate are looked at. They are taken over when two looks found them the same.
pub const CERTIFICATE_POLL: Duration = Duration::from_secs(1);

/// Bytes of a certificate file or a key file; a chain of RSA certificates has 10 KiB.
pub const PEM_BYTES: u64 = 1024 * 1024;
