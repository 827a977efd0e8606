//! Many copies of sessions in one frame, acknowledged once: what a repair tells, at a fraction of what as many messages
//! cost both ends.
//!
//! Each session is written as the body of a single copy is, but straight from where it is kept, and read without asking
//! for memory that it does not keep.

use std::{str, sync::Arc, time::Duration};

use bytes::Bytes;
use rmp::{decode, encode};

use super::frame::BadFrame;
use crate::{
    limits,
    names::{ContextPath, NodeId, SessionId},
    session::{
        delta::{Attribute, Whole},
        replica::Record,
        stamp::{Epoch, Stamp},
        value::Value,
    },
    time::Moment,
};

/// Numbers the batches of one link.
pub type BatchNumber = u32;

/// Copies of sessions on their way to one peer. A handle: clones share the bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The peer answers with it.
    pub number: BatchNumber,
    /// One copy after the other.
    pub bytes: Bytes,
}

/// A batch that is being made.
#[derive(Debug, Default)]
pub(super) struct Packer {
    bytes: Vec<u8>,
    sessions: usize,
}

/// Copies that wait to become a batch.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Packed {
    /// As in [`Batch::bytes`].
    pub(super) bytes: Bytes,
    /// How many.
    pub(super) sessions: usize,
}

/// Takes a batch apart.
#[derive(Debug)]
pub struct Copies<'a> {
    rest: &'a [u8],
    context: Option<ContextPath>,
    /// Names that were read before: the sessions of a webapp have the same few.
    names: Vec<Arc<str>>,
}

/// Why bytes are no copy.
#[derive(Debug, thiserror::Error)]
enum Flaw {
    #[error("{0}")]
    Type(#[from] decode::ValueReadError),
    #[error("{0}")]
    Number(#[from] decode::NumValueReadError),
    #[error("it has no such length")]
    Length,
    #[error("it is no text")]
    Text,
    #[error("{0}")]
    Name(#[from] crate::names::BadName),
}

impl Batch {
    /// The copies, in the order they were packed.
    pub fn copies(&self) -> Copies<'_> {
        Copies { rest: &self.bytes, context: None, names: Vec::new() }
    }
}

impl Packer {
    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether it holds as much as is sent at once.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= limits::REPAIR_BATCH_BYTES
    }

    /// Adds a session as it stands.
    pub(super) fn add(&mut self, id: SessionId, record: &Record, now: Moment) {
        if self.bytes.is_empty() {
            self.bytes.reserve(limits::REPAIR_BATCH_BYTES + limits::REPAIR_BATCH_BYTES / 16);
        }
        put(&mut self.bytes, id, record, now).expect("memory takes what is written to it");
        self.sessions += 1;
    }

    /// What was added.
    pub(super) fn pack(self) -> Packed {
        Packed { bytes: self.bytes.into(), sessions: self.sessions }
    }
}

fn put(
    out: &mut Vec<u8>,
    id: SessionId,
    record: &Record,
    now: Moment,
) -> Result<(), encode::ValueWriteError<std::io::Error>> {
    let Epoch { counter, node } = record.promised();
    encode::write_array_len(out, 8)?;
    encode::write_bin(out, &id.0)?;
    encode::write_str(out, record.context().as_str())?;
    encode::write_array_len(out, 2)?;
    encode::write_uint(out, counter.into())?;
    encode::write_uint(out, node.0)?;
    put_stamp(out, record.stamp())?;
    match record.timeout() {
        Some(timeout) => drop(encode::write_uint(out, timeout.as_secs())?),
        None => out.push(NIL),
    }
    encode::write_uint(out, now.since(record.accessed()).as_millis() as u64)?;
    out.push(if record.may_be_behind() { TRUE } else { FALSE });
    let attributes = record.all_attributes();
    encode::write_array_len(out, attributes.len() as u32)?;
    for (name, value, stamp) in attributes {
        encode::write_array_len(out, 3)?;
        encode::write_str(out, name)?;
        match value {
            Some(value) => encode::write_bin(out, value.as_bytes())?,
            None => out.push(NIL),
        }
        put_stamp(out, stamp)?;
    }
    Ok(())
}

fn put_stamp(out: &mut Vec<u8>, stamp: Stamp) -> Result<(), encode::ValueWriteError<std::io::Error>> {
    let Stamp { epoch: Epoch { counter, node }, version } = stamp;
    encode::write_array_len(out, 3)?;
    encode::write_uint(out, counter.into())?;
    encode::write_uint(out, node.0)?;
    encode::write_uint(out, version.into())?;
    Ok(())
}

const NIL: u8 = 0xC0;
const FALSE: u8 = 0xC2;
const TRUE: u8 = 0xC3;

impl Iterator for Copies<'_> {
    type Item = Result<Whole, BadFrame>;

