//! A snapshot's bytes. Pure but for the stream they come from or go to, and of bounded memory both ways.
//!
//! ```text
//!   snapshot = "tasuki sessions\n"  version (4)  block *
//!   block    = length of the body (4)  kind (1)  body  checksum (4)
//!   kinds      1 header   one, first: a MessagePack map, so that it can grow
//!              2 entries  each: length (4)  kind (1)  a MessagePack array, which changes only with the version
//!              3 end      one, last: how many sessions and how many ends there are
//! ```
//!
//! Numbers are big-endian. A checksum is the CRC-32 of everything before it, this block's head and body included, so a
//! block that is damaged, missing, doubled or in another place is noticed where it stands. CRC-32 finds every damage of
//! up to 32 bits in a row and all but one in four billion others; it is no seal against somebody who may write the file.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use crc32fast::Hasher;
use rmp_serde::decode::ReadRefReader;
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, Bytes};

use super::{Header, Saved};
use crate::{
    limits,
    names::{NodeId, SessionId},
    session::{
        delta::{Attribute, End, Ending, Finality, Whole},
        stamp::{Epoch, Stamp},
        value::Value,
    },
};

/// The format that this release writes, and the only one that it reads.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 16] = b"tasuki sessions\n";

/// How much of a snapshot there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Sessions.
    pub sessions: u64,
    /// Sessions that had ended and are remembered.
    pub ended: u64,
}

/// Writes a snapshot.
pub struct Writer<W> {
    out: Summed<W>,
    block: Vec<u8>,
    counts: Counts,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is in the snapshot.
    Written,
    /// It has more than [`limits::SNAPSHOT_ENTRY_BYTES`] and was left out.
    TooLarge,
}

/// Reads a snapshot, entry by entry. After an error it must not be read on.
pub struct Reader<R> {
    input: Summed<R>,
    header: Header,
    block: Vec<u8>,
    /// Where in the block the next entry begins, and where in the file the block's body does.
    next: usize,
    body_at: u64,
    counts: Counts,
    ended: bool,
}

/// Why a snapshot is not read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file system says so.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Something else stands there.
    #[error("at byte 0: it is not a snapshot of sessions")]
    NotASnapshot,
    /// Another release wrote it.
    #[error("at byte 16: it is of format {0}, and this release reads format {VERSION} only")]
    Format(u32),
    /// The bytes are not what was written.
    #[error("at byte {at}: {what}")]
    Damaged {
        /// Where in the file.
        at: u64,
        /// What is wrong there.
        what: String,
    },
}

/// A stream with its position and the checksum of what has passed.
struct Summed<S> {
    stream: S,
    sum: Hasher,
    position: u64,
}

/// Kinds of blocks. Never reuse a number.
mod block {
    pub(super) const HEADER: u8 = 1;
    pub(super) const ENTRIES: u8 = 2;
    pub(super) const END: u8 = 3;
}

/// Kinds of entries. Never reuse a number.
mod entry {
    pub(super) const SHARED: u8 = 1;
    pub(super) const LOCAL: u8 = 2;
    /// For good. Only read: earlier builds wrote no time.
    pub(super) const ENDED_SOME_TIME: u8 = 3;
    /// Unless it has gone on elsewhere. Only read.
    pub(super) const REFUTABLE_SOME_TIME: u8 = 4;
    /// For good, and remembered for so many milliseconds more.
    pub(super) const ENDED: u8 = 5;
    /// The same, unless it has gone on elsewhere.
    pub(super) const REFUTABLE: u8 = 6;
}

type WireEpoch = (u32, u64);
type WireStamp = (u32, u64, u32);
type WireEnd = (ByteArray<16>, WireStamp, u64);

#[derive(Serialize, Deserialize)]
struct WireAttribute<'a>(&'a str, #[serde(borrow)] Option<&'a Bytes>, WireStamp);

