//! The first exchange on a link: both ends say who they are, and refuse what they could only misunderstand.
//!
//! Named fields, unlike everything after it: an old and a new release must be able to read each other's greeting.

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::seal::{self, LinkSeal, Opener, Sealer};
use crate::{
    limits,
    names::{NodeId, Route},
};

/// The version of everything behind the greeting.
pub(super) const PROTOCOL: u16 = 4;

const MAGIC: &str = "tasuki";

/// From the node that connects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Hello {
    magic: String,
    protocol: u16,
    cluster: String,
    from: NodeId,
    route: Route,
    to: NodeId,
    #[serde(default, skip_serializing_if = "Purpose::is_sessions")]
    purpose: Purpose,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Purpose {
    /// Frames of sessions: a link.
    #[default]
    Sessions,
    /// Whole messages about webapps: a [`Channel`](super::Channel).
    Deployment,
}

/// From the node that accepts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Welcome {
    /// Go on.
    Come,
    /// Not with you, and why.
    Refused(String),
    /// The life of the node that was looked for has ended.
    Ended(String),
}

/// Why two nodes do not talk.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoGreeting {
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It is no greeting.
    #[error("this is no greeting of tasuki: {0}")]
    Noise(String),
    /// The other end does not prove that it knows the secret. Nothing more is ever said about the reason.
    #[error("the other end is not sealed with this cluster's secret")]
    Unsealed,
    /// The other end seals, and this one cannot.
    #[error("the other end has a secret: name it in cluster.secret_file here, too")]
    Sealed,
    /// The other end seals in another way.
    #[error("the other end speaks version {0} of sealed links, this node speaks {1}: run the same release on both")]
    SealVersion(u8, u8),
    /// This end does not want it.
    #[error("{0}")]
    Unwanted(String),
    /// The other end refused.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// Another process is where the one that was looked for has been.
    #[error("the peer has ended: {0}")]
    Ended(String),
    /// The other end looks for an earlier life of this node.
    #[error("{0}")]
    Late(String),
}

impl Hello {
    /// The greeting of `from` to the life `to` of a node.
    pub(super) fn new(cluster: &str, from: NodeId, route: Route, to: NodeId) -> Self {
        let purpose = Purpose::Sessions;
        Self { magic: MAGIC.into(), protocol: PROTOCOL, cluster: cluster.into(), from, route, to, purpose }
    }

    /// The same for another purpose.
    pub(super) fn for_purpose(self, purpose: Purpose) -> Self {
        Self { purpose, ..self }
    }

    /// What the connection is for.
    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Who greets.
    pub(super) fn from(&self) -> NodeId {
        self.from
    }

    /// Its name.
    pub(super) fn route(&self) -> &Route {
        &self.route
    }

    /// What the sender is to be told.
    fn welcome(&self, cluster: &str, me: NodeId) -> Welcome {
        let Self { route, protocol, .. } = self;
        let stranger = if self.magic != MAGIC {
            "not a tasuki node".into()
        } else if *protocol != PROTOCOL {
            // Read at both ends.
            format!("{route} speaks protocol {protocol}, the node it called {PROTOCOL}: run the same release on both")
        } else if self.cluster != cluster {
            format!("{route} belongs to the cluster {:?}, not to {cluster:?}", self.cluster)
        } else if self.to != me {
            return Welcome::Ended(format!("{route} looks for a life of this node that has ended"));
        } else {
            return Welcome::Come;
        };
        Welcome::Refused(stranger)
    }
}

impl Purpose {
    fn is_sessions(&self) -> bool {
        *self == Self::Sessions
    }
}

impl NoGreeting {
    /// Whether it came from somebody who is perhaps no member at all, and can come very often.
    pub(super) fn is_of_a_stranger(&self) -> bool {
        matches!(self, Self::Noise(_) | Self::Unsealed | Self::Sealed | Self::SealVersion(..))
    }
}

/// Greets as the one who connected. What follows is sealed and opened with what is returned.
pub(super) async fn greet(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    seal: &LinkSeal,
    hello: &Hello,
) -> Result<(Sealer, Opener), NoGreeting> {
    let (mut sealer, mut opener) = seal.dial(stream).await?;
    write(stream, &mut sealer, hello).await?;
    match read(stream, &mut opener).await? {
        Welcome::Come => Ok((sealer, opener)),
        Welcome::Refused(reason) => Err(NoGreeting::Refused(reason)),
        Welcome::Ended(reason) => Err(NoGreeting::Ended(reason)),
    }
}

