//! Webapps: their files, pages, uploads and deployment.

use std::time::Duration;

use super::{CHANNEL_MESSAGE_BYTES, CONTEXT_PATH_BYTES, CONTROL_ANSWER_BYTES};

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
