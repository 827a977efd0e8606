//! HTTP, on nodes and at the balancer.

use std::time::Duration;

use super::VALUE_DEPTH;

/// A request head must be complete within this time. Tomcat: 20 s, Apache mod_reqtimeout: 20 to 40 s.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections to a node, over all workers: balancers have a few hundred, other fronts one for each of their clients.
pub const NODE_CONNECTIONS: usize = 50_000;

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

/// Bytes of all bodies that a node is being sent or has in its hands, files on the disk included. Above it a body is answered
/// 503.
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
