//! What a static file costs a node, beside nginx with one worker and the same files.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    micros, middle, number,
    proxies::{Proxy, free, installed},
    sorted,
};

/// What is asked for, and with which `Accept-Encoding`.
const FILES: [(&str, &str, &str); 5] = [
    ("1 KiB", "/small.txt", "identity"),
    ("20 KiB css", "/style.css", "identity"),
    ("20 KiB css, gzip", "/style.css", "gzip"),
    ("20 KiB css, gzip beforehand", "/packed.css", "gzip"),
    ("1 MiB", "/large.bin", "identity"),
];

pub(crate) fn measure() {
    let folder = files();
    let servers: Vec<Proxy> = [tasuki(&folder), nginx(&folder)].into_iter().flatten().collect();
    let (rounds, span) = (number("ROUNDS", 7), Duration::from_secs(number("SECONDS", 3) as u64));
    let connections = number("CONNECTIONS", 32);
    println!(
        "CPU of the server for each file, in microseconds: {rounds} rounds of {span:?}, {connections} connections"
    );
    let mut costs = vec![vec![Vec::new(); servers.len()]; FILES.len()];
    for round in 0..rounds {
        for (row, (_, path, coding)) in FILES.iter().enumerate() {
            let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: {coding}\r\n\r\n");
            for turn in 0..servers.len() {
                let column = (turn + round) % servers.len();
                costs[row][column].push(micros(&servers[column], connections, request.as_bytes(), span));
            }
        }
    }
    print!("{:>28}", "");
    servers.iter().for_each(|server| print!("{:>24}", server.name));
    println!();
    for ((name, ..), row) in FILES.iter().zip(&costs) {
        print!("{name:>28}");
        for rounds in row {
            let rounds = sorted(rounds);
            print!("{:>24}", format!("{:.1} ({:.1}-{:.1})", middle(&rounds), rounds[0], rounds[rounds.len() - 1]));
        }
        println!();
    }
}

/// A webapp of static files. The style sheet is our own, repeated: as compressible as style sheets are.
fn files() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("ROOT");
    fs::create_dir(&root).unwrap();
    let css: String = include_str!("../../webapps/request/style.css").chars().cycle().take(20 * 1024).collect();
    fs::write(root.join("small.txt"), &css[..1024]).unwrap();
    fs::write(root.join("style.css"), &css).unwrap();
    fs::write(root.join("packed.css"), &css).unwrap();
    let packed = Command::new("gzip").args(["-9", "-k"]).arg(root.join("packed.css")).status().unwrap();
    assert!(packed.success(), "gzip");
    let large: Vec<u8> = (0..1024 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(root.join("large.bin"), large).unwrap();
    folder
}

fn tasuki(webapps: &TempDir) -> Option<Proxy> {
    let address = free();
    let node = Proxy::start_at(address, "tasuki", String::new(), |file, address| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tasuki"));
        let inherited = std::env::vars_os().map(|(name, _)| name);
        for name in inherited.filter(|name| name.to_string_lossy().starts_with("TASUKI_")) {
            command.env_remove(name);
        }
        command
            .args(["node", "--route", "r1", "--config"])
            .arg(file)
            .env("TASUKI__NODE__HTTP", address.to_string())
            .env("TASUKI__NODE__REPLICATION", "0")
            .env("TASUKI__NODE__WORKERS", "1")
            .env("TASUKI__NODE__WEBAPPS", webapps.path())
            .env("TASUKI__CLUSTER__DISCOVERY", "static");
        command
    });
    wait_until_ready(address);
    Some(node)
}

/// A node answers for files when it knows that it is alone.
fn wait_until_ready(address: SocketAddr) {
    let begun = Instant::now();
    loop {
        let mut said = String::new();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_string(&mut said).unwrap();
        if said.starts_with("HTTP/1.1 200 ") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "the node is not ready: {said}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn nginx(webapps: &TempDir) -> Option<Proxy> {
    let program = installed("nginx")?;
    let (address, root) = (free(), webapps.path().join("ROOT"));
    // What a worker that runs as another user needs.
    open_to_all(webapps.path());
    let settings = format!(
        "daemon off;\nworker_processes 1;\nuser root;\npid pid;\nerror_log error.log;\n\
         events {{ worker_connections 1200; }}\n\
         http {{\n  types {{ text/css css; text/plain txt; application/octet-stream bin; }}\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  \
         keepalive_requests 1000000000;\n  keepalive_timeout 60s;\n  etag on;\n  gzip on;\n  gzip_static on;\n  \
         gzip_types text/css;\n  gzip_http_version 1.1;\n  open_file_cache max=1000;\n  \
         client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  \
         scgi_temp_path scgi;\n  server {{\n    listen {address};\n    root {};\n  }}\n}}\n",
        root.display()
    );
    Some(Proxy::start_at(address, "nginx", settings, |file, _| {
        let folder = file.parent().unwrap();
        let mut command = Command::new(program);
        command.arg("-p").arg(folder).arg("-c").arg(file).arg("-e").arg(folder.join("error.log"));
        command
    }))
}

fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}
