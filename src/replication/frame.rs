//! Bytes on a link: three bytes of length (big-endian), one byte of kind, a positional MessagePack body.
//!
//! Positional bodies cannot grow a field for an old reader, so a change here is a new protocol version of the greeting.
//! The sender of a delta or a claim is known from the greeting and not repeated in it.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, BufMut, BytesMut};
use rmp_serde::{decode::ReadRefReader, encode::Error as EncodeError};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, Bytes};

use super::{
    batch::{Batch, BatchNumber},
    buckets::Buckets,
    ledger::{Objection, Sequence},
    survey::{Finding, Listed, Question, RoundNumber},
};
use crate::{
    limits,
    names::{ContextPath, NodeId, SessionId},
    session::{
        delta::{Answer, Attribute, ClaimRequest, Delta, End, Ending, Finality, Given, Update, Whole},
        digest::BUCKETS,
        draft::Change,
        stamp::{Epoch, Stamp},
        value::Value,
    },
    time::Moment,
};

/// From the node that connected.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Counted by both ends, and acknowledged.
    Update(Update),
    /// A session was used.
    Touch {
        /// The session.
        id: SessionId,
        /// How long ago.
        idle: Duration,
    },
    /// Asks for an answer under this number.
    Claim(Ticket, ClaimRequest),
    /// Asks for the lease of the sender's node.
    Renew {
        /// The sender's own time, which means nothing here and is given back.
        at: Moment,
    },
    /// Compares what both ends have.
    Compare(Question),
    /// Told in a repair, merged and never refused. Acknowledged as one.
    Copies(Batch),
    /// The sender drains: the peer should claim these sessions of one webapp. Nothing depends on it.
    Offer {
        /// The webapp.
        context: ContextPath,
        /// At most [`limits::OFFER_SESSIONS`].
        ids: Vec<SessionId>,
    },
    /// The sender has become the owner of a session without having heard this member. Whoever hears that one passes it on.
    Replaces {
        /// The member.
        member: NodeId,
        /// The session.
        id: SessionId,
        /// The sender's ownership.
        epoch: Epoch,
    },
}

/// From the node that accepted.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Everything up to this number is held, but for what was objected to.
    Ack(Sequence),
    /// One update could not be taken.
    Objection(Sequence, Objection),
    /// To a claim.
    Answer(Ticket, Answer),
    /// The lease is granted.
    Renewed {
        /// As it was sent.
        at: Moment,
    },
    /// What a comparison has shown.
    Compared(Finding),
    /// The sessions of a batch are held.
    Took {
        /// The batch.
        batch: BatchNumber,
        /// Those of them that have ended.
        ended: Vec<(SessionId, Ending)>,
        /// Those of them that are known to have a later owner than the sender knows. Few, so there is a kind of their own.
        outranked: Vec<(SessionId, Epoch)>,
    },
    /// A session has a new owner, which does not hear the node that this is told. That one would go on as the owner until its
    /// next commit is refused, and answer from what it has.
    Replaced(SessionId, Epoch),
}

/// Numbers the claims of one link.
pub type Ticket = u32;

/// Why bytes are not a frame. The link is closed: nothing after them can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum BadFrame {
    /// Longer than the bound.
    #[error("a frame of {0} bytes, at most {max} are allowed", max = limits::FRAME_BYTES)]
    TooLong(usize),
    /// No such kind.
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
    /// Not the body of its kind.
    #[error("a frame of kind {0} with a bad body: {1}")]
    BadBody(u8, String),
    /// No session where there should be one.
    #[error("a batch with a bad copy: {0}")]
    BadCopy(String),
    /// More batches than [`limits::REPAIR_BATCHES`] before the first one is acknowledged.
    #[error("more batches than are waited for")]
    TooManyBatches,
}

const PREFIX: usize = 3;

