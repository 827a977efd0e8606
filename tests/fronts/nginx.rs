//! nginx, the free version, which has no `sticky route`: the route behind the dot of the session cookie chooses among
//! upstreams whose backup is the other node.

use std::{net::SocketAddr, path::Path, process::Command};

use crate::{
    house::{Front, House, a_session_outlives_its_node, installed},
    story,
};

fn settings(folder: &Path, listen: SocketAddr, nodes: [SocketAddr; 2]) -> String {
    let (folder, [r1, r2]) = (folder.display(), nodes);
    format!(
        r#"
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $cookie_jsessionid $members {{
        ~\.r1$ r1;
        ~\.r2$ r2;
        default both;
    }}
    upstream r1 {{
        server {r1} max_fails=1 fail_timeout=1s;
        server {r2} backup;
        keepalive 16;
    }}
    upstream r2 {{
        server {r2} max_fails=1 fail_timeout=1s;
        server {r1} backup;
        keepalive 16;
    }}
    upstream both {{
        server {r1} max_fails=1 fail_timeout=1s;
        server {r2} max_fails=1 fail_timeout=1s;
        keepalive 16;
    }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://$members;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_connect_timeout 2s;
            proxy_next_upstream error timeout;
        }}
    }}
}}
"#
    )
}

#[test]
fn behind_nginx_a_session_outlives_its_node() {
    let Some(program) = installed("nginx", "nginx-light") else { return };
    story(async {
        let mut house = House::open().await;
        let nodes = [house.nodes[0].http, house.nodes[1].http];
        let front = Front::start(
            "error.log",
            |folder: &Path, listen| settings(folder, listen, nodes),
            |file| {
                let folder = file.parent().unwrap();
                let mut command = Command::new(program);
                command.arg("-p").arg(folder).arg("-c").arg(file).arg("-e").arg(folder.join("error.log"));
                command
            },
        )
        .await;
        a_session_outlives_its_node(&mut house, &front).await;
    });
}
