//! The multicast group: a socket that hears beacons, and the options of the socket that sends them.
//!
//! Beacons leave through the membership socket itself, so their source is the address that answers are sent to.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Joins the group on the interface with the address `interface`, and makes `sender` send to it from there.
///
/// # Errors
/// The interface has no IPv4 address or does not do multicast, or another program holds the port for itself.
pub(super) fn open(group: SocketAddrV4, interface: IpAddr, sender: &UdpSocket) -> io::Result<tokio::net::UdpSocket> {
    let IpAddr::V4(interface) = interface else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "multicast discovery is for IPv4 only"));
    };
    let socket = listen(group, interface)?;
    prepare(sender, interface)?;
    tokio::net::UdpSocket::from_std(socket)
}

fn listen(group: SocketAddrV4, interface: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Every member of this machine listens on the same port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Or Linux delivers what comes in by any interface on which another process has joined the group.
    socket.set_multicast_all_v4(false)?;
    // Bound to the group, not to every address: only the group's datagrams are wanted.
    socket.bind(&group.into())?;
    socket.join_multicast_v4(group.ip(), &interface)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// TTL 1 keeps beacons in the local network; the loop brings them to the other members of this machine.
fn prepare(sender: &UdpSocket, interface: Ipv4Addr) -> io::Result<()> {
    let sender = SockRef::from(sender);
    sender.set_multicast_if_v4(&interface)?;
    sender.set_multicast_ttl_v4(1)?;
    sender.set_multicast_loop_v4(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_heard_on_the_joined_interface_only() {
        let group = SocketAddrV4::new(Ipv4Addr::new(228, 0, 0, 4), 0);
        let socket = listen(group, Ipv4Addr::LOCALHOST).unwrap();
        assert!(!SockRef::from(&socket).multicast_all_v4().unwrap());
    }
}
