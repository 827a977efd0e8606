//! Settings and the command.

use std::time::Duration;

/// Bytes of a settings file. Ours, with every key and its explanation, has a hundredth of it.
pub const SETTINGS_BYTES: usize = 1024 * 1024;

/// Bytes of a cluster's name. A hash of it stands in every datagram.
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

/// A node that writes its sessions to the disk is not killed while its file grows, nor for this long after it last did: the
/// disk may be slow to take what it was given, and all sessions are lost with an unfinished file.
pub const SAVE_PATIENCE: Duration = Duration::from_secs(30);

/// How often the file is looked at.
pub const SAVE_LOOK: Duration = Duration::from_millis(100);

/// A child that lives shorter than this is started again more slowly each time.
pub const SHORT_LIFE: Duration = Duration::from_secs(10);

/// The first wait before a child is started again; it doubles from there.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The longest wait before a child is started again.
pub const BACKOFF_LAST: Duration = Duration::from_secs(5);
