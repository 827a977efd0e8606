//! MessagePack of what members tell each other: positional, compact, and hand-placed, because every byte of an
//! identity travels two to twenty times in each datagram.
//!
//! An identity is a `bin` whose fields stand one behind the other. A newer version appends fields; an older one
//! keeps the bytes it does not know and passes them on. Everything else changes only with the datagram's version.

use std::net::{Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Header, Message, State};
use rmp::{
    decode::{read_bin_len, read_int, read_str_from_slice},
    encode::{write_bin, write_str, write_uint},
};

use super::{Duty, Member, Role, identity::Identity};
use crate::{limits, names::NodeId};

/// An identity is never longer on the wire, unknown fields left out.
pub(super) const IDENTITY_BYTES: usize = 120;

/// The codec that foca is given.
pub(super) struct Positional;

/// The bytes are not what this codec writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub(super) struct Malformed;

impl foca::Codec<Identity> for Positional {
    type Error = Malformed;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), Malformed> {
        let mut bytes = Vec::with_capacity(3 * IDENTITY_BYTES);
        put_identity(&mut bytes, &header.src);
        put_uint(&mut bytes, header.src_incarnation);
        put_identity(&mut bytes, &header.dst);
        put_message(&mut bytes, &header.message);
        put_whole(buf, &bytes)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, Malformed> {
        advancing(buf, take_header)
    }

    fn encode_member(&mut self, member: &foca::Member<Identity>, buf: impl BufMut) -> Result<(), Malformed> {
        let mut bytes = Vec::with_capacity(IDENTITY_BYTES + 4);
        put_identity(&mut bytes, member.id());
        put_uint(&mut bytes, member.incarnation());
        let state: u8 = match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        };
        put_uint(&mut bytes, state);
        put_whole(buf, &bytes)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<foca::Member<Identity>, Malformed> {
        advancing(buf, |bytes| {
            let (id, incarnation) = (take_identity(bytes)?, take_uint(bytes)?);
            let state = match take_uint::<u8>(bytes)? {
                0 => State::Alive,
                1 => State::Suspect,
                2 => State::Down,
                _ => return Err(Malformed),
            };
            Ok(foca::Member::new(id, incarnation, state))
        })
    }
}

/// Reads the header of a SWIM message and leaves what follows it.
pub(super) fn take_header(bytes: &mut &[u8]) -> Result<Header<Identity>, Malformed> {
    Ok(Header {
        src: take_identity(bytes)?,
        src_incarnation: take_uint(bytes)?,
        dst: take_identity(bytes)?,
        message: take_message(bytes)?,
    })
}

/// Appends an identity.
pub(super) fn put_identity(bytes: &mut Vec<u8>, identity: &Identity) {
    let mut fields = Vec::with_capacity(IDENTITY_BYTES);
    put_uint(&mut fields, identity.started);
    put_uint(&mut fields, identity.bump);
    put_uint(&mut fields, identity.member.id.0);
    put_address(&mut fields, identity.member.address);
    match &identity.member.role {
        Role::Balancer => put_uint(&mut fields, 0_u8),
        Role::Node { route, http, duty } => {
            put_uint(&mut fields, 1_u8);
            written(write_str(&mut fields, route.as_str()));
            put_address(&mut fields, *http);
            put_uint(&mut fields, duty_number(*duty));
        }
    }
    fields.extend_from_slice(&identity.unknown);
    written(write_bin(bytes, &fields));
}

/// Reads an identity and leaves what follows it.
pub(super) fn take_identity(bytes: &mut &[u8]) -> Result<Identity, Malformed> {
    let length = read_bin_len(bytes).map_err(|_| Malformed)? as usize;
    let (mut fields, rest) = bytes.split_at_checked(length).ok_or(Malformed)?;
    *bytes = rest;
    let (started, bump) = (take_uint(&mut fields)?, take_uint(&mut fields)?);
    let id = NodeId(take_uint(&mut fields)?);
    let address = take_address(&mut fields)?;
    let role = match take_uint::<u8>(&mut fields)? {
        0 => Role::Balancer,
        1 => take_node(&mut fields)?,
        _ => return Err(Malformed),
    };
    if fields.len() > limits::UNKNOWN_FIELDS_BYTES {
        return Err(Malformed);
    }
    Ok(Identity { started, bump, member: Member { id, address, role }, unknown: fields.into() })
}

fn take_node(bytes: &mut &[u8]) -> Result<Role, Malformed> {
    let (route, rest) = read_str_from_slice(*bytes).map_err(|_| Malformed)?;
    let route = route.parse().map_err(|_| Malformed)?;
    *bytes = rest;
    let http = take_address(bytes)?;
    let duty = match take_uint::<u8>(bytes)? {
        0 => Duty::Starting,
        1 => Duty::Serving,
        2 => Duty::Draining,
        _ => return Err(Malformed),
    };
    Ok(Role::Node { route, http, duty })
}

