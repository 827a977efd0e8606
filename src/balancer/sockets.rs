//! Where users connect: a socket for plain HTTP, and one for TLS if the settings want it. Both outlive the process that
//! accepts on them: the next one takes them over, so that no connection is refused in between.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Socket, Type};

use crate::{limits, settings};

/// Sockets that listen.
#[derive(Debug)]
pub struct Sockets {
    /// `balancer.listen`
    pub plain: TcpListener,
    /// `balancer.tls.listen`
    pub tls: Option<TcpListener>,
}

impl Sockets {
    /// Listens where the settings say.
    ///
    /// # Errors
    /// An address cannot be bound; the text names it and its key.
    pub fn bind(settings: &settings::Balancer) -> io::Result<Self> {
        Self { plain: listen(settings.listen, "balancer.listen")?, tls: None }.completed(settings)
    }

    /// Adds the socket for TLS, if one is wanted and was not handed over; leaves it out, if none is wanted any more.
    ///
    /// # Errors
    /// As [`Sockets::bind`].
    pub fn completed(self, settings: &settings::Balancer) -> io::Result<Self> {
        let Self { plain, tls } = self;
        let tls = match &settings.tls {
            None => None,
            Some(wanted) => Some(tls.map_or_else(|| listen(wanted.listen, "balancer.tls.listen"), Ok)?),
        };
        Ok(Self { plain, tls })
    }

    /// The same sockets once more, for another process.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { plain: self.plain.try_clone()?, tls: self.tls.as_ref().map(TcpListener::try_clone).transpose()? })
    }

    /// All of them, the plain one first.
    pub fn all(&self) -> impl Iterator<Item = &TcpListener> {
        [&self.plain].into_iter().chain(&self.tls)
    }
}

fn listen(address: SocketAddr, key: &str) -> io::Result<TcpListener> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(limits::ACCEPT_BACKLOG as i32)?;
        Ok(TcpListener::from(socket))
    };
    let named = |error: io::Error| {
        let what = format!("cannot listen on {address} ({key}, or {})", settings::variable_of(key));
        io::Error::new(error.kind(), format!("{what}: {error}"))
    };
    bound().map_err(named)
}
