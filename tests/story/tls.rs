//! The whole of it over TLS: `tasuki up` with a certificate, a session cookie that is secure, and the other node.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tasuki::settings::Listening;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    story,
    support::{
        cluster::{Place, settled},
        wait_for,
    },
};

#[test]
fn a_session_over_tls_has_a_secure_cookie_and_is_found_by_the_other_node() {
    story(async {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = Place::new()
            .set("BALANCER__TLS__LISTEN", &format!("127.0.0.1:{port}"))
            .set("BALANCER__TLS__CERTIFICATE", "cert.pem")
            .set("BALANCER__TLS__KEY", "key.pem");
        fs::write(place.path("cert.pem"), made.cert.pem()).unwrap();
        fs::write(place.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(place.path("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        let _up = place.start(&["up"]);
        let listening = || std::future::ready(Listening::read(&place.path("run")).ok());
        settled(wait_for("the balancer listens", listening).await.listen, 2).await;

        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let connector = TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()));
        let count = async |cookie: &str| {
            let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap();
            let head = format!("GET /?plain HTTP/1.1\r\nhost: localhost\r\n{cookie}connection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let first = count("").await;
        let cookie = first.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect(&first);
        assert!(cookie.contains("; Secure"), "{cookie}");
        let session = cookie.split(';').next().unwrap();
        let (id, route) = session.rsplit_once('.').unwrap();
        let other = if route == "r1" { "r2" } else { "r1" };
        let second = count(&format!("cookie: {id}.{other}\r\n")).await;
        assert!(first.trim_end().ends_with("\n1"), "{first}");
        assert!(second.trim_end().ends_with("\n2"), "{second}");
    });
}
