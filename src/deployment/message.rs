//! What a coordinator asks a host, and what it hears: MessagePack with named fields, so that a field can be added.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::manifest::{Digest, Entry, Manifest};
use crate::{
    limits,
    replication::{Broken, Channel},
};

/// From the end that opened the channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Check this archive for this name, and render the page that will be probed. Answered with [`Say::Send`] by a host that does not have it, else as if it had come.
    Check { name: String, archive: Digest, bytes: u64, probe: Option<String> },
    /// A part of the archive that was asked for; an empty one ends it, and is answered.
    Part(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Serve this, on trial, for as long as the channel is open.
    Activate { name: String, entry: Entry },
    /// Ask the webapp for a page.
    Probe { path: Option<String> },
    /// How many pages of it have failed, and how many were asked for, since it was activated.
    Count,
    /// The trial is over: serve it for good.
    Confirm,
    /// The trial is over: serve what was served before.
    Revert,
    /// What is deployed.
    Manifest,
    /// An archive: answered with parts, the last one empty; with [`Say::Refused`] when it is not there.
    Fetch(Digest),
}

/// From the end that accepted it. `Refused` is an answer to everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Say {
    Send,
    /// It is good; what its author should know of.
    Checked(Vec<String>),
    /// Done, in a word for the administrator.
    Done(String),
    Count {
        asked: u64,
        failed: u64,
    },
    Manifest(Manifest),
    Part(#[serde(with = "serde_bytes")] Vec<u8>),
    Refused(String),
}

/// Why a talk has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoTalk {
    #[error("{0}")]
    Broken(#[from] Broken),
    #[error("what came is not understood: {0}")]
    Noise(String),
}

pub(super) async fn send(channel: &mut Channel, message: &impl Serialize) -> Result<(), NoTalk> {
    let bytes = rmp_serde::to_vec_named(message).map_err(|error| NoTalk::Noise(error.to_string()))?;
    Ok(channel.send(&bytes).await?)
}

pub(super) async fn receive<M: for<'de> Deserialize<'de>>(
    channel: &mut Channel,
    patience: Duration,
) -> Result<M, NoTalk> {
    let bytes = channel.receive(patience).await?;
    let mut reader = rmp_serde::Deserializer::from_read_ref(&bytes);
    reader.set_max_depth(limits::VALUE_DEPTH);
    M::deserialize(&mut reader).map_err(|error| NoTalk::Noise(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{deployment::manifest::Serial, names::NodeId};

    fn bytes(message: &impl Serialize) -> Vec<u8> {
        rmp_serde::to_vec_named(message).unwrap()
    }

    #[test]
    fn yesterdays_bytes_are_understood() {
        let digest: Digest = "ab".repeat(32).parse().unwrap();
        let serial = Serial { counter: 3, node: NodeId(7) };
        let entry = Entry { serial, archive: Some(digest.clone()), earlier: vec![] };
        let activate = Ask::Activate { name: "shop".into(), entry };
        let mut expected = b"\x81\xA8Activate\x82\xA4name\xA4shop\xA5entry\x83\xA6serial\x82\xA7counter\x03\xA4node\x07\xA7archive\xD9\x40".to_vec();
        expected.extend_from_slice("ab".repeat(32).as_bytes());
        expected.extend_from_slice(b"\xA7earlier\x90");
        assert_eq!(bytes(&activate), expected);
        assert_eq!(bytes(&Ask::Confirm), b"\xA7Confirm");
        assert_eq!(bytes(&Say::Part(b"xy".to_vec())), b"\x81\xA4Part\xC4\x02xy");
        assert_eq!(rmp_serde::from_slice::<Ask>(&expected).unwrap(), activate);
    }

    #[test]
    fn a_part_and_a_full_manifest_fit_one_message() {
        let part = Ask::Part(vec![0; limits::ARCHIVE_PART_BYTES]);
        assert!(bytes(&part).len() <= limits::CHANNEL_MESSAGE_BYTES);
        let mut manifest = Manifest::default();
        let digest: Digest = "ab".repeat(32).parse().unwrap();
        let serial = Serial { counter: u64::MAX, node: NodeId(u64::MAX) };
        let earlier = vec![digest.clone(); limits::DEPLOYED_EARLIER];
        for n in 0..limits::DEPLOYED_NAMES {
            let entry = Entry { serial, archive: Some(digest.clone()), earlier: earlier.clone() };
            assert!(manifest.take(&format!("{n:0255}"), &entry));
        }
        assert!(bytes(&Say::Manifest(manifest)).len() <= limits::CHANNEL_MESSAGE_BYTES);
    }
}
