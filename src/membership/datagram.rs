//! What stands around every datagram: whose it is, and what is inside. The one place where datagrams are wrapped
//! and unwrapped, sealed and opened.
//!
//! ```text
//! 't' 's' 'k'  version 1  hash of the cluster's name, 8 bytes  kind 1 byte  body up to 1,400 bytes
//! 'T' 'S' 'K'  version 1  nonce 24 bytes  sealed: ( kind 1 byte  body up to 1,400 bytes )  tag 16 bytes
//! ```
//!
//! With a secret only the second form is sent and taken, without one only the first. The version stands before
//! anything else in both, so that whatever changes behind it is refused by name and never misread.

use std::{borrow::Cow, net::SocketAddr};

use super::seal::{NONCE_BYTES, Seal, TAG_BYTES};
use crate::limits;

const MAGIC: [u8; 3] = *b"tsk";
const SEALED_MAGIC: [u8; 3] = *b"TSK";

/// Grows when the head or a body changes so that an older member would misread it.
pub(super) const VERSION: u8 = 1;

const HEAD_BYTES: usize = 13;

/// Magic and version, which every form begins with.
const OPENING_BYTES: usize = 4;

const SEALED_HEAD_BYTES: usize = OPENING_BYTES + NONCE_BYTES;

/// The longest datagram.
pub(super) const DATAGRAM_BYTES: usize = SEALED_HEAD_BYTES + 1 + limits::DATAGRAM_BODY_BYTES + TAG_BYTES;

// With the heads of IPv4, 20, and UDP, 8, it fits an Ethernet frame unfragmented.
const _: () = assert!(HEAD_BYTES + limits::DATAGRAM_BODY_BYTES <= DATAGRAM_BYTES && DATAGRAM_BYTES + 20 + 8 <= 1_500);

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
    /// It comes from another machine, and this member has no secret.
    FromNetwork,
    /// Too long, too short, not ours, or not what its kind has to be.
    Malformed,
    /// Ours, of a version that this one does not speak.
    Version(u8),
    /// Ours, of a cluster with another name.
    OtherCluster,
    /// Ours and sealed, and this member has no secret.
    Sealed,
    /// Not sealed, or not with a secret of this cluster. Nothing more is ever said about the reason.
    Unsealed,
    /// Sealed as it should be, but taken before, or too old to tell.
    Replayed,
    /// It says that it comes from this address, and comes from another one.
    Forged { claimed: SocketAddr },
    /// More news than can be passed on: somebody invents members.
    Flood,
}

/// The wrapping of one cluster.
pub(super) struct Envelope {
    cluster: [u8; 8],
    seal: Option<Seal>,
}

impl Envelope {
    /// For the cluster of this name; with a seal, for those of its members who know the secret.
    pub(super) fn new(cluster: &str, seal: Option<Seal>) -> Self {
        Self { cluster: fnv_1a(cluster.as_bytes()).to_be_bytes(), seal }
    }

    /// Refuses senders that this member must not hear whatever they say: without a secret it is on loopback, where the
    /// settings keep it, and so is everybody whom it listens to.
    pub(super) fn admit(&self, from: SocketAddr) -> Result<(), Refused> {
        if self.seal.is_some() || from.ip().is_loopback() { Ok(()) } else { Err(Refused::FromNetwork) }
    }

    /// A datagram of the body.
    pub(super) fn wrap(&mut self, kind: Kind, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DATAGRAM_BYTES);
        match &mut self.seal {
            None => {
                bytes.extend_from_slice(&MAGIC);
                bytes.push(VERSION);
                bytes.extend_from_slice(&self.cluster);
                bytes.push(kind.number());
                bytes.extend_from_slice(body);
            }
            Some(seal) => {
                bytes.extend_from_slice(&SEALED_MAGIC);
                bytes.push(VERSION);
                seal.close(&mut bytes, &[&[kind.number()], body].concat());
            }
        }
        bytes
    }

    /// The kind and the body, if the datagram is one of this cluster. Of a sealed one nothing but its first four bytes is
    /// looked at before it is known to come from a member.
    pub(super) fn unwrap<'a>(&mut self, bytes: &'a [u8]) -> Result<(Kind, Cow<'a, [u8]>), Refused> {
        let noise = if self.seal.is_some() { Refused::Unsealed } else { Refused::Malformed };
        if bytes.len() > DATAGRAM_BYTES {
            return Err(noise);
        }
        let (opening, rest) = bytes.split_first_chunk::<OPENING_BYTES>().ok_or(noise)?;
        let [m0, m1, m2, version] = *opening;
        let sealed = match [m0, m1, m2] {
            MAGIC => false,
            SEALED_MAGIC => true,
            _ => return Err(noise),
        };
        if version != VERSION {
            return Err(Refused::Version(version));
        }
        match (&mut self.seal, sealed) {
            (Some(seal), true) => opened(seal.open(rest)?),
            (Some(_), false) => Err(Refused::Unsealed),
            (None, true) => Err(Refused::Sealed),
            (None, false) => self.plain(rest),
        }
    }

    fn plain<'a>(&self, rest: &'a [u8]) -> Result<(Kind, Cow<'a, [u8]>), Refused> {
        let (head, body) = rest.split_first_chunk::<{ HEAD_BYTES - OPENING_BYTES }>().ok_or(Refused::Malformed)?;
        let [cluster @ .., kind] = *head;
        if body.len() > limits::DATAGRAM_BODY_BYTES {
            return Err(Refused::Malformed);
        }
        if cluster != self.cluster {
            return Err(Refused::OtherCluster);
        }
        Ok((Kind::of_number(kind)?, Cow::Borrowed(body)))
    }
}