/// Kinds on the wire. Never reuse a number.
mod kind {
    pub(super) const DELTA: u8 = 1;
    pub(super) const WHOLE: u8 = 2;
    pub(super) const END: u8 = 3;
    pub(super) const TOUCH: u8 = 4;
    pub(super) const CLAIM: u8 = 5;
    pub(super) const RENEW: u8 = 6;
    pub(super) const COPY: u8 = 7;
    pub(super) const DIGEST: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const COPIES: u8 = 10;
    pub(super) const OFFER: u8 = 11;
    pub(super) const REPLACES: u8 = 12;
    pub(super) const ACK: u8 = 16;
    pub(super) const GAP: u8 = 17;
    pub(super) const FENCED: u8 = 18;
    pub(super) const ENDED: u8 = 19;
    pub(super) const PROMISED: u8 = 20;
    pub(super) const UNKNOWN: u8 = 21;
    pub(super) const ANSWER_ENDED: u8 = 22;
    pub(super) const REFUSED: u8 = 23;
    pub(super) const OWNED: u8 = 24;
    pub(super) const RENEWED: u8 = 25;
    pub(super) const DIFFERS: u8 = 26;
    pub(super) const WANTS: u8 = 27;
    pub(super) const TOOK: u8 = 28;
    pub(super) const TOOK_OUTRANKED: u8 = 29;
    pub(super) const REPLACED: u8 = 30;
}

// An epoch or a stamp as written: counter, node; version.
type WireEpoch = (u32, u64);
type WireStamp = (u32, u64, u32);
// An ending: its stamp, and whether it is final.
type WireEnding = (WireStamp, bool);

#[derive(Serialize, Deserialize)]
struct WireChange<'a>(&'a str, #[serde(borrow)] Option<&'a Bytes>);

#[derive(Serialize, Deserialize)]
struct WireDelta<'a>(ByteArray<16>, u32, u32, #[serde(borrow)] Vec<WireChange<'a>>);

#[derive(Serialize, Deserialize)]
struct WireAttribute<'a>(&'a str, #[serde(borrow)] Option<&'a Bytes>, WireStamp);

#[derive(Serialize, Deserialize)]
struct WireWhole<'a>(
    ByteArray<16>,
    &'a str,
    WireEpoch,
    WireStamp,
    Option<u32>,
    u64,
    bool,
    #[serde(borrow)] Vec<WireAttribute<'a>>,
);

type WireTook = (BatchNumber, Vec<(ByteArray<16>, WireEnding)>, Vec<(ByteArray<16>, WireEpoch)>);
type WireAnswerEnded<'a> = (Ticket, WireEnding, Option<WireWhole<'a>>);
type WirePromise<'a> = (Ticket, Option<WireEpoch>, Option<WireEpoch>, Option<u64>, Option<WireWhole<'a>>);

#[derive(Serialize, Deserialize)]
struct WireClaim<'a>(Ticket, ByteArray<16>, u32, &'a str, Option<WireStamp>, bool);

/// Appends a request to what will be written to a link.
pub fn put_request(out: &mut BytesMut, request: &Request) {
    match request {
        Request::Update(update) => put_update(out, update),
        Request::Touch { id, idle } => put(out, kind::TOUCH, &(wire_id(*id), millis(*idle))),
        Request::Claim(ticket, claim) => put(
            out,
            kind::CLAIM,
            &WireClaim(
                *ticket,
                wire_id(claim.id),
                claim.epoch.counter,
                claim.context.as_str(),
                claim.have.map(wire_stamp),
                claim.insist,
            ),
        ),
        Request::Renew { at } => put(out, kind::RENEW, &at.0),
        Request::Compare(Question::Digest { round, sums }) => {
            put(out, kind::DIGEST, &(round, Bytes::new(&wire_sums(sums))));
        }
        Request::Compare(Question::List { round, sessions }) => {
            put(out, kind::LIST, &(round, Bytes::new(&wire_list(sessions))));
        }
        Request::Copies(Batch { number, bytes }) => put(out, kind::COPIES, &(number, Bytes::new(bytes))),
        Request::Offer { context, ids } => {
            put(
                out,
                kind::OFFER,
                &(context.as_str(), Bytes::new(&ids.iter().flat_map(|id| id.0).collect::<Vec<u8>>())),
            );
        }
        Request::Replaces { member, id, epoch } => {
            put(out, kind::REPLACES, &(member.0, wire_id(*id), wire_epoch(*epoch)));
        }
    }
}

/// Appends an update to what will be written to a link.
pub fn put_update(out: &mut BytesMut, update: &Update) {
    match update {
        Update::Delta(delta) => put_delta(out, delta),
        Update::Whole(whole) => put(out, kind::WHOLE, &wire_whole(whole)),
        Update::Copy(whole) => put(out, kind::COPY, &wire_whole(whole)),
        Update::End(end) => put(out, kind::END, &(wire_id(end.id), wire_ending(end.ending))),
    }
}

