//! Nobody is left: the sorry page, and the way back.

use hyper::StatusCode;

use crate::{
    story,
    support::{
        browser::Browser,
        cluster::{Place, settled},
        wait_for,
    },
};

#[test]
fn when_both_nodes_are_stopped_the_sorry_page_answers_and_afterwards_the_counter_again() {
    story(async {
        let door = Place::new().set("CLUSTER__NAME", "sorry").set("BALANCER__RETRY", "200ms");
        let ports = [free_port(), free_port()];
        let peers: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let door = door.set("CLUSTER__PEERS", &peers.join(","));
        let _door = door.start(&["balancer"]);
        let listen = wait_for("the balancer listens", || {
            std::future::ready(tasuki::settings::Listening::read(&door.path("run")).ok())
        })
        .await
        .listen;
        let mut browser = Browser::new(listen);
        assert_eq!(browser.get("/").await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE, "no node yet");
        let place = Place::new().set("CLUSTER__NAME", "sorry").set("CLUSTER__PEERS", &peers.join(","));
        let node = |route: &str, port: u16| {
            place.clone().set("NODE__REPLICATION", &port.to_string()).start(&["node", "--route", route])
        };
        let nodes = [node("r1", ports[0]), node("r2", ports[1])];
        settled(listen, 2).await;
        assert_eq!(browser.count().await.unwrap().1, 1);
        let forgotten = browser.cookies["JSESSIONID"].clone();
        drop(nodes);
        let sorry = wait_for("the sorry page", || async {
            let answer = Browser::new(listen).get("/").await.unwrap();
            (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
        })
        .await;
        assert!(sorry.header("retry-after").is_some());
        assert!(sorry.body.contains("ただいまメンテナンス中です"), "as in the seeds");
        let _nodes = [node("r1", ports[0]), node("r2", ports[1])];
        settled(listen, 2).await;
        let (_, count) = browser.count().await.unwrap();
        assert_eq!(count, 1, "nobody was left to remember; the old cookie is no error");
        assert_ne!(browser.cookies["JSESSIONID"][..32], forgotten[..32], "and no id to begin a session with");
    });
}

fn free_port() -> u16 {
    let (gossip, _links) = tasuki::membership::bind("127.0.0.1".parse().unwrap(), Some(0)).unwrap();
    gossip.local_addr().unwrap().port()
}
