//! The seal of a link: with a secret, nothing crosses it in clear and nothing is believed that does not carry it.
//!
//! ```text
//! dialer  ── 'T' 'S' 'K' version 1 | length 2 bytes | psk, e ──►  acceptor      Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s
//!         ◄──────────────────────── length 2 bytes | e, ee ───                  (noiseprotocol.org, revision 34)
//!         ── length 2 bytes | sealed: greeting, then frames ──►                 one record for each write, up to 65,519
//!         ◄─ length 2 bytes | sealed: welcome, then answers ───                 bytes and 18 more on the wire
//! ```
//!
//! The handshake gives each direction of each connection a key of its own, which no later theft of the secret reveals.
//! Records are numbered, so one that was changed, repeated, left out or moved does not open, and the link ends. The
//! acceptor has proof that the dialer is there, and is no recording, with the first record: nothing is decoded before.
//!
//! Without a secret there is no handshake and not one byte more.

use std::{cell::RefCell, fmt, rc::Rc, sync::Arc};

use bytes::{Buf, BufMut, BytesMut};
use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::greeting::NoGreeting;
use crate::settings::{Key, Secret};

#[cfg(test)]
mod tests;

/// Empty payloads, keys and hashes as the specification has them: nothing here is chosen by us.
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// What the keys are for; with a change here nobody understands anybody.
const PURPOSE: &str = "tasuki links 1";

/// First bytes of a sealed link. As the length of an unsealed greeting they would be far too much.
const MAGIC: [u8; 3] = *b"TSK";

/// Grows when the handshake or the records change.
const VERSION: u8 = 1;

/// A handshake message: a public key and the tag of the empty payload.
const HANDSHAKE_BYTES: usize = 32 + TAG_BYTES;

const TAG_BYTES: usize = 16;

/// The length before a record.
const PREFIX_BYTES: usize = 2;

/// The longest record (Noise, section 3), the tag left out.
const CONTENT_BYTES: usize = u16::MAX as usize - TAG_BYTES;

/// How the links of this process are sealed, or that they are not.
#[derive(Clone)]
pub struct LinkSeal {
    cluster: Arc<str>,
    /// The first one is dialled with, each is accepted. None: not sealed.
    keys: Arc<[Key]>,
}

/// Seals what one end writes; each record can be made once.
pub(super) struct Sealer(Option<Session>);

/// Opens what one end reads, in the order it was written.
pub(super) struct Opener {
    session: Option<Session>,
    /// Records as they came.
    records: BytesMut,
}

/// Both directions of one connection; its ends are on one thread.
type Session = Rc<RefCell<TransportState>>;

/// What came is not what the other end sealed. There is one such error, so that it teaches nobody anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seal of the link is broken")]
pub(super) struct Broken;

impl LinkSeal {
    /// For the cluster of this name; without a secret links are as they are.
    pub fn new(cluster: &str, secret: Option<&Secret>) -> Self {
        Self { cluster: cluster.into(), keys: secret.map(|secret| secret.keys(PURPOSE)).unwrap_or_default().into() }
    }

    /// Agrees on keys as the one who connected. Whoever answers well knows the secret.
    pub(super) async fn dial(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<(Sealer, Opener), NoGreeting> {
        let Some(key) = self.keys.first() else { return Ok(plain()) };
        let mut handshake = self.handshake(key, Builder::build_initiator)?;
        let mut first = [MAGIC.as_slice(), &[VERSION]].concat();
        first.extend_from_slice(&message(&mut handshake)?);
        stream.write_all(&first).await?;
        let answer = read_message(stream).await?;
        handshake.read_message(&answer, &mut []).map_err(|_| NoGreeting::Unsealed)?;
        sealed(handshake)
    }

    /// Agrees on keys as the one who accepted. Who has dialled is known to know the secret with its first record.
    pub(super) async fn accept(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<(Sealer, Opener), NoGreeting> {
        if self.keys.is_empty() {
            return Ok(plain());
        }
        let mut opening = [0; MAGIC.len() + 1];
        stream.read_exact(&mut opening).await?;
        match opening {
            [m0, m1, m2, VERSION] if [m0, m1, m2] == MAGIC => {}
            [m0, m1, m2, version] if [m0, m1, m2] == MAGIC => return Err(NoGreeting::SealVersion(version, VERSION)),
            _ => return Err(NoGreeting::Unsealed),
        }
        let first = read_message(stream).await?;
        let known = self.keys.iter().find_map(|key| {
            let mut handshake = self.handshake(key, Builder::build_responder).ok()?;
            handshake.read_message(&first, &mut []).ok().map(|_| handshake)
        });
        let mut handshake = known.ok_or(NoGreeting::Unsealed)?;
        stream.write_all(&message(&mut handshake)?).await?;
        sealed(handshake)
    }

    fn handshake<'a>(
        &'a self,
        key: &'a Key,
        build: impl FnOnce(Builder<'a>) -> Result<HandshakeState, snow::Error>,
    ) -> Result<HandshakeState, NoGreeting> {
        let builder = PATTERN.parse().map(Builder::new).and_then(|builder| builder.psk(0, key));
        let builder = builder.and_then(|builder| builder.prologue(self.cluster.as_bytes()));
        builder.and_then(build).map_err(|_| NoGreeting::Unsealed)
    }
}

impl fmt::Debug for LinkSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.keys.is_empty() { "LinkSeal(none)" } else { "LinkSeal(not shown)" })
    }
}

