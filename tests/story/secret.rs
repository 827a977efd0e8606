//! A cluster with a secret: who knows it joins, and nobody else.

use std::{
    fs,
    future::ready,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
};

use tasuki::settings::Listening;

use crate::{
    story,
    support::{
        cluster::{Cluster, Place, settled, status},
        load::Load,
        skipped, wait_for,
    },
};

/// A place of its own for one member, with a new secret.
fn with_new_secret(name: &str) -> (Place, String) {
    let place = Place::new().set("CLUSTER__NAME", name).set("CLUSTER__SECRET_FILE", "secret");
    let made = place.tasuki(&["secret"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let secret = fs::read_to_string(place.path("secret")).unwrap();
    (place, secret)
}

/// Another place with the same secret: the file is copied with its mode, as `scp -p` does.
fn with_the_secret_of(other: &Place, name: &str) -> Place {
    let place = Place::new().set("CLUSTER__NAME", name).set("CLUSTER__SECRET_FILE", "secret");
    fs::copy(other.path("secret"), place.path("secret")).unwrap();
    place
}

#[test]
fn who_has_another_secret_or_none_never_joins_and_disturbs_nobody() {
    const NAME: &str = "sealed";
    story(async {
        let (r1, secret) = with_new_secret(NAME);
        let (r2, door) = (with_the_secret_of(&r1, NAME), with_the_secret_of(&r1, NAME));
        let ((r3, other_secret), r4) = (with_new_secret(NAME), Place::new().set("CLUSTER__NAME", NAME));
        let _first = r1.start(&["node", "--route", "r1"]);
        let gossip = wait_for("r1 has a port", || ready(replication_port(&r1.log()))).await;
        let knows_r1 = |place: &Place| place.clone().set("CLUSTER__PEERS", &gossip);
        let _others = [knows_r1(&r2).start(&["node", "--route", "r2"]), knows_r1(&door).start(&["balancer"])];
        let listening = wait_for("the balancer listens", || ready(Listening::read(&door.path("run")).ok())).await;
        settled(listening.listen, 2).await;

        let load = Load::start(listening.listen, 8);
        load.progress(100).await;
        let _strangers =
            [knows_r1(&r3).start(&["node", "--route", "r3"]), knows_r1(&r4).start(&["node", "--route", "r4"])];
        let says = |place: &Place, text: &str| ready(place.log().contains(text).then_some(()));
        wait_for("r1 says that it drops something", || says(&r1, "not sealed with this cluster's secret")).await;
        for stranger in [&r3, &r4] {
            wait_for("a stranger serves alone", || says(stranger, "node ready")).await;
        }
        noise(&gossip);
        wait_for("r1 says where noise comes from", || {
            says(&r1, "links of strangers refused: 1; the last one: from 127.0.0.9:")
        })
        .await;
        load.progress(1_000).await;
        load.finish().await.assert_whole();

        let report = status(listening.listen).await.unwrap();
        let routes: Vec<_> = report.nodes.iter().map(|node| node.route.to_string()).collect();
        assert_eq!(routes, ["r1", "r2"]);
        assert!(report.nodes[0].strangers.datagrams > 0 && report.nodes[0].strangers.links > 0, "{report:?}");
        let (code, told) =
            knows_r1(&door).tasuki(&["status"]).output().map(|said| (said.status.code(), said.stdout)).unwrap();
        let told = String::from_utf8_lossy(&told);
        assert!(code == Some(0) && told.contains("r1 has turned strangers away"), "{told}");
        assert!(report.nodes.iter().all(|node| node.peers.len() == 1 && node.peers[0].in_sync), "{report:?}");
        for (place, stranger) in [(&r1, "found r3"), (&r1, "found r4"), (&r3, "found"), (&r4, "found")] {
            assert!(!place.log().contains(stranger), "{}", place.log());
        }
        let lines = r1.log().matches("not sealed with this cluster's secret").count();
        assert!(lines <= 6, "a line every ten seconds and one for links, not {lines}");
        let logs = [&r1, &r2, &r3, &r4, &door].map(Place::log).concat();
        assert!(!logs.contains(secret.trim()) && !logs.contains(other_secret.trim()), "a secret is never shown");
    });
}

#[test]
fn with_a_secret_the_cluster_lives_on_an_address_that_other_machines_reach() {
    let Some(address) = outer_address() else {
        return skipped("this machine has no address but loopback");
    };
    story(async {
        let (place, _) = with_new_secret("outer");
        let cluster = Cluster::up_in(place.set("CLUSTER__BIND", &address.to_string()), 2).await;
        let mut browser = cluster.browser();
        let (owner, number) = browser.count().await.unwrap();
        assert_eq!(number, 1);
        let killed = cluster.kill(&owner).await;
        let (other, number) = browser.count().await.unwrap();
        assert!(other != owner && number == 2, "{other}: {number}");
        cluster.back(&owner, killed, 2).await;
        assert!(cluster.place().log().contains(&format!("replication={address}:")), "{}", cluster.place().log());
    });
}

/// The address that this machine would send from to another one; nothing is sent.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// A link from somebody who is no member.
fn noise(to: &str) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 9], 0)).into()).unwrap();
    socket.connect(&to.parse::<SocketAddr>().unwrap().into()).unwrap();
    TcpStream::from(socket).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
}

/// From the log line of a starting node.
fn replication_port(log: &str) -> Option<String> {
    let at = log.find("replication")?;
    let start = log[at..].find("127.0.0.1:")? + at;
    let end = log[start..].find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')? + start;
    Some(log[start..end].to_owned())
}