/// Answers a greeting as the one who accepted.
pub(super) async fn answer(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    seal: &LinkSeal,
    cluster: &str,
    me: NodeId,
) -> Result<(Hello, Sealer, Opener), NoGreeting> {
    let (mut sealer, mut opener) = seal.accept(stream).await?;
    let hello: Hello = read(stream, &mut opener).await?;
    let welcome = hello.welcome(cluster, me);
    write(stream, &mut sealer, &welcome).await?;
    match welcome {
        Welcome::Come => Ok((hello, sealer, opener)),
        Welcome::Refused(reason) => Err(NoGreeting::Unwanted(reason)),
        Welcome::Ended(reason) => Err(NoGreeting::Late(reason)),
    }
}

async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    sealer: &mut Sealer,
    message: &impl Serialize,
) -> Result<(), NoGreeting> {
    let body = rmp_serde::to_vec_named(message).map_err(|error| NoGreeting::Noise(error.to_string()))?;
    let mut frame = BytesMut::with_capacity(2 + body.len());
    frame.put_u16(body.len().try_into().map_err(|_| NoGreeting::Noise("too long".into()))?);
    frame.put_slice(&body);
    let frame = sealer.seal(frame).map_err(|_| NoGreeting::Unsealed)?;
    Ok(stream.write_all(&frame).await?)
}

/// Reads not a byte more than the greeting, so that what follows stays in the stream.
async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    opener: &mut Opener,
) -> Result<T, NoGreeting> {
    let body = if opener.is_sealed() { read_sealed(stream, opener).await? } else { read_part(stream).await? };
    let mut reader = rmp_serde::Deserializer::from_read_ref(&body);
    reader.set_max_depth(limits::VALUE_DEPTH);
    T::deserialize(&mut reader).map_err(|error| NoGreeting::Noise(error.to_string()))
}

