//! The ports of the children: chosen before any of them starts, and known to be free.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};

use super::Failure;
use crate::{
    limits,
    settings::{Settings, variable_of},
};

/// What `tasuki up` adds to the HTTP port for each further node: the distance between the two Tomcats of the seeds.
const HTTP_STEP: u16 = 10_000;

/// Tries for a port that is free for TCP and UDP alike, once 4000 to 4099 are used up.
const ANY_PORT_TRIES: usize = 100;

/// Where such a port is looked for: below those that Linux gives out by itself (ip_local_port_range, ip(7)). A port is let
/// go before its node takes it, and one of the others could be another process's by then.
const ANY_PORT: std::ops::Range<u16> = 20_000..32_768;

/// The addresses of the nodes, in the order r1, r2, ...
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) http: Vec<SocketAddr>,
    pub(super) replication: Vec<u16>,
}

/// Sockets that keep ports from being chosen twice while the others are still looked for.
#[derive(Default)]
struct Held {
    http: Vec<(SocketAddr, &'static str)>,
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

/// Chooses all ports and lets go of them; nothing is started yet.
pub(super) fn plan(settings: &Settings, nodes: usize) -> Result<Ports, Failure> {
    let mut held = Held::default();
    held.http("balancer.listen", settings.balancer.listen, "")?;
    if let Some(tls) = &settings.balancer.tls {
        held.http("balancer.tls.listen", tls.listen, "")?;
    }
    if let Some(manager) = settings.balancer.manager.listen {
        held.http("balancer.manager.listen", manager, "")?;
    }
    let http = http_addresses(settings.node.http, nodes)?;
    for (index, address) in http.iter().enumerate() {
        held.http("node.http", *address, &format!(" (node r{})", index + 1))?;
    }
    let bind = settings.cluster.bind;
    held.membership(SocketAddr::new(bind, settings.balancer.membership))?;
    let replication = match settings.node.replication {
        Some(0) => held.free_replication(bind, nodes, std::iter::empty())?,
        Some(first) => held.fixed_replication(bind, first, nodes)?,
        None => held.free_replication(bind, nodes, limits::REPLICATION_PORTS)?,
    };
    Ok(Ports { http, replication })
}

/// 18080, 28080, ..., 58080, then 18081, 28081: as many steps as fit, then again one higher. Port 0 stays 0.
fn http_addresses(first: SocketAddr, nodes: usize) -> Result<Vec<SocketAddr>, Failure> {
    let steps = usize::from((u16::MAX - first.port()) / HTTP_STEP) + 1;
    let port = |index: usize| {
        let add = (index % steps) * usize::from(HTTP_STEP) + index / steps;
        usize::from(first.port()).checked_add(add).and_then(|port| u16::try_from(port).ok())
    };
    let address = |index| match first.port() {
        0 => Some(first),
        _ => port(index).map(|port| SocketAddr::new(first.ip(), port)),
    };
    let addresses: Option<Vec<_>> = (0..nodes).map(address).collect();
    addresses.ok_or(Failure::NoPorts { key: "node.http", first: first.port(), nodes })
}

impl Held {
    fn http(&mut self, key: &'static str, address: SocketAddr, whose: &str) -> Result<(), Failure> {
        if address.port() == 0 {
            return Ok(());
        }
        if let Some((_, other)) = self.http.iter().find(|(taken, _)| *taken == address) {
            let problem =
                format!("port {}{whose} is the port of {other} too; give them different ones", address.port());
            return Err(Failure::Port { key, problem });
        }
        let listener = TcpListener::bind(address).map_err(|error| busy(key, address, whose, &error))?;
        self.tcp.push(listener);
        self.http.push((address, key));
        Ok(())
    }

    /// The balancer's own port, so that no node takes it.
    fn membership(&mut self, address: SocketAddr) -> Result<(), Failure> {
        if address.port() != 0 {
            self.pair(address).map_err(|error| busy("balancer.membership", address, "", &error))?;
        }
        Ok(())
    }

    fn fixed_replication(&mut self, bind: IpAddr, first: u16, nodes: usize) -> Result<Vec<u16>, Failure> {
        let last = usize::from(first) + nodes - 1;
        let last = u16::try_from(last).map_err(|_| Failure::NoPorts { key: "node.replication", first, nodes })?;
        for (index, port) in (first..=last).enumerate() {
            let whose = format!(" (node r{})", index + 1);
            let address = SocketAddr::new(bind, port);
            self.pair(address).map_err(|error| busy("node.replication", address, &whose, &error))?;
        }
        Ok((first..=last).collect())
    }

    /// The first free ports of those preferred, or else any.
    fn free_replication(
        &mut self,
        bind: IpAddr,
        nodes: usize,
        preferred: impl Iterator<Item = u16>,
    ) -> Result<Vec<u16>, Failure> {
        let preferred = preferred.map(|port| SocketAddr::new(bind, port));
        let any = std::iter::repeat_with(|| SocketAddr::new(bind, drawn_port())).take(ANY_PORT_TRIES * nodes);
        let ports = pick(preferred.chain(any), nodes, |address| self.pair(address).ok());
        let missing = || busy("node.replication", SocketAddr::new(bind, 0), "", &io::ErrorKind::AddrInUse.into());
        (ports.len() == nodes).then_some(ports).ok_or_else(missing)
    }

    /// Holds one port for TCP and UDP alike and says which; both let go when one is not free.
    fn pair(&mut self, address: SocketAddr) -> io::Result<u16> {
        let tcp = TcpListener::bind(address)?;
        let address = tcp.local_addr()?;
        let udp = UdpSocket::bind(address)?;
        self.tcp.push(tcp);
        self.udp.push(udp);
        Ok(address.port())
    }
}

fn drawn_port() -> u16 {
    let drawn = getrandom::u32().unwrap_or_default() % (ANY_PORT.len() as u32);
    ANY_PORT.start + drawn as u16
}

/// The first `count` of the candidates that `hold` could get.
fn pick(
    candidates: impl Iterator<Item = SocketAddr>,
    count: usize,
    hold: impl FnMut(SocketAddr) -> Option<u16>,
) -> Vec<u16> {
    candidates.filter_map(hold).take(count).collect()
}

fn busy(key: &'static str, address: SocketAddr, whose: &str, error: &io::Error) -> Failure {
    let (ip, port) = (address.ip(), address.port());
    let set = format!("set {}", variable_of(key));
    let problem = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {port} on {ip}{whose} is in use; stop what uses it (is tasuki running already?), or {set}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("port {port} on {ip}{whose} may not be used by this user; {set} to a port above 1023")
        }
        io::ErrorKind::AddrNotAvailable => format!("{ip}{whose} is not an address of this machine; {set}"),
        _ => format!("port {port} on {ip}{whose} cannot be used: {error}; {set}"),
    };
    Failure::Port { key, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(first: &str, nodes: usize) -> Result<Vec<u16>, Failure> {
        Ok(http_addresses(first.parse().unwrap(), nodes)?.iter().map(SocketAddr::port).collect())
    }

    /// Everything on free ports of this machine.
    fn free_settings() -> Settings {
        let mut settings = Settings::default();
        settings.balancer.listen.set_port(0);
        settings.node.http.set_port(0);
        settings
    }

    #[test]
    fn http_ports_are_ten_thousand_apart_and_nine_nodes_fit() {
        assert_eq!(http("127.0.0.1:18080", 2).unwrap(), [18080, 28080]);
        let nine = [18080, 28080, 38080, 48080, 58080, 18081, 28081, 38081, 48081];
        assert_eq!(http("127.0.0.1:18080", 9).unwrap(), nine);
        assert_eq!(http("127.0.0.1:0", 2).unwrap(), [0, 0]);
        assert_eq!(http("127.0.0.1:65535", 1).unwrap(), [65535]);
    }

    #[test]
    fn ports_above_the_range_are_refused() {
        let text = http("127.0.0.1:65535", 2).unwrap_err().to_string();
        assert_eq!(text, "node.http: from port 65535 on there are not enough ports for 2 nodes; start lower");
    }

    #[test]
    fn the_first_free_candidates_are_picked() {
        let candidates = (4000..4010).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let even = |address: SocketAddr| address.port().is_multiple_of(2).then_some(address.port());
        assert_eq!(pick(candidates, 3, even), [4000, 4002, 4004]);
    }

    #[test]
    fn replication_ports_are_different_and_free() {
        let ports = plan(&free_settings(), 3).unwrap().replication;
        assert_eq!(ports.len(), 3);
        assert!(ports[0] != ports[1] && ports[1] != ports[2]);
    }

    #[test]
    fn a_port_that_only_udp_uses_is_not_picked() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(Held::default().pair(udp.local_addr().unwrap()).is_err());
    }