/// Appends a reply to what will be written to a link.
pub fn put_reply(out: &mut BytesMut, reply: &Reply) {
    match reply {
        Reply::Ack(sequence) => put(out, kind::ACK, sequence),
        Reply::Objection(sequence, Objection::Gap) => put(out, kind::GAP, sequence),
        Reply::Objection(sequence, Objection::Fenced(epoch)) => put(out, kind::FENCED, &(sequence, wire_epoch(*epoch))),
        Reply::Objection(sequence, Objection::Ended(ending)) => {
            put(out, kind::ENDED, &(sequence, wire_ending(*ending)));
        }
        Reply::Answer(ticket, Answer::Promised(Given { owner, current, idle, copy })) => {
            let (owner, current, copy) =
                (owner.map(wire_epoch), current.map(wire_epoch), copy.as_ref().map(wire_whole));
            put(out, kind::PROMISED, &(ticket, owner, current, idle.map(millis), copy));
        }
        Reply::Answer(ticket, Answer::Unknown) => put(out, kind::UNKNOWN, ticket),
        Reply::Answer(ticket, Answer::Ended(ending, before)) => {
            put(out, kind::ANSWER_ENDED, &(ticket, wire_ending(*ending), before.as_ref().map(wire_whole)));
        }
        Reply::Answer(ticket, Answer::Refused(epoch)) => put(out, kind::REFUSED, &(ticket, wire_epoch(*epoch))),
        Reply::Answer(ticket, Answer::Owned(owner)) => put(out, kind::OWNED, &(ticket, owner.0)),
        Reply::Renewed { at } => put(out, kind::RENEWED, &at.0),
        Reply::Compared(Finding::Differs { round, differing, empty }) => {
            put(out, kind::DIFFERS, &(round, Bytes::new(differing.as_bytes()), Bytes::new(empty.as_bytes())));
        }
        Reply::Compared(Finding::Wants { round, wanted }) => put(out, kind::WANTS, &(round, Bytes::new(wanted))),
        Reply::Took { batch, ended, outranked } => {
            let ended: Vec<_> = ended.iter().map(|(id, ending)| (wire_id(*id), wire_ending(*ending))).collect();
            if outranked.is_empty() {
                return put(out, kind::TOOK, &(batch, ended));
            }
            let outranked: Vec<_> = outranked.iter().map(|(id, epoch)| (wire_id(*id), wire_epoch(*epoch))).collect();
            put(out, kind::TOOK_OUTRANKED, &(batch, ended, outranked));
        }
        Reply::Replaced(id, epoch) => put(out, kind::REPLACED, &(wire_id(*id), wire_epoch(*epoch))),
    }
}

/// Takes the next request of the node `from` out of what was read; none while a frame is not complete.
pub fn take_request(input: &mut BytesMut, from: NodeId) -> Result<Option<Request>, BadFrame> {
    take(input, |kind, body| read_request(kind, body, from))
}

/// Takes the next reply out of what was read; none while a frame is not complete.
pub fn take_reply(input: &mut BytesMut) -> Result<Option<Reply>, BadFrame> {
    take(input, read_reply)
}