impl Sealer {
    /// What is to be written for these bytes: as few records as they fit in.
    pub(super) fn seal(&mut self, bytes: BytesMut) -> Result<BytesMut, Broken> {
        let Some(session) = &self.0 else { return Ok(bytes) };
        let mut session = session.borrow_mut();
        let records = bytes.len().div_ceil(CONTENT_BYTES);
        let mut out = BytesMut::with_capacity(bytes.len() + records * (PREFIX_BYTES + TAG_BYTES));
        for content in bytes.chunks(CONTENT_BYTES) {
            let length = content.len() + TAG_BYTES;
            out.put_u16(length.try_into().map_err(|_| Broken)?);
            let start = out.len();
            out.resize(start + length, 0);
            session.write_message(content, &mut out[start..]).map_err(|_| Broken)?;
        }
        Ok(out)
    }
}

impl Opener {
    /// Whether what comes is sealed.
    pub(super) fn is_sealed(&self) -> bool {
        self.session.is_some()
    }

    /// Where to read what comes from the network: behind what is in `input`, or where sealed records wait.
    pub(super) fn inbox<'a>(&'a mut self, input: &'a mut BytesMut) -> &'a mut BytesMut {
        if self.is_sealed() { &mut self.records } else { input }
    }

    /// Appends to `input` what has arrived whole.
    pub(super) fn open(&mut self, input: &mut BytesMut) -> Result<(), Broken> {
        let Some(session) = &self.session else { return Ok(()) };
        let mut session = session.borrow_mut();
        while let Some((prefix, rest)) = self.records.split_first_chunk::<PREFIX_BYTES>() {
            let length = usize::from(u16::from_be_bytes(*prefix));
            let content = length.checked_sub(TAG_BYTES).ok_or(Broken)?;
            let Some(record) = rest.get(..length) else { break };
            let start = input.len();
            input.resize(start + content, 0);
            if session.read_message(record, &mut input[start..]).is_err() {
                input.truncate(start);
                return Err(Broken);
            }
            self.records.advance(PREFIX_BYTES + length);
        }
        Ok(())
    }
}

/// Whether the first two bytes of a link, as a number, are those of a sealed one.
pub(super) fn begins_sealed(first: u16) -> bool {
    first.to_be_bytes() == MAGIC[..2]
}

fn plain() -> (Sealer, Opener) {
    (Sealer(None), Opener { session: None, records: BytesMut::new() })
}

fn sealed(handshake: HandshakeState) -> Result<(Sealer, Opener), NoGreeting> {
    let session = Rc::new(RefCell::new(handshake.into_transport_mode().map_err(|_| NoGreeting::Unsealed)?));
    Ok((Sealer(Some(session.clone())), Opener { session: Some(session), records: BytesMut::new() }))
}

/// The next message of a handshake, with its length.
fn message(handshake: &mut HandshakeState) -> Result<Vec<u8>, NoGreeting> {
    let mut bytes = vec![0; PREFIX_BYTES + HANDSHAKE_BYTES];
    bytes[..PREFIX_BYTES].copy_from_slice(&(HANDSHAKE_BYTES as u16).to_be_bytes());
    let length = handshake.write_message(&[], &mut bytes[PREFIX_BYTES..]).map_err(|_| NoGreeting::Unsealed)?;
    bytes.truncate(PREFIX_BYTES + length);
    Ok(bytes)
}

async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> Result<[u8; HANDSHAKE_BYTES], NoGreeting> {
    if usize::from(stream.read_u16().await?) != HANDSHAKE_BYTES {
        return Err(NoGreeting::Unsealed);
    }
    let mut message = [0; HANDSHAKE_BYTES];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
