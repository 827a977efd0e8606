//! The whole of it over TLS: `tasuki up` with a certificate, a session cookie that is secure, the other node, and a new
//! balancer in place of the old one.

use std::{cell::Cell, fs, io, net::SocketAddr, os::unix::fs::PermissionsExt, rc::Rc, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tasuki::settings::Listening;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
};
use tokio_rustls::TlsConnector;

use crate::{
    story,
    support::{
        cluster::{Cluster, Place, Process, settled},
        free_address, wait_for,
    },
};

/// A place with a certificate, where the port for TLS is, and a client that believes that certificate alone.
fn with_a_certificate() -> (Place, SocketAddr, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let address = free_address();
    let place = Place::new()
        .set("BALANCER__TLS__LISTEN", &address.to_string())
        .set("BALANCER__TLS__CERTIFICATE", "cert.pem")
        .set("BALANCER__TLS__KEY", "key.pem");
    fs::write(place.path("cert.pem"), made.cert.pem()).unwrap();
    fs::write(place.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(place.path("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    (place, address, TlsConnector::from(Arc::new(config)))
}

/// A connection, a handshake and one request.
async fn count(connector: &TlsConnector, address: SocketAddr, cookie: &str) -> io::Result<String> {
    let socket = TcpStream::connect(address).await?;
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), socket).await?;
    let head = format!("GET /?plain HTTP/1.1\r\nhost: localhost\r\n{cookie}connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[test]
fn a_session_over_tls_has_a_secure_cookie_and_is_found_by_the_other_node() {
    story(async {
        let (place, address, connector) = with_a_certificate();
        let _up = place.start(&["up"]);
        let listening = || std::future::ready(Listening::read(&place.path("run")).ok());
        settled(wait_for("the balancer listens", listening).await.listen, 2).await;

        let first = count(&connector, address, "").await.unwrap();
        let cookie = first.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect(&first);
        assert!(cookie.contains("; Secure"), "{cookie}");
        let session = cookie.split(';').next().unwrap();
        let (id, route) = session.rsplit_once('.').unwrap();
        let other = if route == "r1" { "r2" } else { "r1" };
        let second = count(&connector, address, &format!("cookie: {id}.{other}\r\n")).await.unwrap();
        assert!(first.trim_end().ends_with("\n1"), "{first}");
        assert!(second.trim_end().ends_with("\n2"), "{second}");
    });
}

#[test]
fn restarts_of_the_balancer_refuse_no_tls_connection() {
    story(async {
        let (place, address, connector) = with_a_certificate();
        let cluster = Cluster::up_in(place, 1).await;
        let (stop, answered) = (Rc::<Cell<bool>>::default(), Rc::<Cell<u64>>::default());
        let visitors: Vec<_> = (0..4)
            .map(|_| {
                let (connector, stop, answered) = (connector.clone(), stop.clone(), answered.clone());
                spawn_local(async move {
                    while !stop.get() {
                        let answer = count(&connector, address, "").await.expect("neither refused nor cut");
                        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                        answered.set(answered.get() + 1);
                    }
                })
            })
            .collect();
        for restarts in 0..4 {
            let goal = answered.get() + 20;
            wait_for("visitors are answered", || async { (answered.get() >= goal).then_some(()) }).await;
            if restarts < 3 {
                let (code, said) = cluster.command(&["restart", "balancer"]).await;
                assert_eq!(code, Some(0), "{said}");
            }
        }
        stop.set(true);
        for visitor in visitors {
            visitor.await.unwrap();
        }
    });
}

#[test]
fn a_balancer_that_was_started_by_hand_gives_its_port_for_tls_to_the_next_one() {
    story(async {
        let (place, address, connector) = with_a_certificate();
        let mut by_hand: Process = place.start(&["balancer"]);
        let run = place.path("run");
        let listen = wait_for("the balancer listens", || std::future::ready(Listening::read(&run).ok())).await.listen;
        let mut command = place.tasuki(&["restart", "balancer"]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(by_hand.ended().await, Some(0));
        let new = Listening::read(&run).unwrap();
        assert_eq!(new.listen, listen);
        let answer = count(&connector, address, "").await;
        crate::support::cluster::send(new.pid, rustix::process::Signal::KILL);
        // There is no node: that it is said over TLS is what is asked here.
        assert!(answer.unwrap().starts_with("HTTP/1.1 503"), "it is the new process that answers");
    });
}