fn duty_number(duty: Duty) -> u8 {
    match duty {
        Duty::Starting => 0,
        Duty::Serving => 1,
        Duty::Draining => 2,
    }
}

/// Both families as one: the halves of an IPv6 address (an IPv4 address mapped, RFC 4291 section 2.5.5.2), a port.
fn put_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        std::net::IpAddr::V6(ip) => ip,
    };
    put_uint(bytes, (ip.to_bits() >> 64) as u64);
    put_uint(bytes, ip.to_bits() as u64);
    put_uint(bytes, address.port());
}

/// An address that datagrams can be sent to.
fn take_address(bytes: &mut &[u8]) -> Result<SocketAddr, Malformed> {
    let (high, low) = (take_uint::<u64>(bytes)?, take_uint::<u64>(bytes)?);
    let ip = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).to_canonical();
    let port = take_uint(bytes)?;
    if ip.is_unspecified() || ip.is_multicast() || port == 0 {
        return Err(Malformed);
    }
    Ok(SocketAddr::new(ip, port))
}

fn put_message(bytes: &mut Vec<u8>, message: &Message<Identity>) {
    let (number, probe, other) = match message {
        Message::Ping(probe) => (0, Some(probe), None),
        Message::Ack(probe) => (1, Some(probe), None),
        Message::PingReq { target, probe_number } => (2, Some(probe_number), Some(target)),
        Message::IndirectPing { origin, probe_number } => (3, Some(probe_number), Some(origin)),
        Message::IndirectAck { target, probe_number } => (4, Some(probe_number), Some(target)),
        Message::ForwardedAck { origin, probe_number } => (5, Some(probe_number), Some(origin)),
        Message::Announce => (6, None, None),
        Message::Feed => (7, None, None),
        Message::Gossip => (8, None, None),
        Message::Broadcast => (9, None, None),
        Message::TurnUndead => (10, None, None),
    };
    put_uint::<u8>(bytes, number);
    if let Some(probe) = probe {
        put_uint(bytes, *probe);
    }
    if let Some(other) = other {
        put_identity(bytes, other);
    }
}

fn take_message(bytes: &mut &[u8]) -> Result<Message<Identity>, Malformed> {
    let number = take_uint::<u8>(bytes)?;
    let probe_number = if number <= 5 { take_uint(bytes)? } else { 0 };
    Ok(match number {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq { target: take_identity(bytes)?, probe_number },
        3 => Message::IndirectPing { origin: take_identity(bytes)?, probe_number },
        4 => Message::IndirectAck { target: take_identity(bytes)?, probe_number },
        5 => Message::ForwardedAck { origin: take_identity(bytes)?, probe_number },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        _ => return Err(Malformed),
    })
}

fn put_uint<N: Into<u64>>(bytes: &mut Vec<u8>, number: N) {
    let number = number.into();
    match u8::try_from(number) {
        Ok(small) if small < 128 => bytes.push(small),
        _ => written(write_uint(bytes, number)),
    }
}

fn take_uint<N: TryFrom<u64>>(bytes: &mut &[u8]) -> Result<N, Malformed> {
    let number: u64 = read_int(bytes).map_err(|_| Malformed)?;
    number.try_into().map_err(|_| Malformed)
}

/// Writing to a vector does not fail; rmp's signature has to allow for writers that do.
fn written<T, E>(result: Result<T, E>) {
    debug_assert!(result.is_ok(), "a vector takes every byte");
}

/// All of `bytes` or none: foca leaves out what does not fit.
fn put_whole(mut buf: impl BufMut, bytes: &[u8]) -> Result<(), Malformed> {
    if buf.remaining_mut() < bytes.len() {
        return Err(Malformed);
    }
    buf.put_slice(bytes);
    Ok(())
}