    #[test]
    fn a_busy_port_is_named_with_its_key() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut settings = free_settings();
        settings.balancer.listen = listener.local_addr().unwrap();
        let port = settings.balancer.listen.port();
        assert_eq!(
            plan(&settings, 2).unwrap_err().to_string(),
            format!(
                "balancer.listen: port {port} on 127.0.0.1 is in use; stop what uses it (is tasuki running already?), \
                 or set TASUKI__BALANCER__LISTEN"
            )
        );
        settings.balancer.listen.set_port(0);
        settings.node.replication = Some(port);
        let text = plan(&settings, 1).unwrap_err().to_string();
        assert!(text.starts_with(&format!("node.replication: port {port} on 127.0.0.1 (node r1) is in use")), "{text}");
    }

    #[test]
    fn no_node_takes_the_port_of_the_balancers_membership() {
        let mut settings = free_settings();
        settings.balancer.membership = *limits::REPLICATION_PORTS.start();
        // Somebody on this machine may have it already: then it is named.
        match plan(&settings, 2) {
            Ok(ports) => assert!(!ports.replication.contains(&settings.balancer.membership)),
            Err(error) => assert!(error.to_string().starts_with("balancer.membership: port 4000"), "{error}"),
        }
    }

    #[test]
    fn two_settings_with_one_port_are_named_both() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut settings = free_settings();
        (settings.balancer.listen, settings.node.http) = (free, free);
        let port = free.port();
        assert_eq!(
            plan(&settings, 1).unwrap_err().to_string(),
            format!("node.http: port {port} (node r1) is the port of balancer.listen too; give them different ones")
        );
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let mut settings = free_settings();
        settings.balancer.listen = "192.0.2.1:12121".parse().unwrap();
        let text = plan(&settings, 1).unwrap_err().to_string();
        assert!(text.contains("192.0.2.1 is not an address of this machine"), "{text}");
    }
}