fn opened(mut content: Vec<u8>) -> Result<(Kind, Cow<'static, [u8]>), Refused> {
    let kind = Kind::of_number(*content.first().ok_or(Refused::Malformed)?)?;
    content.remove(0);
    Ok((kind, Cow::Owned(content)))
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

    fn of_number(number: u8) -> Result<Self, Refused> {
        let all = [Self::Gossip, Self::Beacon, Self::Probe, Self::Leave];
        all.into_iter().find(|kind| kind.number() == number).ok_or(Refused::Malformed)
    }
}

/// FNV-1a, 64 bits: tells clusters apart that share a network by accident. It keeps nobody out.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Secret;

    fn plain(cluster: &str) -> Envelope {
        Envelope::new(cluster, None)
    }

    fn secret(digit: char) -> Secret {
        Secret::parse(&digit.to_string().repeat(64)).unwrap()
    }

    /// A new life each time.
    fn sealed(cluster: &str, digit: char, life: u8) -> Envelope {
        Envelope::new(cluster, Some(Seal::new(&secret(digit), cluster, [life; 16])))
    }

    #[test]
    fn the_bytes_of_a_datagram_are_pinned() {
        let bytes = plain("tasuki").wrap(Kind::Beacon, &[0xaa, 0xbb]);
        assert_eq!(bytes[..4], [b't', b's', b'k', 1]);
        assert_eq!(bytes[4..12], fnv_1a(b"tasuki").to_be_bytes());
        assert_eq!(bytes[12..], [2, 0xaa, 0xbb]);
        // The reference vector of the hash's authors.
        assert_eq!(fnv_1a(b"foobar"), 0x85944171f73967e8);
    }

    #[test]
    fn each_kind_comes_back_as_it_was() {
        for (mut from, mut to) in [(plain("a"), plain("a")), (sealed("a", '1', 1), sealed("a", '1', 2))] {
            for kind in [Kind::Gossip, Kind::Beacon, Kind::Probe, Kind::Leave] {
                for body in [&b"body"[..], &[], &[7; limits::DATAGRAM_BODY_BYTES]] {
                    assert_eq!(to.unwrap(&from.wrap(kind, body)), Ok((kind, Cow::Borrowed(body))));
                }
            }
        }
    }

    #[test]
    fn every_stranger_is_refused_for_its_own_reason() {
        let mut envelope = plain("a");
        let good = envelope.wrap(Kind::Gossip, b"body");
        let changed = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            bytes
        };
        assert_eq!(envelope.unwrap(&good[..HEAD_BYTES - 1]), Err(Refused::Malformed));
        assert_eq!(envelope.unwrap(&changed(0)), Err(Refused::Malformed));
        assert_eq!(envelope.unwrap(&changed(3)), Err(Refused::Version(0x41)));
        assert_eq!(envelope.unwrap(&changed(4)), Err(Refused::OtherCluster));
        assert_eq!(envelope.unwrap(&changed(12)), Err(Refused::Malformed));
        assert_eq!(plain("b").unwrap(&good), Err(Refused::OtherCluster));
        let long = envelope.wrap(Kind::Gossip, &[0; limits::DATAGRAM_BODY_BYTES + 1]);
        assert_eq!(envelope.unwrap(&long), Err(Refused::Malformed));
    }

    #[test]
    fn another_version_is_named_whatever_follows_it() {
        for magic in [b"tsk", b"TSK"] {
            let other = [&magic[..], &[9, 0xff, 0xff]].concat();
            assert_eq!(plain("a").unwrap(&other), Err(Refused::Version(9)));
            assert_eq!(sealed("a", '1', 1).unwrap(&other), Err(Refused::Version(9)));
        }
    }

    #[test]
    fn only_who_knows_the_secret_of_this_cluster_is_heard() {
        let mut member = sealed("a", '1', 1);
        for mut stranger in [sealed("a", '2', 2), sealed("b", '1', 3), plain("a")] {
            assert_eq!(member.unwrap(&stranger.wrap(Kind::Gossip, b"body")), Err(Refused::Unsealed));
        }
        for noise in [&b"noise and more noise"[..], b"no", &[b'T'; DATAGRAM_BYTES + 1]] {
            assert_eq!(member.unwrap(noise), Err(Refused::Unsealed));
        }
        assert_eq!(plain("a").unwrap(&member.wrap(Kind::Gossip, b"body")), Err(Refused::Sealed));
    }

    #[test]
    fn a_changed_bit_anywhere_is_refused() {
        let good = sealed("a", '1', 1).wrap(Kind::Leave, b"body");
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(sealed("a", '1', 2).unwrap(&bytes).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(sealed("a", '1', 2).unwrap(&good[..length]).is_err(), "{length} bytes");
        }
        assert!(sealed("a", '1', 2).unwrap(&good).is_ok());
    }

    #[test]
    fn nothing_of_the_body_is_to_be_seen() {
        let datagram = sealed("a", '1', 1).wrap(Kind::Gossip, b"the route of this node");
        assert!(!datagram.windows(5).any(|window| b"the route of this node".windows(5).any(|clear| clear == window)));
    }

    #[test]
    fn a_datagram_is_taken_once() {
        let (mut from, mut to) = (sealed("a", '1', 1), sealed("a", '1', 2));
        let [first, second] = [b"1", b"2"].map(|body| from.wrap(Kind::Gossip, body));
        assert!(to.unwrap(&second).is_ok(), "they may overtake each other");
        assert!(to.unwrap(&first).is_ok());
        for again in [&first, &second] {
            assert_eq!(to.unwrap(again), Err(Refused::Replayed));
        }
        assert!(sealed("a", '1', 3).unwrap(&first).is_ok(), "another member has not had it");
    }
}