fn read_request(kind: u8, body: &[u8], from: NodeId) -> Result<Request, BadFrame> {
    Ok(match kind {
        kind::DELTA => Request::Update(Update::Delta(delta_of(decode(kind, body)?, from))),
        kind::WHOLE => Request::Update(Update::Whole(whole_of(kind, decode(kind, body)?)?)),
        kind::COPY => Request::Update(Update::Copy(whole_of(kind, decode(kind, body)?)?)),
        kind::END => {
            let (id, ending): (ByteArray<16>, WireEnding) = decode(kind, body)?;
            Request::Update(Update::End(End { id: id_of(id), ending: ending_of(ending) }))
        }
        kind::TOUCH => {
            let (id, idle): (ByteArray<16>, u64) = decode(kind, body)?;
            Request::Touch { id: id_of(id), idle: Duration::from_millis(idle) }
        }
        kind::CLAIM => {
            let WireClaim(ticket, id, counter, context, have, insist) = decode(kind, body)?;
            let context = context_of(kind, context)?;
            let (epoch, have) = (Epoch { counter, node: from }, have.map(stamp_of));
            Request::Claim(ticket, ClaimRequest { id: id_of(id), epoch, context, have, insist })
        }
        kind::RENEW => Request::Renew { at: Moment(decode(kind, body)?) },
        kind::DIGEST => {
            let (round, sums): (RoundNumber, &Bytes) = decode(kind, body)?;
            let sums = sums_of(sums).ok_or_else(|| BadFrame::BadBody(kind, "no digest".into()))?;
            Request::Compare(Question::Digest { round, sums })
        }
        kind::LIST => {
            let (round, sessions): (RoundNumber, &Bytes) = decode(kind, body)?;
            let sessions = list_of(sessions).ok_or_else(|| BadFrame::BadBody(kind, "no list".into()))?;
            Request::Compare(Question::List { round, sessions })
        }
        kind::COPIES => {
            let (number, bytes): (BatchNumber, &Bytes) = decode(kind, body)?;
            Request::Copies(Batch { number, bytes: bytes.to_vec().into() })
        }
        kind::OFFER => {
            let (context, ids): (&str, &Bytes) = decode(kind, body)?;
            let context = context_of(kind, context)?;
            let ids = ids_of(ids).ok_or_else(|| BadFrame::BadBody(kind, "no offer".into()))?;
            Request::Offer { context, ids }
        }
        kind::REPLACES => {
            let (member, id, epoch): (u64, ByteArray<16>, WireEpoch) = decode(kind, body)?;
            Request::Replaces { member: NodeId(member), id: id_of(id), epoch: epoch_of(epoch) }
        }
        _ => return Err(BadFrame::UnknownKind(kind)),
    })
}

fn read_reply(kind: u8, body: &[u8]) -> Result<Reply, BadFrame> {
    Ok(match kind {
        kind::ACK => Reply::Ack(decode(kind, body)?),
        kind::GAP => Reply::Objection(decode(kind, body)?, Objection::Gap),
        kind::FENCED => {
            let (sequence, epoch) = decode(kind, body)?;
            Reply::Objection(sequence, Objection::Fenced(epoch_of(epoch)))
        }
        kind::ENDED => {
            let (sequence, ending) = decode(kind, body)?;
            Reply::Objection(sequence, Objection::Ended(ending_of(ending)))
        }
        kind::PROMISED => {
            let (ticket, owner, current, idle, copy): WirePromise<'_> = decode(kind, body)?;
            let copy = copy.map(|copy| whole_of(kind, copy)).transpose()?;
            let (owner, current) = (owner.map(epoch_of), current.map(epoch_of));
            let idle = idle.map(Duration::from_millis);
            Reply::Answer(ticket, Answer::Promised(Given { owner, current, idle, copy }))
        }
        kind::UNKNOWN => Reply::Answer(decode(kind, body)?, Answer::Unknown),
        kind::ANSWER_ENDED => {
            let (ticket, ending, before): WireAnswerEnded<'_> = decode(kind, body)?;
            let before = before.map(|before| whole_of(kind, before)).transpose()?;
            Reply::Answer(ticket, Answer::Ended(ending_of(ending), before))
        }
        kind::REFUSED => {
            let (ticket, epoch) = decode(kind, body)?;
            Reply::Answer(ticket, Answer::Refused(epoch_of(epoch)))
        }
        kind::OWNED => {
            let (ticket, owner) = decode(kind, body)?;
            Reply::Answer(ticket, Answer::Owned(NodeId(owner)))
        }
        kind::RENEWED => Reply::Renewed { at: Moment(decode(kind, body)?) },
        kind::DIFFERS => {
            let (round, differing, empty): (RoundNumber, &Bytes, &Bytes) = decode(kind, body)?;
            let buckets =
                |bytes| Buckets::from_bytes(bytes).ok_or_else(|| BadFrame::BadBody(kind, "no buckets".into()));
            Reply::Compared(Finding::Differs { round, differing: buckets(differing)?, empty: buckets(empty)? })
        }
        kind::WANTS => {
            let (round, wanted): (RoundNumber, &Bytes) = decode(kind, body)?;
            Reply::Compared(Finding::Wants { round, wanted: wanted.to_vec() })
        }
        kind::TOOK => {
            let (batch, ended): (BatchNumber, Vec<(ByteArray<16>, WireEnding)>) = decode(kind, body)?;
            let ended = ended.into_iter().map(|(id, ending)| (id_of(id), ending_of(ending)));
            Reply::Took { batch, ended: ended.collect(), outranked: Vec::new() }
        }
        kind::TOOK_OUTRANKED => {
            let (batch, ended, outranked): WireTook = decode(kind, body)?;
            let ended = ended.into_iter().map(|(id, ending)| (id_of(id), ending_of(ending)));
            let outranked = outranked.into_iter().map(|(id, epoch)| (id_of(id), epoch_of(epoch)));
            Reply::Took { batch, ended: ended.collect(), outranked: outranked.collect() }
        }
        kind::REPLACED => {
            let (id, epoch): (ByteArray<16>, WireEpoch) = decode(kind, body)?;
            Reply::Replaced(id_of(id), epoch_of(epoch))
        }
        _ => return Err(BadFrame::UnknownKind(kind)),
    })
}

