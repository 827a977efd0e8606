//! Who is there.

use std::time::Duration;

/// Bytes of a datagram's body. With its head and its seal it fits an Ethernet frame unfragmented.
pub const DATAGRAM_BODY_BYTES: usize = 1_400;

/// Lives of members whose sealed datagrams are known, so that none is taken twice. The one that was silent longest is
/// forgotten: twice the members, for restarts.
pub const SENDERS: usize = 2 * MEMBERS;

/// Time between two lines of the log about datagrams and links that are not sealed with this cluster's secret. The
/// line says how many there were.
pub const UNSEALED_LINE: Duration = Duration::from_secs(10);

/// Time between two lines of the log about datagrams of another version, of members that have a secret while this one
/// has none, from another machine while there is no secret, or from another address than they say.
pub const STRANGER_LINE: Duration = Duration::from_secs(60);

/// Time between two lines of the log about other clusters: that they share a network is usual.
pub const OTHER_CLUSTER_LINE: Duration = Duration::from_secs(3_600);

/// Members remembered, those that are down included, and members of one balancer. With most managers every node holds
/// every session, so a cluster is far smaller.
pub const MEMBERS: usize = 256;

/// News of members that wait to be passed on. More than twice the members only if somebody forges them: then
/// datagrams are dropped until these have been told.
pub const UNTOLD_NEWS: usize = 2 * MEMBERS;

/// Bytes of a member's announcement that a newer version added and this one only carries along.
pub const UNKNOWN_FIELDS_BYTES: usize = 64;

/// Addresses taken from one name in `cluster.peers` or `cluster.dns`.
pub const ADDRESSES_OF_A_NAME: usize = 64;

/// Time between two lines of the log about a name that cannot be looked up.
pub const UNRESOLVED_LINE: Duration = Duration::from_secs(60);

/// Time between two attempts to join the multicast group: the system forgets that it was joined when the interface
/// goes, and says so to nobody.
pub const MULTICAST_JOIN: Duration = Duration::from_secs(30);

/// Addresses heard by multicast that are remembered between beacons.
pub const HEARD_ADDRESSES: usize = 256;

/// Probes for an absent peer that are under way at once; each is a socket.
pub const PROBES_AT_ONCE: usize = 32;