#[derive(Serialize, Deserialize)]
struct WireWhole<'a>(
    ByteArray<16>,
    &'a str,
    WireEpoch,
    WireStamp,
    Option<u64>,
    u64,
    #[serde(borrow)] Vec<WireAttribute<'a>>,
);

const ENTRY_HEAD: usize = 5;

impl<W: Write> Writer<W> {
    /// Begins with the header.
    ///
    /// # Errors
    /// What the stream says, as with everything below.
    pub fn begin(stream: W, header: &Header) -> io::Result<Self> {
        let mut out = Summed::new(stream);
        out.write(MAGIC)?;
        out.write(&VERSION.to_be_bytes())?;
        out.write_block(block::HEADER, &rmp_serde::to_vec_named(header).map_err(io::Error::other)?)?;
        Ok(Self { out, block: Vec::new(), counts: Counts::default() })
    }

    /// Adds one entry.
    ///
    /// # Errors
    /// See [`Writer::begin`].
    pub fn put(&mut self, saved: &Saved) -> io::Result<Put> {
        let begin = self.block.len();
        self.block.extend_from_slice(&[0; ENTRY_HEAD]);
        let kind = self.encode(saved).map_err(io::Error::other)?;
        let length = self.block.len() - begin - ENTRY_HEAD;
        if length + ENTRY_HEAD > limits::SNAPSHOT_ENTRY_BYTES {
            self.block.truncate(begin);
            return Ok(Put::TooLarge);
        }
        self.block[begin..begin + 4].copy_from_slice(&(length as u32).to_be_bytes());
        self.block[begin + 4] = kind;
        match saved {
            Saved::Ended(..) => self.counts.ended += 1,
            Saved::Shared(_) | Saved::Local(_) => self.counts.sessions += 1,
        }
        if self.block.len() >= limits::SNAPSHOT_BLOCK_BYTES {
            self.flush()?;
        }
        Ok(Put::Written)
    }

    /// Ends the snapshot, and gives the stream back with what was written.
    ///
    /// # Errors
    /// See [`Writer::begin`].
    pub fn finish(mut self) -> io::Result<(W, Counts)> {
        self.flush()?;
        self.out.write_block(block::END, &rmp_serde::to_vec(&self.counts).map_err(io::Error::other)?)?;
        self.out.stream.flush()?;
        Ok((self.out.stream, self.counts))
    }

    fn encode(&mut self, saved: &Saved) -> Result<u8, rmp_serde::encode::Error> {
        match saved {
            Saved::Shared(whole) => {
                rmp_serde::encode::write(&mut self.block, &wire_whole(whole)).map(|()| entry::SHARED)
            }
            Saved::Local(whole) => rmp_serde::encode::write(&mut self.block, &wire_whole(whole)).map(|()| entry::LOCAL),
            Saved::Ended(End { id, ending: Ending { finality, stamp } }, left) => {
                let kind = match finality {
                    Finality::Final => entry::ENDED,
                    Finality::Refutable => entry::REFUTABLE,
                };
                let entry: WireEnd = (ByteArray::new(id.0), wire_stamp(*stamp), milliseconds(*left));
                rmp_serde::encode::write(&mut self.block, &entry).map(|()| kind)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.out.write_block(block::ENTRIES, &self.block)?;
            self.block.clear();
        }
        Ok(())
    }
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn open(stream: R) -> Result<Self, Unreadable> {
        let mut input = Summed::new(stream);
        let mut magic = [0; MAGIC.len()];
        let is_there = input.read(&mut magic)? == magic.len() && magic == *MAGIC;
        if !is_there {
            return Err(Unreadable::NotASnapshot);
        }
        let mut version = [0; 4];
        input.read_all(&mut version)?;
        let version = u32::from_be_bytes(version);
        if version != VERSION {
            return Err(Unreadable::Format(version));
        }
        let at = input.position;
        let mut block = Vec::new();
        if input.read_block(&mut block)? != block::HEADER {
            return Err(damaged(at, "the header is missing"));
        }
        let header = decode(&block).map_err(|what| damaged(at, format!("a header that is none: {what}")))?;
        block.clear();
        Ok(Self { input, header, block, next: 0, body_at: 0, counts: Counts::default(), ended: false })
    }

    /// What the snapshot says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next entry; none after the last, when everything has been found whole.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn entry(&mut self) -> Result<Option<Saved>, Unreadable> {
        while self.next == self.block.len() {
            if self.ended || self.turn_over()? {
                self.ended = true;
                return Ok(None);
            }
        }
        let at = self.body_at + self.next as u64;
        let (kind, body) = self.cut().ok_or_else(|| damaged(at, "an entry that is longer than its block"))?;
        let saved = read_entry(kind, body).map_err(|what| damaged(at, format!("an entry that is none: {what}")))?;
        self.next += ENTRY_HEAD + body.len();
        match saved {
            Saved::Ended(..) => self.counts.ended += 1,
            Saved::Shared(_) | Saved::Local(_) => self.counts.sessions += 1,
        }
        Ok(Some(saved))
    }