fn put_delta(out: &mut BytesMut, delta: &Delta) {
    let changes = delta.changes.iter().map(|change| match change {
        Change::Set(name, value) => WireChange(name, Some(Bytes::new(value.as_bytes()))),
        Change::Remove(name) => WireChange(name, None),
    });
    let Stamp { epoch, version } = delta.stamp;
    put(out, kind::DELTA, &WireDelta(wire_id(delta.id), epoch.counter, version, changes.collect()));
}

/// Writes one frame. Everything we send has a MessagePack form, and its size is bounded where it was made.
fn put(out: &mut BytesMut, kind: u8, body: &impl Serialize) {
    let start = out.len();
    out.put_bytes(0, PREFIX);
    out.put_u8(kind);
    let written: Result<(), EncodeError> = rmp_serde::encode::write(&mut out.writer(), body);
    written.expect("our own frames can be encoded");
    let length = (out.len() - start - PREFIX) as u32;
    out[start..start + PREFIX].copy_from_slice(&length.to_be_bytes()[1..]);
}

fn take<T>(input: &mut BytesMut, read: impl FnOnce(u8, &[u8]) -> Result<T, BadFrame>) -> Result<Option<T>, BadFrame> {
    let Some(&[a, b, c]) = input.first_chunk::<PREFIX>() else { return Ok(None) };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > limits::FRAME_BYTES {
        return Err(BadFrame::TooLong(length));
    }
    if input.len() < PREFIX + length {
        input.reserve(PREFIX + length - input.len());
        return Ok(None);
    }
    let (kind, body) = input[PREFIX..PREFIX + length].split_first().ok_or(BadFrame::UnknownKind(0))?;
    let taken = read(*kind, body)?;
    input.advance(PREFIX + length);
    Ok(Some(taken))
}

fn decode<'a, T: Deserialize<'a>>(kind: u8, body: &'a [u8]) -> Result<T, BadFrame> {
    let mut reader = rmp_serde::Deserializer::<ReadRefReader<'a, [u8]>>::from_read_ref(body);
    reader.set_max_depth(limits::VALUE_DEPTH);
    T::deserialize(&mut reader).map_err(|error| BadFrame::BadBody(kind, error.to_string()))
}

fn wire_whole(whole: &Whole) -> WireWhole<'_> {
    let attributes = whole.attributes.iter();
    let attributes = attributes.map(|Attribute { name, value, stamp }| {
        WireAttribute(name, value.as_ref().map(|value| Bytes::new(value.as_bytes())), wire_stamp(*stamp))
    });
    WireWhole(
        wire_id(whole.id),
        whole.context.as_str(),
        wire_epoch(whole.owner),
        wire_stamp(whole.stamp),
        whole.timeout.map(|timeout| timeout.as_secs().try_into().unwrap_or(u32::MAX)),
        millis(whole.idle),
        whole.behind,
        attributes.collect(),
    )
}

fn whole_of(kind: u8, wire: WireWhole<'_>) -> Result<Whole, BadFrame> {
    let WireWhole(id, context, owner, stamp, timeout, idle, behind, attributes) = wire;
    let attributes = attributes.into_iter().map(|WireAttribute(name, value, stamp)| Attribute {
        name: name.into(),
        value: value.map(|value| Value::from_bytes(value)),
        stamp: stamp_of(stamp),
    });
    Ok(Whole {
        id: id_of(id),
        context: context_of(kind, context)?,
        owner: epoch_of(owner),
        stamp: stamp_of(stamp),
        timeout: timeout.map(|seconds| Duration::from_secs(seconds.into())),
        idle: Duration::from_millis(idle),
        behind,
        attributes: attributes.collect(),
    })
}

