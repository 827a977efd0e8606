//! The proxies, each with one thread for requests, and what the operating system says of their processes.

use std::{
    ffi::OsString,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A proxy that runs, ended with this value.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Child,
    folder: TempDir,
}

pub(crate) fn start_all(upstream: SocketAddr) -> Vec<Proxy> {
    let other = std::env::var_os("OTHER").map(|program| tasuki("other", program, upstream));
    let proxies = [Some(tasuki("tasuki", env!("CARGO_BIN_EXE_tasuki").into(), upstream)), other];
    proxies.into_iter().chain([haproxy(upstream), nginx(upstream)]).flatten().collect()
}

fn tasuki(name: &'static str, program: OsString, upstream: SocketAddr) -> Proxy {
    let settings = format!("[[balancer.member]]\nurl = \"http://{upstream}\"\nroute = \"r1\"\n");
    Proxy::start(name, settings, |file, address| {
        let mut command = Command::new(program);
        let inherited = std::env::vars_os().map(|(name, _)| name);
        for name in inherited.filter(|name| name.to_string_lossy().starts_with("TASUKI_")) {
            command.env_remove(name);
        }
        command
            .args(["balancer", "--config"])
            .arg(file)
            .env("TASUKI__BALANCER__LISTEN", address.to_string())
            .env("TASUKI__BALANCER__WORKERS", "1")
            .env("TASUKI__CLUSTER__DISCOVERY", "static");
        command
    })
}

fn haproxy(upstream: SocketAddr) -> Option<Proxy> {
    let program = installed("haproxy")?;
    let address = free();
    let settings = format!(
        "global\n  nbthread 1\n  maxconn 12000\n  no strict-limits\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n  option forwardfor\n  \
         retries 3\n  option redispatch 1\n\
         listen door\n  bind {address}\n  http-request set-var(txn.route) req.cook(JSESSIONID),field(2,.)\n  \
         use-server r1 if {{ var(txn.route) -m str r1 }}\n  server r1 {upstream} check inter 2s\n"
    );
    Some(Proxy::start_at(address, "haproxy", settings, |file, _| {
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(file);
        command
    }))
}

fn nginx(upstream: SocketAddr) -> Option<Proxy> {
    let program = installed("nginx")?;
    let address = free();
    let settings = format!(
        "daemon off;\nworker_processes 1;\npid pid;\nerror_log error.log;\n\
         events {{ worker_connections 12000; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout 60s;\n  \
         client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  \
         scgi_temp_path scgi;\n  \
         map $cookie_jsessionid $member {{ ~\\.r1$ r1; default r1; }}\n  \
         upstream r1 {{ server {upstream}; keepalive 300; keepalive_requests 1000000000; }}\n  \
         server {{\n    listen {address};\n    location / {{\n      proxy_pass http://$member;\n      \
         proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      proxy_set_header Host $http_host;\n      \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n    }}\n  }}\n}}\n"
    );
    Some(Proxy::start_at(address, "nginx", settings, |file, _| {
        let folder = file.parent().unwrap();
        let mut command = Command::new(program);
        command.arg("-p").arg(folder).arg("-c").arg(file).arg("-e").arg(folder.join("error.log"));
        command
    }))
}

pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        println!("{program} is not installed: left out");
    }
    found
}

pub(crate) fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Proxy {
    fn start(name: &'static str, settings: String, command: impl FnOnce(&Path, SocketAddr) -> Command) -> Self {
        Self::start_at(free(), name, settings, command)
    }

    pub(crate) fn start_at(
        address: SocketAddr,
        name: &'static str,
        settings: String,
        command: impl FnOnce(&Path, SocketAddr) -> Command,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("door.conf");
        fs::write(&file, settings).unwrap();
        let log = fs::File::create(folder.path().join("said")).unwrap();
        let mut command = command(&file, address);
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut proxy = Self { name, address, child: command.spawn().unwrap(), folder };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = proxy.child.try_wait().unwrap();
            let is_late = begun.elapsed() > Duration::from_secs(10);
            assert!(ended.is_none() && !is_late, "{name} does not start: {}", proxy.said());
            thread::sleep(Duration::from_millis(20));
        }
        proxy
    }

    fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("said") + &read("error.log")
    }

    /// The process and its workers.
    fn processes(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([pid]).collect()
    }

    /// Time on a processor until now, of all threads (proc(5), schedstat). Not the user and system time of stat, which is
    /// what ran at each tick of the clock: threads that run for some microseconds at a time are there by chance.
    pub(crate) fn cpu(&self) -> Duration {
        let nanos = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            stat.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0)
        };
        let tasks = self.processes().into_iter().map(|pid| fs::read_dir(format!("/proc/{pid}/task")));
        let tasks = tasks.flat_map(|tasks| tasks.expect("the proxy runs").flatten());
        Duration::from_nanos(tasks.map(nanos).sum())
    }

    /// Private and shared memory in use, in bytes: what is shared counts in part (proc(5), smaps_rollup, Pss).
    pub(crate) fn memory(&self) -> u64 {
        let used = |pid: u32| {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the proxy runs");
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
        };
        self.processes().into_iter().map(used).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), Signal::TERM);
        let _ = self.child.wait();
    }
}