    /// Reads the next block, and says whether it was the last.
    fn turn_over(&mut self) -> Result<bool, Unreadable> {
        let at = self.input.position;
        let kind = self.input.read_block(&mut self.block)?;
        (self.next, self.body_at) = (0, at + BLOCK_HEAD as u64);
        match kind {
            block::ENTRIES => Ok(false),
            block::END => {
                let counts: Counts = decode(&self.block).map_err(|what| damaged(at, what))?;
                if counts != self.counts {
                    return Err(damaged(at, format!("{counts:?} are announced, {:?} were there", self.counts)));
                }
                self.block.clear();
                let behind = self.input.position;
                match self.input.read(&mut [0])? {
                    0 => Ok(true),
                    _ => Err(damaged(behind, "there is something behind the end")),
                }
            }
            kind => Err(damaged(at, format!("a block of the unknown kind {kind}"))),
        }
    }

    fn cut(&self) -> Option<(u8, &[u8])> {
        let (head, rest) = self.block.get(self.next..)?.split_at_checked(ENTRY_HEAD)?;
        let length = u32::from_be_bytes(*head.first_chunk::<4>()?) as usize;
        Some((head[4], rest.get(..length)?))
    }
}

const BLOCK_HEAD: usize = 5;

impl<S> Summed<S> {
    fn new(stream: S) -> Self {
        Self { stream, sum: Hasher::new(), position: 0 }
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.position += bytes.len() as u64;
    }

    fn checksum(&self) -> [u8; 4] {
        self.sum.clone().finalize().to_be_bytes()
    }
}

impl<W: Write> Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.passed(bytes);
        self.stream.write_all(bytes)
    }

    fn write_block(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        self.write(&(body.len() as u32).to_be_bytes())?;
        self.write(&[kind])?;
        self.write(body)?;
        let checksum = self.checksum();
        self.write(&checksum)
    }
}

impl<R: Read> Summed<R> {
    /// Reads until the buffer is full or the stream has ended.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.stream.read(&mut buffer[read..]) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.passed(&buffer[..read]);
        Ok(read)
    }

    fn read_all(&mut self, buffer: &mut [u8]) -> Result<(), Unreadable> {
        match self.read(buffer)? {
            read if read == buffer.len() => Ok(()),
            _ => Err(damaged(self.position, "it ends here, in the middle")),
        }
    }

    /// Fills `body`, and gives the block's kind.
    fn read_block(&mut self, body: &mut Vec<u8>) -> Result<u8, Unreadable> {
        let at = self.position;
        let mut head = [0; BLOCK_HEAD];
        self.read_all(&mut head)?;
        let [a, b, c, d, kind] = head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > limits::SNAPSHOT_BLOCK_MOST {
            return Err(damaged(at, format!("a block of {length} bytes, which is more than there can be")));
        }
        body.resize(length, 0);
        self.read_all(body)?;
        let (expected, mut checksum) = (self.checksum(), [0; 4]);
        self.read_all(&mut checksum)?;
        if checksum != expected {
            return Err(damaged(at, "the checksum of a block does not fit"));
        }
        Ok(kind)
    }
}