fn delta_of(WireDelta(id, counter, version, changes): WireDelta<'_>, from: NodeId) -> Delta {
    let changes = changes.into_iter().map(|WireChange(name, value)| {
        let name: Arc<str> = name.into();
        match value {
            Some(value) => Change::Set(name, Value::from_bytes(value)),
            None => Change::Remove(name),
        }
    });
    let stamp = Stamp { epoch: Epoch { counter, node: from }, version };
    Delta { id: id_of(id), stamp, changes: changes.collect() }
}

/// The set of the buckets that are not zero, then their sums: a cluster with few sessions sends few bytes.
fn wire_sums(sums: &[u64]) -> Vec<u8> {
    let used: Buckets = (0..BUCKETS).filter(|bucket| sums.get(*bucket).is_some_and(|sum| *sum != 0)).collect();
    let mut bytes = used.as_bytes().to_vec();
    used.iter().for_each(|bucket| bytes.extend(sums[bucket].to_be_bytes()));
    bytes
}

fn sums_of(bytes: &[u8]) -> Option<Box<[u64]>> {
    let (used, values) = bytes.split_at_checked(BUCKETS / 8)?;
    let (used, (values, rest)) = (Buckets::from_bytes(used)?, values.as_chunks::<8>());
    if values.len() != used.len() || !rest.is_empty() {
        return None;
    }
    let mut sums = vec![0; BUCKETS];
    used.iter().zip(values).for_each(|(bucket, value)| sums[bucket] = u64::from_be_bytes(*value));
    Some(sums.into())
}

fn ids_of(bytes: &[u8]) -> Option<Vec<SessionId>> {
    let (ids, rest) = bytes.as_chunks::<16>();
    (ids.len() <= limits::OFFER_SESSIONS && rest.is_empty()).then(|| ids.iter().copied().map(SessionId).collect())
}

/// For each session its id and its fingerprint.
fn wire_list(sessions: &[Listed]) -> Vec<u8> {
    sessions.iter().flat_map(|Listed { id, fingerprint }| id.0.into_iter().chain(fingerprint.to_be_bytes())).collect()
}

fn list_of(bytes: &[u8]) -> Option<Vec<Listed>> {
    let (entries, rest) = bytes.as_chunks::<24>();
    if entries.len() > limits::REPAIR_LIST || !rest.is_empty() {
        return None;
    }
    let listed = |entry: &[u8; 24]| {
        let (id, fingerprint) = (entry.first_chunk::<16>()?, entry.last_chunk::<8>()?);
        Some(Listed { id: SessionId(*id), fingerprint: u64::from_be_bytes(*fingerprint) })
    };
    entries.iter().map(listed).collect()
}

fn context_of(kind: u8, text: &str) -> Result<ContextPath, BadFrame> {
    text.parse().map_err(|error| BadFrame::BadBody(kind, format!("{error}")))
}

fn wire_id(id: SessionId) -> ByteArray<16> {
    ByteArray::new(id.0)
}

fn id_of(id: ByteArray<16>) -> SessionId {
    SessionId(id.into_array())
}

fn wire_epoch(epoch: Epoch) -> WireEpoch {
    (epoch.counter, epoch.node.0)
}

fn epoch_of((counter, node): WireEpoch) -> Epoch {
    Epoch { counter, node: NodeId(node) }
}

fn wire_stamp(stamp: Stamp) -> WireStamp {
    (stamp.epoch.counter, stamp.epoch.node.0, stamp.version)
}

fn wire_ending(Ending { finality, stamp }: Ending) -> WireEnding {
    (wire_stamp(stamp), finality == Finality::Final)
}

fn ending_of((stamp, is_final): WireEnding) -> Ending {
    let finality = if is_final { Finality::Final } else { Finality::Refutable };
    Ending { finality, stamp: stamp_of(stamp) }
}

fn stamp_of((counter, node, version): WireStamp) -> Stamp {
    Stamp { epoch: epoch_of((counter, node)), version }
}

fn millis(span: Duration) -> u64 {
    span.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
