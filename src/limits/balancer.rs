//! The balancer.

use std::time::Duration;

use super::{FORM_TIMEOUT, HEAD_TIMEOUT};

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

/// File descriptors of a client's connection: its own, and that of the node which answers it.
pub const CLIENT_DESCRIPTORS: usize = 2;

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

/// Bytes of the file that keeps what an administrator has set: [`MEMBERS`](super::MEMBERS) routes with their values fit twice.
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
