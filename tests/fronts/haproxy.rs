//! HAProxy: sticky by the route behind the dot of the session cookie.

use std::{net::SocketAddr, path::Path, process::Command};

use crate::{
    house::{Front, House, a_session_outlives_its_node, installed},
    story,
};

fn settings(listen: SocketAddr, nodes: [SocketAddr; 2]) -> String {
    let [r1, r2] = nodes;
    format!(
        r"
global
    nbthread 1
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response
    option forwardfor
listen tasuki
    bind {listen}
    balance roundrobin
    http-request set-var(txn.route) req.cook(JSESSIONID),field(2,.)
    http-request disable-l7-retry if ! METH_GET
    use-server r1 if {{ var(txn.route) -m str r1 }}
    use-server r2 if {{ var(txn.route) -m str r2 }}
    option httpchk GET /ready
    default-server check inter 500ms fall 2 rise 2 observe layer4 error-limit 1 on-error mark-down
    server r1 {r1}
    server r2 {r2}
"
    )
}

#[test]
fn behind_haproxy_a_session_outlives_its_node() {
    let Some(program) = installed("haproxy", "haproxy") else { return };
    story(async {
        let mut house = House::open().await;
        let nodes = [house.nodes[0].http, house.nodes[1].http];
        let front = Front::start(
            "said",
            |_: &Path, listen| settings(listen, nodes),
            |file| {
                let mut command = Command::new(program);
                command.arg("-db").arg("-f").arg(file);
                command
            },
        )
        .await;
        a_session_outlives_its_node(&mut house, &front).await;
    });
}