    /// The next copy; the error is the last thing that comes.
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let copy = self.copy();
        if copy.is_err() {
            self.rest = &[];
        }
        Some(copy.map_err(|flaw| BadFrame::BadCopy(flaw.to_string())))
    }
}

impl<'a> Copies<'a> {
    fn copy(&mut self) -> Result<Whole, Flaw> {
        self.array(8)?;
        let id = SessionId(self.bytes()?.try_into().map_err(|_| Flaw::Length)?);
        let context = self.context()?;
        self.array(2)?;
        let owner = Epoch { counter: self.number()?, node: NodeId(self.number()?) };
        let stamp = self.stamp()?;
        let timeout: Option<u32> = if self.is_nil() { None } else { Some(self.number()?) };
        let idle = Duration::from_millis(self.number()?);
        let behind = decode::read_bool(&mut self.rest)?;
        let count = self.length()?;
        let mut attributes = Vec::with_capacity(count.min(limits::SESSION_ATTRIBUTES + limits::REMOVED_ATTRIBUTES));
        for _ in 0..count {
            self.array(3)?;
            let name = self.name()?;
            let value = if self.is_nil() { None } else { Some(Value::from_bytes(self.bytes()?)) };
            attributes.push(Attribute { name, value, stamp: self.stamp()? });
        }
        let timeout = timeout.map(|seconds| Duration::from_secs(seconds.into()));
        Ok(Whole { id, context, owner, stamp, timeout, idle, behind, attributes })
    }

    fn stamp(&mut self) -> Result<Stamp, Flaw> {
        self.array(3)?;
        let epoch = Epoch { counter: self.number()?, node: NodeId(self.number()?) };
        Ok(Stamp { epoch, version: self.number()? })
    }

    fn context(&mut self) -> Result<ContextPath, Flaw> {
        let text = self.text()?;
        match &self.context {
            Some(known) if known.as_str() == text => Ok(known.clone()),
            _ => Ok(self.context.insert(text.parse()?).clone()),
        }
    }

    fn name(&mut self) -> Result<Arc<str>, Flaw> {
        let text = self.text()?;
        if let Some(known) = self.names.iter().find(|known| &***known == text) {
            return Ok(known.clone());
        }
        let name: Arc<str> = text.into();
        if self.names.len() < limits::REPAIR_NAMES {
            self.names.push(name.clone());
        }
        Ok(name)
    }

    fn array(&mut self, length: usize) -> Result<(), Flaw> {
        if self.length()? == length { Ok(()) } else { Err(Flaw::Length) }
    }

    fn length(&mut self) -> Result<usize, Flaw> {
        Ok(decode::read_array_len(&mut self.rest)? as usize)
    }

