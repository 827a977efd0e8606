//! Where users connect: a socket for plain HTTP, and one for TLS and one for the manager if the settings want them. All outlive
//! the process that accepts on them: the next one takes them over, so that no connection is refused in between.

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
    /// `balancer.manager.listen`
    pub manager: Option<TcpListener>,
}

impl Sockets {
    /// The key of the plain one.
    pub const PLAIN: &str = "balancer.listen";
    /// The key of the one for TLS.
    pub const TLS: &str = "balancer.tls.listen";
    /// The key of the manager's.
    pub const MANAGER: &str = "balancer.manager.listen";

    /// Listens where the settings say.
    ///
    /// # Errors
    /// An address cannot be bound; the text names it and its key.
    pub fn bind(settings: &settings::Balancer) -> io::Result<Self> {
        let plain = listen(settings.listen, Self::PLAIN)?;
        Self { plain, tls: None, manager: None }.completed(settings)
    }

    /// Adds the sockets for TLS and for the manager that are wanted and were not handed over; leaves out what is not wanted
    /// any more.
    ///
    /// # Errors
    /// As [`Sockets::bind`].
    pub fn completed(self, settings: &settings::Balancer) -> io::Result<Self> {
        let Self { plain, tls, manager } = self;
        let wanted = settings.tls.as_ref().map(|tls| tls.listen);
        let tls = wanted.map(|wanted| tls.map_or_else(|| listen(wanted, Self::TLS), Ok)).transpose()?;
        let wanted = settings.manager.listen;
        let manager = wanted.map(|wanted| manager.map_or_else(|| listen(wanted, Self::MANAGER), Ok)).transpose()?;
        Ok(Self { plain, tls, manager })
    }

    /// The same sockets once more, for another process.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn try_clone(&self) -> io::Result<Self> {
        let copy = |socket: &Option<TcpListener>| socket.as_ref().map(TcpListener::try_clone).transpose();
        Ok(Self { plain: self.plain.try_clone()?, tls: copy(&self.tls)?, manager: copy(&self.manager)? })
    }

    /// All of them with their keys, the plain one first.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &TcpListener)> {
        let all =
            [(Self::PLAIN, Some(&self.plain)), (Self::TLS, self.tls.as_ref()), (Self::MANAGER, self.manager.as_ref())];
        all.into_iter().filter_map(|(key, socket)| Some((key, socket?)))
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
