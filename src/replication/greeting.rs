//! The first exchange on a link: both ends say who they are, and refuse what they could only misunderstand.
//!
//! Named fields, unlike everything after it: an old and a new release must be able to read each other's greeting.

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    limits,
    names::{NodeId, Route},
};

/// The version of everything behind the greeting.
pub(super) const PROTOCOL: u16 = 1;

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
    /// This end does not want it.
    #[error("{0}")]
    Unwanted(String),
    /// The other end refused.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// Another process is where the one that was looked for has been.
    #[error("the peer has ended: {0}")]
    Ended(String),
}

impl Hello {
    /// The greeting of `from` to the life `to` of a node.
    pub(super) fn new(cluster: &str, from: NodeId, route: Route, to: NodeId) -> Self {
        Self { magic: MAGIC.into(), protocol: PROTOCOL, cluster: cluster.into(), from, route, to }
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
            format!("{route} speaks protocol {protocol}, this node speaks {PROTOCOL}: run the same release on both")
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

/// Greets as the one who connected.
pub(super) async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), hello: &Hello) -> Result<(), NoGreeting> {
    write(stream, hello).await?;
    match read(stream).await? {
        Welcome::Come => Ok(()),
        Welcome::Refused(reason) => Err(NoGreeting::Refused(reason)),
        Welcome::Ended(reason) => Err(NoGreeting::Ended(reason)),
    }
}

/// Answers a greeting as the one who accepted.
pub(super) async fn answer(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    cluster: &str,
    me: NodeId,
) -> Result<Hello, NoGreeting> {
    let hello: Hello = read(stream).await?;
    let welcome = hello.welcome(cluster, me);
    write(stream, &welcome).await?;
    match welcome {
        Welcome::Come => Ok(hello),
        Welcome::Refused(reason) | Welcome::Ended(reason) => Err(NoGreeting::Unwanted(reason)),
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<(), NoGreeting> {
    let body = rmp_serde::to_vec_named(message).map_err(|error| NoGreeting::Noise(error.to_string()))?;
    let mut frame = BytesMut::with_capacity(2 + body.len());
    frame.put_u16(body.len().try_into().map_err(|_| NoGreeting::Noise("too long".into()))?);
    frame.put_slice(&body);
    Ok(stream.write_all(&frame).await?)
}

/// Reads not a byte more than the greeting, so that what follows stays in the stream.
async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, NoGreeting> {
    let length = usize::from(stream.read_u16().await?);
    if length > limits::GREETING_BYTES {
        return Err(NoGreeting::Noise(format!("{length} bytes, at most {} are allowed", limits::GREETING_BYTES)));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let mut reader = rmp_serde::Deserializer::from_read_ref(&body);
    reader.set_max_depth(limits::VALUE_DEPTH);
    T::deserialize(&mut reader).map_err(|error| NoGreeting::Noise(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);

    fn hello() -> Hello {
        Hello::new("tasuki", PEER, "r2".parse().unwrap(), ME)
    }

    async fn meet(hello: &Hello) -> (Result<(), NoGreeting>, Result<Hello, NoGreeting>) {
        let (mut here, mut there) = tokio::io::duplex(limits::GREETING_BYTES);
        tokio::join!(greet(&mut there, hello), answer(&mut here, "tasuki", ME))
    }

    #[actix_web::test]
    async fn two_nodes_of_a_cluster_greet_each_other() {
        let (there, here) = meet(&hello()).await;
        assert!(there.is_ok());
        assert_eq!(here.unwrap(), hello());
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
        let (there, _) = meet(&Hello { to: NodeId(3), ..hello() }).await;
        assert!(matches!(there, Err(NoGreeting::Ended(_))));
        let (there, _) = meet(&Hello { cluster: "other".into(), to: NodeId(3), ..hello() }).await;
        assert!(matches!(there, Err(NoGreeting::Refused(_))), "a stranger learns nothing of lives");
    }

    #[actix_web::test]
    async fn a_greeting_of_a_newer_release_is_understood() {
        let (mut here, mut there) = tokio::io::duplex(limits::GREETING_BYTES);
        let newer = serde_json::json!({
            "magic": "tasuki", "protocol": 2, "cluster": "tasuki", "from": 2, "route": "r2", "to": 1, "color": "red"
        });
        write(&mut there, &newer).await.unwrap();
        let refused = answer(&mut here, "tasuki", ME).await.unwrap_err();
        assert!(refused.to_string().contains("speaks protocol 2"), "{refused}");
    }

    #[actix_web::test]
    async fn noise_is_refused_before_it_is_read_whole() {
        for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 3, 0xC1, 0, 0], &[0xFF; 64]] {
            let (mut here, mut there) = tokio::io::duplex(limits::GREETING_BYTES);
            there.write_all(noise).await.unwrap();
            drop(there);
            assert!(answer(&mut here, "tasuki", ME).await.is_err());
        }
    }
}