    fn number<T: TryFrom<u64>>(&mut self) -> Result<T, Flaw> {
        let number: u64 = decode::read_int(&mut self.rest)?;
        number.try_into().map_err(|_| Flaw::Length)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Flaw> {
        let length = decode::read_bin_len(&mut self.rest)?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, Flaw> {
        let length = decode::read_str_len(&mut self.rest)?;
        str::from_utf8(self.take(length)?).map_err(|_| Flaw::Text)
    }

    fn is_nil(&mut self) -> bool {
        let rest = self.rest.strip_prefix(&[NIL]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn take(&mut self, length: u32) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self.rest.split_at_checked(length as usize).ok_or(Flaw::Length)?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{
        draft::Change,
        lease::Term,
        replica::{self, Birth, Reach, Slot},
    };

    const NODE: NodeId = NodeId(0x0102_0304_0506_0708);
    const ID: SessionId = SessionId([0xAA; 16]);

    /// A session of two attributes, one of them removed, 20 ms after its last use.
    fn pack(timeout: Option<Duration>) -> (Packer, Whole) {
        let (context, made, now) = ("/shop".parse().unwrap(), Moment(100), Moment(100) + Duration::from_millis(20));
        let birth = Birth { id: ID, me: NODE, term: Term(0), context: &context, reach: Reach::Cluster, timeout };
        let changes = [Change::Set("count".into(), Value::encode(&7).unwrap()), Change::Remove("old".into())];
        let mut slot = None;
        replica::create(&mut slot, &birth, &changes, made);
        let mut packer = Packer::default();
        packer.add(ID, Slot::live(&slot).unwrap(), now);
        (packer, Slot::live(&slot).unwrap().whole(ID, now))
    }

    fn batch(packer: Packer) -> Batch {
        Batch { number: 1, bytes: packer.pack().bytes }
    }

    #[test]
    fn the_bytes_of_a_copy_in_a_batch_are_pinned() {
        let node = [0xCF, 1, 2, 3, 4, 5, 6, 7, 8];
        let stamp = [&[0x93, 1][..], &node, &[1]].concat();
        let mut expected = [&[0x98, 0xC4, 16][..], &[0xAA; 16], &[0xA5], b"/shop", &[0x92, 1], &node].concat();
        expected.extend([&stamp[..], &[0xC0, 20, 0xC2, 0x92, 0x93, 0xA5], b"count", &[0xC4, 1, 7], &stamp].concat());
        expected.extend([&[0x93, 0xA3][..], b"old", &[0xC0], &stamp].concat());
        assert_eq!(pack(None).0.pack().bytes[..], expected);
    }

    #[test]
    fn copies_come_out_as_they_went_in() {
        for timeout in [None, Some(Duration::from_secs(1_800))] {
            let (mut packer, whole) = pack(timeout);
            packer.bytes.extend_from_within(..);
            let copies: Result<Vec<Whole>, BadFrame> = batch(packer).copies().collect();
            assert_eq!(copies.unwrap(), [whole.clone(), whole]);
        }
    }

    #[test]
    fn what_is_no_batch_is_refused_once_and_never_panics() {
        let (packer, whole) = pack(None);
        let good = packer.pack().bytes;
        for length in 1..good.len() {
            let cut = Batch { number: 1, bytes: [&good[..], &good[..length]].concat().into() };
            let mut copies = cut.copies();
            assert_eq!(copies.next().unwrap().unwrap(), whole);
            assert!(copies.next().unwrap().is_err() && copies.next().is_none());
        }
        for at in 0..good.len() {
            for byte in [0x00, 0x93, 0xC0, 0xDD, 0xFF] {
                let mut bytes = good.to_vec();
                bytes[at] = byte;
                assert!(Batch { number: 1, bytes: bytes.into() }.copies().count() <= good.len());
            }
        }
    }

    #[test]
    fn a_batch_is_full_when_it_has_as_much_as_is_sent_at_once() {
        let mut packer = Packer::default();
        let (session, _) = pack(None);
        assert!(packer.is_empty() && !packer.is_full());
        while !packer.is_full() {
            packer.bytes.extend_from_slice(&session.bytes);
        }
        assert!(packer.bytes.len() < limits::REPAIR_BATCH_BYTES + session.bytes.len());
    }
}
