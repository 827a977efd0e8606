//! What stands around every datagram: whose it is, and what is inside. The one place where datagrams are wrapped
//! and unwrapped, so the one place to seal and open them.
//!
//! ```text
//! 't' 's' 'k'  version 1  hash of the cluster's name, 8 bytes  kind 1 byte  body up to 1,400 bytes
//! ```

use crate::limits;

const MAGIC: [u8; 3] = *b"tsk";

/// Grows when the head or a body changes so that an older member would misread it.
const VERSION: u8 = 1;

const HEAD_BYTES: usize = 13;

/// The longest datagram.
pub(super) const DATAGRAM_BYTES: usize = HEAD_BYTES + limits::DATAGRAM_BODY_BYTES;

/// What is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message of the SWIM protocol.
    Gossip,
    /// "I am here", to everybody in the multicast group. The body is the sender's [`crate::names::NodeId`].
    Beacon,
    /// Nothing: only whether it is refused matters.
    Probe,
    /// "I am leaving", to every member. The body is the sender's identity.
    Leave,
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too long, too short, not ours, or not what its kind has to be.
    Malformed,
    /// Ours, of a version or kind that this one does not speak.
    Version,
    /// Ours, of a cluster with another name.
    OtherCluster,
    /// It says that it comes from another address than it does.
    Forged,
    /// More news than can be passed on: somebody invents members.
    Flood,
}

/// The wrapping of one cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    cluster: [u8; 8],
}

impl Envelope {
    /// For the cluster of this name.
    pub(super) fn new(cluster: &str) -> Self {
        Self { cluster: fnv_1a(cluster.as_bytes()).to_be_bytes() }
    }

    /// A datagram of the body.
    pub(super) fn wrap(&self, kind: Kind, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.cluster);
        bytes.push(kind.number());
        bytes.extend_from_slice(body);
        bytes
    }

    /// The kind and the body, if the datagram is one of this cluster.
    pub(super) fn unwrap<'a>(&self, bytes: &'a [u8]) -> Result<(Kind, &'a [u8]), Refused> {
        let (head, body) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(Refused::Malformed)?;
        let [m0, m1, m2, version, cluster @ .., kind] = *head;
        if [m0, m1, m2] != MAGIC || body.len() > limits::DATAGRAM_BODY_BYTES {
            return Err(Refused::Malformed);
        }
        if version != VERSION {
            return Err(Refused::Version);
        }
        if cluster != self.cluster {
            return Err(Refused::OtherCluster);
        }
        Ok((Kind::of_number(kind).ok_or(Refused::Version)?, body))
    }
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Gossip => 1,
            Self::Beacon => 2,
            Self::Probe => 3,
            Self::Leave => 4,
        }
    }

    fn of_number(number: u8) -> Option<Self> {
        [Self::Gossip, Self::Beacon, Self::Probe, Self::Leave].into_iter().find(|kind| kind.number() == number)
    }
}

/// FNV-1a, 64 bits: tells clusters apart that share a network by accident. It keeps nobody out.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_datagram_are_pinned() {
        let bytes = Envelope::new("tasuki").wrap(Kind::Beacon, &[0xaa, 0xbb]);
        assert_eq!(bytes[..4], [b't', b's', b'k', 1]);
        assert_eq!(bytes[4..12], fnv_1a(b"tasuki").to_be_bytes());
        assert_eq!(bytes[12..], [2, 0xaa, 0xbb]);
        // The reference vector of the hash's authors.
        assert_eq!(fnv_1a(b"foobar"), 0x85944171f73967e8);
    }

    #[test]
    fn each_kind_comes_back_as_it_was() {
        let envelope = Envelope::new("a");
        for kind in [Kind::Gossip, Kind::Beacon, Kind::Probe, Kind::Leave] {
            assert_eq!(envelope.unwrap(&envelope.wrap(kind, b"body")), Ok((kind, &b"body"[..])));
        }
    }

    #[test]
    fn every_stranger_is_refused_for_its_own_reason() {
        let envelope = Envelope::new("a");
        let good = envelope.wrap(Kind::Gossip, b"body");
        let changed = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            bytes
        };
        assert_eq!(envelope.unwrap(&good[..HEAD_BYTES - 1]), Err(Refused::Malformed));
        assert_eq!(envelope.unwrap(&changed(0)), Err(Refused::Malformed));
        assert_eq!(envelope.unwrap(&changed(3)), Err(Refused::Version));
        assert_eq!(envelope.unwrap(&changed(4)), Err(Refused::OtherCluster));
        assert_eq!(envelope.unwrap(&changed(12)), Err(Refused::Version));
        assert_eq!(Envelope::new("b").unwrap(&good), Err(Refused::OtherCluster));
        let long = envelope.wrap(Kind::Gossip, &[0; limits::DATAGRAM_BODY_BYTES + 1]);
        assert_eq!(envelope.unwrap(&long), Err(Refused::Malformed));
    }
}