fn damaged(at: u64, what: impl Into<String>) -> Unreadable {
    Unreadable::Damaged { at, what: what.into() }
}

fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    let mut reader = rmp_serde::Deserializer::<ReadRefReader<'a, [u8]>>::from_read_ref(body);
    reader.set_max_depth(limits::VALUE_DEPTH);
    T::deserialize(&mut reader).map_err(|error| error.to_string())
}

fn read_entry(kind: u8, body: &[u8]) -> Result<Saved, String> {
    match kind {
        entry::SHARED => Ok(Saved::Shared(whole_of(decode(body)?)?)),
        entry::LOCAL => Ok(Saved::Local(whole_of(decode(body)?)?)),
        entry::ENDED => Ok(ended(Finality::Final, decode(body)?)),
        entry::REFUTABLE => Ok(ended(Finality::Refutable, decode(body)?)),
        entry::ENDED_SOME_TIME => Ok(ended_some_time(Finality::Final, decode(body)?)),
        entry::REFUTABLE_SOME_TIME => Ok(ended_some_time(Finality::Refutable, decode(body)?)),
        kind => Err(format!("unknown kind {kind}")),
    }
}

fn ended(finality: Finality, (id, stamp, left): WireEnd) -> Saved {
    let ending = Ending { finality, stamp: stamp_of(stamp) };
    Saved::Ended(End { id: SessionId(id.into_array()), ending }, Duration::from_millis(left))
}

fn ended_some_time(finality: Finality, (id, stamp): (ByteArray<16>, WireStamp)) -> Saved {
    ended(finality, (id, stamp, 0))
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

fn wire_whole(whole: &Whole) -> WireWhole<'_> {
    // Whether a copy may be old is not saved: beside nodes with newer ones those win, and alone there is nothing better.
    let Whole { id, context, owner, stamp, timeout, idle, behind: _, attributes } = whole;
    let attributes = attributes.iter().map(|Attribute { name, value, stamp }| {
        WireAttribute(name, value.as_ref().map(|value| Bytes::new(value.as_bytes())), wire_stamp(*stamp))
    });
    WireWhole(
        ByteArray::new(id.0),
        context.as_str(),
        (owner.counter, owner.node.0),
        wire_stamp(*stamp),
        timeout.map(|timeout| timeout.as_secs()),
        milliseconds(*idle),
        attributes.collect(),
    )
}

fn whole_of(wire: WireWhole<'_>) -> Result<Whole, String> {
    let WireWhole(id, context, (counter, node), stamp, timeout, idle, attributes) = wire;
    let attributes = attributes.into_iter().map(|WireAttribute(name, value, stamp)| Attribute {
        name: name.into(),
        value: value.map(|value| Value::from_bytes(value)),
        stamp: stamp_of(stamp),
    });
    Ok(Whole {
        id: SessionId(id.into_array()),
        context: context.parse().map_err(|error| format!("{error}"))?,
        owner: Epoch { counter, node: NodeId(node) },
        stamp: stamp_of(stamp),
        timeout: timeout.map(Duration::from_secs),
        idle: Duration::from_millis(idle),
        behind: false,
        attributes: attributes.collect(),
    })
}

fn wire_stamp(stamp: Stamp) -> WireStamp {
    (stamp.epoch.counter, stamp.epoch.node.0, stamp.version)
}

fn stamp_of((counter, node, version): WireStamp) -> Stamp {
    Stamp { epoch: Epoch { counter, node: NodeId(node) }, version }
}
