//! Seals datagrams and opens them: XChaCha20-Poly1305, and a memory of what was taken.
//!
//! ```text
//! nonce: life of the sender, 16 bytes drawn at its start | number of the datagram in that life, 8 bytes
//! ```
//!
//! So no nonce comes twice, nothing has to outlive a kill -9, and the nonce itself tells a datagram that was taken
//! before. No clock is used. The cluster's name is authenticated with every datagram and not sent.

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};

use super::{
    datagram::Refused,
    replay::{Memory, Seen},
};
use crate::settings::Secret;

pub(super) const NONCE_BYTES: usize = 24;
pub(super) const TAG_BYTES: usize = 16;

/// What the keys are for; with a change here nobody understands anybody.
const PURPOSE: &str = "tasuki datagrams 1";

/// One life of one process.
pub(super) type Life = [u8; 16];

/// What one member seals and opens with.
pub(super) struct Seal {
    /// The first one seals.
    ciphers: Vec<XChaCha20Poly1305>,
    associated: Vec<u8>,
    life: Life,
    sent: u64,
    memory: Memory,
}

impl Seal {
    /// For the life of a process that begins now: `life` is drawn for it from the operating system, and used once.
    pub(super) fn new(secret: &Secret, cluster: &str, life: Life) -> Self {
        let ciphers = secret.keys(PURPOSE).iter().map(|key| XChaCha20Poly1305::new(key.into())).collect();
        Self { ciphers, associated: cluster.as_bytes().to_vec(), life, sent: 0, memory: Memory::default() }
    }

    /// Appends nonce, sealed content and tag.
    pub(super) fn close(&mut self, out: &mut Vec<u8>, content: &[u8]) {
        self.sent += 1;
        let mut nonce = [0; NONCE_BYTES];
        nonce[..16].copy_from_slice(&self.life);
        nonce[16..].copy_from_slice(&self.sent.to_be_bytes());
        let payload = Payload { msg: content, aad: &self.associated };
        // There is a cipher for each secret, and it fails above 256 GiB only; nothing at all would be sent then.
        if let Some(Ok(sealed)) = self.ciphers.first().map(|cipher| cipher.encrypt(XNonce::from_slice(&nonce), payload))
        {
            out.extend_from_slice(&nonce);
            out.extend_from_slice(&sealed);
        }
    }

    /// The content, if a member sealed it and it was not taken before.
    pub(super) fn open(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Refused> {
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(Refused::Unsealed)?;
        let payload = || Payload { msg: sealed, aad: &self.associated };
        let mut contents = self.ciphers.iter().filter_map(|it| it.decrypt(XNonce::from_slice(nonce), payload()).ok());
        let content = contents.next().ok_or(Refused::Unsealed)?;
        let (life, number) = split(nonce);
        match self.memory.note(life, number) {
            Seen::New => Ok(content),
            Seen::Before => Err(Refused::Replayed),
        }
    }
}

fn split(nonce: &[u8; NONCE_BYTES]) -> (Life, u64) {
    let (mut life, mut number) = ([0; 16], [0; 8]);
    life.copy_from_slice(&nonce[..16]);
    number.copy_from_slice(&nonce[16..]);
    (life, u64::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(digits: &str) -> Secret {
        Secret::parse(&digits.split(' ').map(|digit| digit.repeat(64) + "\n").collect::<String>()).unwrap()
    }

    fn seal(digits: &str, life: u8) -> Seal {
        Seal::new(&secret(digits), "tasuki", [life; 16])
    }

    fn closed(seal: &mut Seal) -> Vec<u8> {
        let mut out = Vec::new();
        seal.close(&mut out, b"content");
        out
    }

    #[test]
    fn a_secret_is_replaced_one_member_at_a_time() {
        // Everywhere the new one is added, then put first, then the old one is removed: neighbours in this list meet.
        let steps = ["1", "1 2", "2 1", "2"];
        for (from, to) in steps.iter().flat_map(|from| steps.iter().map(move |to| (from, to))) {
            let heard = seal(to, 2).open(&closed(&mut seal(from, 1)));
            let knows = to.split(' ').any(|digit| from.starts_with(digit));
            assert_eq!(heard.is_ok(), knows, "{from} to {to}");
        }
        for pair in steps.windows(2) {
            for (from, to) in [(pair[0], pair[1]), (pair[1], pair[0])] {
                assert!(seal(to, 2).open(&closed(&mut seal(from, 1))).is_ok(), "{from} to {to}");
            }
        }
    }

    #[test]
    fn no_nonce_comes_twice() {
        let (mut a, mut b) = (seal("1", 1), seal("1", 2));
        let nonces: std::collections::BTreeSet<Vec<u8>> = (0..100)
            .flat_map(|_| [closed(&mut a), closed(&mut b)])
            .map(|bytes| bytes[..NONCE_BYTES].to_vec())
            .collect();
        assert_eq!(nonces.len(), 200);
    }

    #[test]
    fn a_forged_datagram_leaves_no_trace() {
        let (mut from, mut to) = (seal("1", 1), seal("1", 2));
        let good = closed(&mut from);
        let mut forged = good.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(to.open(&forged), Err(Refused::Unsealed));
        assert_eq!(to.open(&good), Ok(b"content".to_vec()), "its number was not used up");
    }
}