/// A length and as many bytes.
async fn read_part(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, NoGreeting> {
    let length = stream.read_u16().await?;
    if seal::begins_sealed(length) {
        return Err(NoGreeting::Sealed);
    }
    let length = usize::from(length);
    if length > limits::GREETING_BYTES {
        return Err(NoGreeting::Noise(format!("{length} bytes, at most {} are allowed", limits::GREETING_BYTES)));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// One record, and the greeting in it.
async fn read_sealed(stream: &mut (impl AsyncRead + Unpin), opener: &mut Opener) -> Result<Vec<u8>, NoGreeting> {
    let record = read_part(stream).await?;
    let mut greeting = BytesMut::new();
    let inbox = opener.inbox(&mut greeting);
    inbox.put_u16(record.len().try_into().map_err(|_| NoGreeting::Unsealed)?);
    inbox.put_slice(&record);
    opener.open(&mut greeting).map_err(|_| NoGreeting::Unsealed)?;
    match greeting.split_first_chunk() {
        Some((length, body)) if usize::from(u16::from_be_bytes(*length)) == body.len() => Ok(body.to_vec()),
        _ => Err(NoGreeting::Noise("its length is wrong".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Secret;

    const ME: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);

    fn hello() -> Hello {
        Hello::new("tasuki", PEER, "r2".parse().unwrap(), ME)
    }

    fn plain() -> LinkSeal {
        LinkSeal::new("tasuki", None)
    }

    fn sealed() -> LinkSeal {
        LinkSeal::new("tasuki", Some(&Secret::parse(&"1".repeat(64)).unwrap()))
    }

    async fn meet(hello: &Hello) -> (Result<(), NoGreeting>, Result<Hello, NoGreeting>) {
        meet_with(hello, &plain(), &plain()).await
    }

    async fn meet_with(
        hello: &Hello,
        dialer: &LinkSeal,
        acceptor: &LinkSeal,
    ) -> (Result<(), NoGreeting>, Result<Hello, NoGreeting>) {
        let (mut here, mut there) = tokio::io::duplex(limits::GREETING_BYTES);
        let dial = async move { greet(&mut there, dialer, hello).await.map(|_| ()) };
        let accept = async move { answer(&mut here, acceptor, "tasuki", ME).await.map(|(hello, ..)| hello) };
        tokio::join!(dial, accept)
    }

    #[actix_web::test]
    async fn an_unsealed_greeting_is_byte_for_byte_what_it_was() {
        let (mut here, mut there) = tokio::io::duplex(limits::GREETING_BYTES);
        let (seal, hello) = (plain(), hello());
        let mut bytes = vec![0; 60];
        let dial = async { greet(&mut there, &seal, &hello).await.map(|_| ()) };
        let read = async {
            here.read_exact(&mut bytes).await.unwrap();
            here.write_all(&[0, 5, 0xA4, b'c', b'o', b'm', b'e']).await.unwrap();
        };
        assert!(tokio::join!(dial, read).0.is_ok());
        let mut expected = vec![0, 58, 0x86];
        for (name, value) in [
            ("magic", &b"\xA6tasuki"[..]),
            ("protocol", &[4]),
            ("cluster", b"\xA6tasuki"),
            ("from", &[2]),
            ("route", b"\xA2r2"),
            ("to", &[1]),
        ] {
            expected.push(0xA0 + name.len() as u8);
            expected.extend_from_slice(name.as_bytes());
            expected.extend_from_slice(value);
        }
        assert_eq!(bytes, expected);
    }

    #[actix_web::test]
    async fn sealed_ends_greet_each_other_and_refuse_by_name_as_others_do() {
        let (there, here) = meet_with(&hello(), &sealed(), &sealed()).await;
        assert!(there.is_ok());
        assert_eq!(here.unwrap(), hello());
        let (there, here) = meet_with(&Hello { protocol: 99, ..hello() }, &sealed(), &sealed()).await;
        for end in [there.unwrap_err(), here.unwrap_err()] {
            assert!(end.to_string().contains("protocol 99"), "{end}");
        }
    }

    #[actix_web::test]
    async fn one_end_with_a_secret_and_one_without_do_not_talk() {
        let (there, here) = meet_with(&hello(), &sealed(), &plain()).await;
        assert!(matches!((there, here), (Err(NoGreeting::Io(_)), Err(NoGreeting::Sealed))));
        let (there, here) = meet_with(&hello(), &plain(), &sealed()).await;
        assert!(matches!((there, here), (Err(NoGreeting::Io(_)), Err(NoGreeting::Unsealed))));
    }

    #[actix_web::test]
    async fn two_nodes_of_a_cluster_greet_each_other() {
        let (there, here) = meet(&hello()).await;
        assert!(there.is_ok());
        assert_eq!(here.unwrap(), hello());
    }

    #[actix_web::test]
    async fn what_a_connection_is_for_is_said_first() {
        let hello = hello().for_purpose(Purpose::Deployment);
        let (there, here) = meet_with(&hello, &sealed(), &sealed()).await;
        assert!(there.is_ok());
        assert_eq!(here.unwrap().purpose(), Purpose::Deployment);
    }

    #[actix_web::test]
    async fn both_ends_learn_why_they_do_not_talk() {
        let strangers = [
            (Hello { cluster: "other".into(), ..hello() }, "cluster"),
            (Hello { protocol: 99, ..hello() }, "protocol 99"),
            (Hello { to: NodeId(3), ..hello() }, "has ended"),
            (Hello { magic: "x".into(), ..hello() }, "not a tasuki node"),
        ];
        for (stranger, reason) in strangers {
            let (there, here) = meet(&stranger).await;
            for end in [there.unwrap_err(), here.unwrap_err()] {
                assert!(end.to_string().contains(reason), "{end} names {reason:?}");
            }
        }
    }

    #[actix_web::test]
    async fn who_looks_for_an_earlier_life_learns_that_it_has_ended() {
        let both = meet(&Hello { to: NodeId(3), ..hello() }).await;
        assert!(matches!(both, (Err(NoGreeting::Ended(_)), Err(NoGreeting::Late(_)))));
        let (there, _) = meet(&Hello { cluster: "other".into(), to: NodeId(3), ..hello() }).await;
        assert!(matches!(there, Err(NoGreeting::Refused(_))), "a stranger learns nothing of lives");
    }

    #[actix_web::test]
    async fn a_greeting_of_a_newer_release_is_understood() {
        let (mut here, mut there) = tokio::io::duplex(limits::GREETING_BYTES);
        let newer = serde_json::json!({
            "magic": "tasuki", "protocol": PROTOCOL + 1, "cluster": "tasuki", "from": 2, "route": "r2", "to": 1, "color": "red"
        });
        let (mut sealer, _) = plain().dial(&mut there).await.unwrap();
        write(&mut there, &mut sealer, &newer).await.unwrap();
        let refused = answer(&mut here, &plain(), "tasuki", ME).await.map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains(&format!("speaks protocol {}", PROTOCOL + 1)), "{refused}");
    }

    #[actix_web::test]
    async fn noise_is_refused_before_it_is_read_whole() {
        for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 3, 0xC1, 0, 0], &[0xFF; 64]] {
            let (mut here, mut there) = tokio::io::duplex(limits::GREETING_BYTES);
            there.write_all(noise).await.unwrap();
            drop(there);
            assert!(answer(&mut here, &plain(), "tasuki", ME).await.is_err());
        }
    }
}
