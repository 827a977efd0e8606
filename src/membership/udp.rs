//! The sockets between members: one port for both UDP (membership) and TCP (replication), and probes.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use futures_util::{Stream, stream};

use super::datagram::DATAGRAM_BYTES;
use crate::limits;

/// Times the operating system is asked for a port that is free for UDP until it is free for TCP as well.
const ANY_PORT_ATTEMPTS: usize = 16;

/// A refusal comes back within a round trip.
const PROBE_WAIT: Duration = Duration::from_millis(500);

/// After an error of a socket nothing is read for this long, so that an error that stays does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    /// Nobody has bound the port.
    Refused,
    /// Somebody has, or nothing can be said.
    Unknown,
}

/// Binds one port of `ip` for UDP and TCP: the given one, or the first that is free for both of 4000 to 4099
/// (Tomcat's receiver), or else any. Port 0 is any. A balancer drops the listener. Both sockets do not block.
///
/// # Errors
/// The port is in use, the address is not one of this machine, and whatever else the operating system refuses; the
/// text names the address and the port.
pub fn bind(ip: IpAddr, port: Option<u16>) -> io::Result<(UdpSocket, TcpListener)> {
    match port {
        Some(0) => bind_any(ip),
        Some(port) => bind_both(SocketAddr::new(ip, port)),
        None => bind_first(ip),
    }
}

fn bind_first(ip: IpAddr) -> io::Result<(UdpSocket, TcpListener)> {
    for port in limits::REPLICATION_PORTS {
        match bind_both(SocketAddr::new(ip, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
    bind_any(ip)
}

fn bind_any(ip: IpAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut result = bind_both(SocketAddr::new(ip, 0));
    for _ in 1..ANY_PORT_ATTEMPTS {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => result = bind_both(SocketAddr::new(ip, 0)),
            _ => break,
        }
    }
    result
}

fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let bound = UdpSocket::bind(address).and_then(|udp| {
        let tcp = TcpListener::bind(udp.local_addr()?)?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok((udp, tcp))
    });
    bound.map_err(|error| {
        let text = format!("cannot bind {address} for membership (UDP) and replication (TCP): {error}");
        io::Error::new(error.kind(), text)
    })
}

/// Every datagram that comes in, for ever. One that is too long is given in full length but for its end, and is
/// refused by its length.
pub(super) fn datagrams(socket: tokio::net::UdpSocket) -> impl Stream<Item = (SocketAddr, Vec<u8>)> {
    stream::unfold(socket, |socket| async move {
        let mut buffer = [0; DATAGRAM_BYTES + 1];
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((length, from)) => return Some(((from, buffer[..length].to_vec()), socket)),
                Err(error) => {
                    tracing::debug!(%error, "membership socket");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    })
}

/// Sends a datagram from a socket of its own that is connected to `to`: only such a socket is told of a refusal
/// (udp(7), ECONNREFUSED).
pub(super) async fn probe(from: IpAddr, to: SocketAddr, bytes: Vec<u8>) -> Probed {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Probed::Refused,
        _ => Probed::Unknown,
    };
    let exchange = async {
        let socket = tokio::net::UdpSocket::bind(SocketAddr::new(from, 0)).await?;
        socket.connect(to).await?;
        socket.send(&bytes).await?;
        socket.recv(&mut [0; 1]).await
    };
    match tokio::time::timeout(PROBE_WAIT, exchange).await {
        Ok(Err(error)) => refused(error),
        Ok(Ok(_)) | Err(_) => Probed::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn one_port_serves_udp_and_tcp() {
        let (udp, tcp) = bind(LOOPBACK, Some(0)).unwrap();
        assert_eq!(udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    }

    #[test]
    fn a_port_in_use_for_either_is_refused_by_its_name() {
        let (udp, tcp) = bind(LOOPBACK, Some(0)).unwrap();
        let port = udp.local_addr().unwrap().port();
        drop(udp);
        let error = bind(LOOPBACK, Some(port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
        drop(tcp);
        assert!(bind(LOOPBACK, Some(port)).is_ok());
    }

    #[test]
    fn without_a_port_two_members_of_one_machine_get_different_ones() {
        let ports = [(); 2].map(|()| bind(LOOPBACK, None).unwrap());
        assert_ne!(ports[0].0.local_addr().unwrap(), ports[1].0.local_addr().unwrap());
    }

    #[test]
    fn an_address_of_another_machine_is_refused_at_once() {
        let error = bind(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), None).unwrap_err();
        assert!(error.to_string().contains("192.0.2.1:4000"), "{error}");
    }

    #[actix::test]
    async fn a_probe_tells_an_absent_peer_from_a_present_one() {
        let (udp, tcp) = bind(LOOPBACK, Some(0)).unwrap();
        let address = udp.local_addr().unwrap();
        assert_eq!(probe(LOOPBACK, address, vec![0]).await, Probed::Unknown);
        drop((udp, tcp));
        assert_eq!(probe(LOOPBACK, address, vec![0]).await, Probed::Refused);
    }
}
