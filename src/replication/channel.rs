//! A connection of its own between two nodes, for whole messages that are not about sessions.
//!
//! Greeted and sealed as a link is, and on the same port. An archive that crosses it never stands before a delta.
//!
//! ```text
//! length 4 bytes, big-endian | as many bytes
//! ```

use std::{net::SocketAddr, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    greeting::{self, Hello, Purpose},
    link,
    seal::{LinkSeal, Opener, Sealer},
};
use crate::{
    limits,
    names::{NodeId, Route},
};

/// One end of a channel. Dropping it closes the connection.
pub struct Channel {
    stream: TcpStream,
    sealer: Sealer,
    opener: Opener,
    input: BytesMut,
}

/// A channel that another node has opened.
pub struct Visit {
    /// This life of it.
    pub from: NodeId,
    /// Its name.
    pub route: Route,
    /// What it says comes here.
    pub channel: Channel,
}

/// As whom a node opens channels.
#[derive(Clone, Debug)]
pub struct Dialling {
    /// The cluster's name.
    pub cluster: String,
    /// This life of the node.
    pub me: NodeId,
    /// Its name.
    pub route: Route,
    /// How its connections are sealed.
    pub seal: LinkSeal,
}

/// A channel that is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It was never there.
    #[error("no connection to {0}: {1}")]
    NotReached(SocketAddr, String),
    /// The other end has closed it, or the network has.
    #[error("the connection broke: {0}")]
    Cut(String),
    /// Nothing was heard for this long.
    #[error("nothing was heard for {} s", .0.as_secs())]
    Silent(Duration),
    /// No message of ours.
    #[error("what came is no message: {0}")]
    Noise(String),
}

const PREFIX: usize = 4;

impl Dialling {
    /// Opens a channel to the life `to` of a node.
    ///
    /// # Errors
    /// [`Broken::NotReached`]: nobody there, another life, another cluster, another secret.
    pub async fn dial(&self, to: NodeId, address: SocketAddr) -> Result<Channel, Broken> {
        let hello = Hello::new(&self.cluster, self.me, self.route.clone(), to).for_purpose(Purpose::Deployment);
        let greeted = timeout(limits::GREETING_TIMEOUT, async {
            let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            link::tune(&stream).map_err(|error| error.to_string())?;
            let greeting = greeting::greet(&mut stream, &self.seal, &hello).await;
            greeting.map(|(sealer, opener)| Channel::new(stream, sealer, opener)).map_err(|error| error.to_string())
        });
        let greeted = greeted.await.unwrap_or_else(|_| Err("it does not answer".into()));
        greeted.map_err(|why| Broken::NotReached(address, why))
    }
}

impl Channel {
    pub(super) fn new(stream: TcpStream, sealer: Sealer, opener: Opener) -> Self {
        Self { stream, sealer, opener, input: BytesMut::new() }
    }

    /// Writes one message, at most [`limits::CHANNEL_MESSAGE_BYTES`] long.
    ///
    /// # Errors
    /// [`Broken`]; the channel is of no use then.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), Broken> {
        let length = u32::try_from(message.len()).ok().filter(|_| message.len() <= limits::CHANNEL_MESSAGE_BYTES);
        let length = length.ok_or_else(|| Broken::Noise(format!("{} bytes are too many", message.len())))?;
        let mut frame = BytesMut::with_capacity(PREFIX + message.len());
        frame.put_u32(length);
        frame.put_slice(message);
        let sealed = self.sealer.seal(frame).map_err(|error| Broken::Cut(error.to_string()))?;
        self.stream.write_all(&sealed).await.map_err(|error| Broken::Cut(error.to_string()))
    }

    /// Waits for the next message, for as long as `patience` without a byte of it.
    ///
    /// # Errors
    /// [`Broken`]; the channel is of no use then.
    pub async fn receive(&mut self, patience: Duration) -> Result<Bytes, Broken> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(message);
            }
            let inbox = self.opener.inbox(&mut self.input);
            match timeout(patience, self.stream.read_buf(inbox)).await {
                Err(_) => return Err(Broken::Silent(patience)),
                Ok(Ok(0)) => return Err(Broken::Cut("closed by the other end".into())),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(Broken::Cut(error.to_string())),
            }
            self.opener.open(&mut self.input).map_err(|error| Broken::Cut(error.to_string()))?;
        }
    }

    fn whole(&mut self) -> Result<Option<Bytes>, Broken> {
        let Some((prefix, rest)) = self.input.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > limits::CHANNEL_MESSAGE_BYTES {
            return Err(Broken::Noise(format!("{length} bytes are too many")));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.input.advance(PREFIX);
        Ok(Some(self.input.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::settings::Secret;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn seal() -> LinkSeal {
        LinkSeal::new("tasuki", Some(&Secret::parse(&"1".repeat(64)).unwrap()))
    }

    fn dialling() -> Dialling {
        Dialling { cluster: "tasuki".into(), me: NodeId(1), route: "r1".parse().unwrap(), seal: seal() }
    }

    /// Both ends of a sealed channel.
    async fn pair() -> (Channel, Channel) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accept = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (hello, sealer, opener) =
                greeting::answer(&mut stream, &seal(), "tasuki", NodeId(2)).await.map_err(|e| e.to_string()).unwrap();
            assert_eq!(hello.purpose(), Purpose::Deployment);
            Channel::new(stream, sealer, opener)
        };
        let dialling = dialling();
        let (dialled, accepted) = tokio::join!(dialling.dial(NodeId(2), address), accept);
        (dialled.unwrap(), accepted)
    }

    #[actix_web::test]
    async fn messages_arrive_whole_and_in_order() {
        let (mut here, mut there) = pair().await;
        let large = vec![7; limits::CHANNEL_MESSAGE_BYTES];
        let talk = async {
            here.send(b"one").await.unwrap();
            here.send(b"").await.unwrap();
            here.send(&large).await.unwrap();
            assert_eq!(here.receive(PATIENCE).await.unwrap(), "two");
        };
        let hear = async {
            assert_eq!(there.receive(PATIENCE).await.unwrap(), "one");
            assert_eq!(there.receive(PATIENCE).await.unwrap(), "");
            assert_eq!(there.receive(PATIENCE).await.unwrap(), large);
            there.send(b"two").await.unwrap();
        };
        tokio::join!(talk, hear);
    }

    #[actix_web::test]
    async fn what_is_too_long_is_neither_sent_nor_read() {
        let (mut here, mut there) = pair().await;
        let error = here.send(&vec![0; limits::CHANNEL_MESSAGE_BYTES + 1]).await.unwrap_err();
        assert!(matches!(error, Broken::Noise(_)), "{error}");
        let sealed = here.sealer.seal(BytesMut::from(&[0xFF; PREFIX][..])).unwrap();
        here.stream.write_all(&sealed).await.unwrap();
        assert!(matches!(there.receive(PATIENCE).await, Err(Broken::Noise(_))));
    }

    #[actix_web::test]
    async fn silence_and_a_closed_end_are_told_apart() {
        let (here, mut there) = pair().await;
        let silent = there.receive(Duration::from_millis(1)).await;
        assert!(matches!(silent, Err(Broken::Silent(_))));
        drop(here);
        assert!(matches!(there.receive(PATIENCE).await, Err(Broken::Cut(_))));
    }

    #[actix_web::test]
    async fn nobody_at_the_port_is_said_with_the_address() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = dialling().dial(NodeId(2), free).await.err().expect("nobody listens").to_string();
        assert!(error.contains(&free.to_string()), "{error}");
    }
}