/// Runs a reader over the contiguous bytes of `buf` and consumes what it read.
fn advancing<T>(mut buf: impl Buf, read: impl FnOnce(&mut &[u8]) -> Result<T, Malformed>) -> Result<T, Malformed> {
    let mut bytes = buf.chunk();
    let before = bytes.len();
    let value = read(&mut bytes)?;
    let consumed = before - bytes.len();
    buf.advance(consumed);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use foca::Codec as _;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn identity(address: &str, http: &str) -> Identity {
        let role = Role::Node { route: "r1".parse().unwrap(), http: http.parse().unwrap(), duty: Duty::Serving };
        let member = Member { id: NodeId(0x0102_0304_0506_0708), address: address.parse().unwrap(), role };
        Identity { bump: 3, ..Identity::new(member, 1_700_000_000_000) }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_of_an_identity_are_pinned() {
        let bytes = identity("127.0.0.1:4000", "127.0.0.1:18080").to_bytes();
        let expected = concat!(
            "c432",               // bin of 50 bytes
            "cf0000018bcfe56800", // started
            "03",                 // bump
            "cf0102030405060708", // id
            "00",
            "cf0000ffff7f000001",
            "cd0fa0", // 127.0.0.1:4000
            "01",
            "a27231", // node r1
            "00",
            "cf0000ffff7f000001",
            "cd46a0", // 127.0.0.1:18080
            "01",     // serving
        );
        assert_eq!(hex(&bytes), expected);
        assert_eq!(Identity::from_bytes(&bytes), Ok(identity("127.0.0.1:4000", "127.0.0.1:18080")));
    }

    #[test]
    fn the_longest_identity_is_compact() {
        let mut longest = identity("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[fd00:ffff::ffff:1:2]:65535");
        longest.bump = u32::MAX;
        let Role::Node { route, .. } = &mut longest.member.role else { unreachable!() };
        *route = "x".repeat(limits::ROUTE_BYTES).parse().unwrap();
        let bytes = longest.to_bytes();
        assert!(bytes.len() < IDENTITY_BYTES, "{} bytes", bytes.len());
        assert_eq!(Identity::from_bytes(&bytes), Ok(longest));
    }

    #[test]
    fn fields_of_a_newer_version_are_carried_along_within_bounds() {
        let mut newer = identity("127.0.0.1:4000", "127.0.0.1:18080");
        newer.unknown = [0xa3, b'n', b'e', b'w'].into();
        assert_eq!(Identity::from_bytes(&newer.to_bytes()), Ok(newer.clone()));
        newer.unknown = vec![0; limits::UNKNOWN_FIELDS_BYTES + 1].into();
        assert_eq!(Identity::from_bytes(&newer.to_bytes()), Err(Malformed));
    }

    #[test]
    fn every_message_comes_back_as_it_was() {
        let (a, b) = (identity("127.0.0.1:4000", "127.0.0.1:1"), identity("[::1]:4001", "[::1]:2"));
        let other = || b.clone();
        let messages = [
            Message::Ping(1),
            Message::Ack(200),
            Message::PingReq { target: other(), probe_number: 3 },
            Message::IndirectPing { origin: other(), probe_number: 4 },
            Message::IndirectAck { target: other(), probe_number: 5 },
            Message::ForwardedAck { origin: other(), probe_number: 6 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ];
        for message in messages {
            let header = Header { src: a.clone(), src_incarnation: 7, dst: b.clone(), message };
            let mut bytes = Vec::new();
            Positional.encode_header(&header, &mut bytes).unwrap();
            bytes.push(0xee);
            let mut rest = &bytes[..];
            assert_eq!(Positional.decode_header(&mut rest), Ok(header));
            assert_eq!(rest, [0xee], "one item is read and nothing more");
        }
    }

    #[test]
    fn what_does_not_fit_leaves_the_buffer_clean() {
        let member = foca::Member::alive(identity("127.0.0.1:4000", "127.0.0.1:18080"));
        let mut bytes = Vec::new();
        assert_eq!(Positional.encode_member(&member, (&mut bytes).limit(20)), Err(Malformed));
        assert!(bytes.is_empty());
        Positional.encode_member(&member, &mut bytes).unwrap();
        assert_eq!(Positional.decode_member(&bytes[..]), Ok(member));
    }

    #[test]
    fn damaged_bytes_are_an_error_and_never_a_panic() {
        let mut noise = StdRng::seed_from_u64(1);
        let (src, dst) = (identity("127.0.0.1:4000", "127.0.0.1:1"), identity("[::1]:4001", "[::1]:2"));
        let message = Message::PingReq { target: src.clone(), probe_number: 3 };
        let mut good = Vec::new();
        Positional.encode_header(&Header { src, src_incarnation: 7, dst, message }, &mut good).unwrap();
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            let place = noise.random_range(0..bytes.len());
            bytes[place] = noise.random();
            bytes.truncate(noise.random_range(0..=bytes.len() * 2));
            refused += usize::from(Positional.decode_header(&bytes[..]).is_err());
        }
        assert!(refused > 5_000, "{refused}");
    }

    #[test]
    fn an_address_that_nobody_can_have_is_refused() {
        for bad in ["0.0.0.0:4000", "127.0.0.1:0", "228.0.0.4:4000", "[::]:1"] {
            assert_eq!(Identity::from_bytes(&identity(bad, "127.0.0.1:1").to_bytes()), Err(Malformed), "{bad}");
        }
    }
}
