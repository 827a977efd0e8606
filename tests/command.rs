//! The command as a user meets it: wrong use, exit codes, one clear line, and no process left behind.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);

/// The signals a process catches, as a mask in /proc; both end it before it has set them up.
const SIGTERM_CAUGHT: u64 = 1 << 14;

/// A working directory with an empty webapps folder.
struct Place(TempDir);

/// A process that is killed when the test ends, however it ends.
struct Running(Child);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(place.path().join("webapps/ROOT")).unwrap();
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// The command in this place, on ports that the system chooses, untouched by the caller's environment.
    fn tasuki(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tasuki"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TASUKI_")) {
            command.env_remove(name);
        }
        command.current_dir(self.path()).args(arguments).env("TASUKI__CLUSTER__DISCOVERY", "static");
        command.env("TASUKI__NODE__HTTP", "127.0.0.1:0").env("TASUKI__BALANCER__LISTEN", "127.0.0.1:0");
        // Any free port: clusters of tests that run beside each other would race for the first of 4000 to 4099.
        command.env("TASUKI__NODE__REPLICATION", "0").stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.tasuki(arguments).output().unwrap()
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.tasuki(arguments);
        Running(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Running {
    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn ended(&mut self) -> ExitStatus {
        eventually("the process ends", || self.0.try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The supervisor's children end with its pipe.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < DEADLINE, "{what} within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn status_line(pid: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
}

fn catches_sigterm(pid: i32) -> bool {
    let mask = status_line(pid, "SigCgt:").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    mask.is_some_and(|mask| mask & SIGTERM_CAUGHT != 0)
}

fn runs(pid: i32) -> bool {
    status_line(pid, "State:").is_some_and(|state| !state.starts_with('Z'))
}

fn children(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.filter(|pid| status_line(*pid, "PPid:").is_some_and(|ppid| ppid == parent.to_string())).collect()
}

/// The whole of standard error is one line; gives it back with the exit code.
fn one_line(output: &Output) -> (String, Option<i32>) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    (text.trim_end().to_owned(), output.status.code())
}

#[test]
fn an_unknown_command_or_option_is_wrong_use() {
    let place = Place::new();
    for (arguments, named) in [
        (&["strat"][..], "strat"),
        (&["status", "--jsno"], "--jsno"),
        (&["drain"], "ROUTE"),
        (&["--nodes", "0"], "--nodes"),
        (&["restart", "a.b"], "a route has 1 to 32"),
    ] {
        let output = place.output(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text.contains(named), "{named} is in {text}");
    }
}

#[test]
fn a_secret_is_made_once_shown_never_and_used_by_its_variable() {
    let place = Place::new();
    let made = place.output(&["secret"]);
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success() && said.starts_with("conf/secret: a new secret"), "{said}");
    let path = place.path().join("conf/secret");
    let secret = fs::read_to_string(&path).unwrap();
    assert!(secret.len() == 65 && !said.contains(secret.trim()), "{said}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let again = place.output(&["secret"]);
    assert_eq!(
        one_line(&again),
        (
            "tasuki: conf/secret: there is such a file already, and a secret is not written over; name another file"
                .into(),
            Some(1)
        )
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), secret);

    let check = |bind: &str| {
        let mut command = place.tasuki(&["check"]);
        command.env("TASUKI__CLUSTER__SECRET_FILE", "conf/secret").env("TASUKI__CLUSTER__BIND", bind).output().unwrap()
    };
    assert!(check("192.0.2.7").status.success());
    let (line, code) = one_line(&check("0.0.0.0"));
    assert!(line.contains("write the one by which they reach this machine") && code == Some(2), "{line}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let (line, code) = one_line(&check("192.0.2.7"));
    assert!(line.contains("run: chmod 600 conf/secret") && !line.contains(secret.trim()), "{line}");
    assert_eq!(code, Some(2));
}

#[test]
fn without_its_secret_no_member_starts() {
    let place = Place::new();
    for arguments in [&["node"][..], &["balancer"], &["up"], &["check"]] {
        let refused = |key: &str, value: &str| {
            let output = place.tasuki(arguments).env(format!("TASUKI__CLUSTER__{key}"), value).output().unwrap();
            let (line, code) = one_line(&output);
            assert_eq!(code, Some(2), "{arguments:?}: {line}");
            line
        };
        let missing = refused("SECRET_FILE", "nowhere");
        assert!(missing.contains("there is no such file; make one with \"tasuki secret nowhere\""), "{missing}");
        let open = refused("BIND", "192.0.2.7");
        assert!(open.contains("tasuki secret conf/secret"), "{open}");
    }
}

#[test]
fn help_teaches_examples_exit_codes_and_variables() {
    let output = Place::new().output(&["--help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for part in ["restart --rolling", "Exit codes: 0 good, 1 failed, 2 wrong use", "TASUKI__SECTION__KEY", "balancer"] {
        assert!(text.contains(part), "{part} is in {text}");
    }
}

#[test]
fn the_settings_file_is_read_from_the_working_directory_or_by_name() {
    let place = Place::new();
    assert_eq!(String::from_utf8(place.output(&["check"]).stdout).unwrap(), "built-in settings: good\n");
    place.file("conf/tasuki.toml", "[session]\ntimeout = \"1h\"\n").file("other.toml", "");
    assert_eq!(String::from_utf8(place.output(&["check"]).stdout).unwrap(), "conf/tasuki.toml: good\n");
    let other = place.output(&["check", "--config", "other.toml"]);
    assert_eq!(
        (String::from_utf8(other.stdout).unwrap().as_str(), other.status.code()),
        ("other.toml: good\n", Some(0))
    );
}

#[test]
fn bad_settings_are_one_line_and_code_2_for_every_command() {
    let place = Place::new();
    place.file("conf/tasuki.toml", "[session]\ntimout = \"1h\"\n");
    let unknown = "tasuki: conf/tasuki.toml: session.timout: unknown key; did you mean session.timeout?";
    for arguments in [
        &["check"][..],
        &["up"],
        &[],
        &["node"],
        &["balancer"],
        &["status"],
        &["drain", "r1"],
        &["restart", "--rolling"],
    ] {
        assert_eq!(one_line(&place.output(arguments)), (unknown.to_owned(), Some(2)), "{arguments:?}");
    }
    place.file("conf/tasuki.toml", "[session]\ntimeout = 30\n");
    let bare = "tasuki: conf/tasuki.toml: session.timeout = 30: a duration needs a unit; \
                write \"30s\" for seconds or \"30ms\", \"30m\"";
    assert_eq!(one_line(&place.output(&["check"])), (bare.to_owned(), Some(2)));
    place.file("conf/tasuki.toml", "[session\n");
    let (text, code) = one_line(&place.output(&["check"]));
    assert!(text.starts_with("tasuki: conf/tasuki.toml: line 1, column 9: "), "{text}");
    assert_eq!(code, Some(2));
}

#[test]
fn a_missing_file_or_folder_is_named() {
    let place = Place::new();
    let gone = "tasuki: gone.toml: there is no such file; check the path after --config";
    assert_eq!(one_line(&place.output(&["up", "--config", "gone.toml"])), (gone.to_owned(), Some(2)));
    fs::remove_dir_all(place.path().join("webapps")).unwrap();
    for arguments in [&["check"][..], &["up"], &["node"]] {
        let (text, code) = one_line(&place.output(arguments));
        assert!(text.starts_with("tasuki: node.webapps = \"webapps\": there is no folder "), "{text}");
        assert_eq!(code, Some(2), "{arguments:?}");
    }
}

#[test]
fn a_bad_variable_is_named() {
    let place = Place::new();
    let output = place.tasuki(&["check"]).env("TASUKI__NODE__HTPP", "127.0.0.1:1").output().unwrap();
    let unknown = "tasuki: TASUKI__NODE__HTPP: unknown variable; did you mean TASUKI__NODE__HTTP?";
    assert_eq!(one_line(&output), (unknown.to_owned(), Some(2)));
}

#[test]
fn a_port_in_use_is_one_line_and_code_1() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for (variable, key) in [("TASUKI__BALANCER__LISTEN", "balancer.listen"), ("TASUKI__NODE__HTTP", "node.http")] {
        let output = place.tasuki(&["up", "--nodes", "1"]).env(variable, &address).output().unwrap();
        let (text, code) = one_line(&output);
        let port = listener.local_addr().unwrap().port();
        assert!(text.starts_with(&format!("tasuki: {key}: port {port} on 127.0.0.1")), "{text}");
        assert!(text.contains("is in use") && text.ends_with(&format!("or set {variable}")), "{text}");
        assert_eq!(code, Some(1));
    }
}

#[test]
fn a_run_folder_that_is_none_is_one_line_and_code_1() {
    let place = Place::new();
    place.file("run", "a file");
    let mut balancer = place.tasuki(&["balancer"]);
    balancer.env("TASUKI__BALANCER__LISTEN", "127.0.0.1:0").env("RUST_LOG", "off");
    let (text, code) = one_line(&balancer.output().unwrap());
    assert!(text.contains("/run (node.run): ") && text.contains("TASUKI__NODE__RUN"), "{text}");
    assert_eq!(code, Some(1));
}

#[test]
fn a_log_that_nobody_reads_is_no_reason_to_die() {
    let place = Place::new();
    let mut balancer = place.tasuki(&["balancer"]);
    balancer.env("TASUKI__BALANCER__LISTEN", "127.0.0.1:0").stderr(Stdio::piped());
    let mut balancer = Running(balancer.spawn().unwrap());
    drop(balancer.0.stderr.take());
    eventually("the balancer listens", || place.path().join("run/balancer.json").exists().then_some(()));
    eventually("it catches SIGTERM", || catches_sigterm(balancer.pid()).then_some(()));
    signal(balancer.pid(), Signal::TERM);
    assert_eq!(balancer.ended().code(), Some(0));
}

#[test]
fn without_a_balancer_a_question_is_asked_back() {
    let place = Place::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for arguments in
        [&["status"][..], &["drain", "r1"], &["resume", "r1"], &["restart", "r1"], &["restart", "--rolling"]]
    {
        let output = place.tasuki(arguments).env("TASUKI__BALANCER__LISTEN", &free).output().unwrap();
        let (text, code) = one_line(&output);
        assert!(text.starts_with(&format!("tasuki: no balancer answers at {free}: is tasuki running?")), "{text}");
        assert_eq!(code, Some(1), "{arguments:?}");
    }
    let (text, code) = one_line(&place.output(&["status"]));
    assert!(text.contains("balancer.listen has port 0, and run/balancer.json cannot be read"), "{text}");
    assert_eq!(code, Some(1));
}

#[test]
fn a_supervised_node_ends_with_its_parent_and_a_free_one_does_not() {
    let place = Place::new();
    let mut supervised = place.start(&["node", "--supervised"]);
    let mut free = place.start(&["node"]);
    eventually("both run", || (catches_sigterm(supervised.pid()) && catches_sigterm(free.pid())).then_some(()));
    drop((supervised.0.stdin.take(), free.0.stdin.take()));
    assert!(supervised.ended().success());
    assert!(free.0.try_wait().unwrap().is_none(), "the end of standard input means nothing to it");
    signal(free.pid(), Signal::TERM);
    assert!(free.ended().success());
}

#[test]
fn a_signal_stops_everything_gracefully() {
    let place = Place::new();
    for stop in [Signal::TERM, Signal::INT] {
        let mut up = place.start(&["up", "--nodes", "2"]);
        let all = started(&up, 3);
        signal(up.pid(), stop);
        assert_eq!(up.ended().code(), Some(0));
        assert!(!all.iter().any(|pid| runs(*pid)), "no child is left");
    }
}

#[test]
fn a_killed_parent_leaves_no_orphan() {
    let place = Place::new();
    let mut up = place.start(&["--nodes", "2"]);
    let all = started(&up, 3);
    signal(up.pid(), Signal::KILL);
    up.ended();
    eventually("the children are gone", || (!all.iter().any(|pid| runs(*pid))).then_some(()));
}

#[test]
fn a_killed_child_is_replaced() {
    let place = Place::new();
    let up = place.start(&["up", "--nodes", "1"]);
    let first = started(&up, 2);
    signal(first[0], Signal::KILL);
    let second = eventually("another child", || {
        Some(children(up.pid())).filter(|now| now.len() == 2 && now.iter().all(|pid| *pid != first[0] && runs(*pid)))
    });
    assert!(second.contains(&first[1]), "the other one stays");
}

/// The children, once there are `count` of them that are ready for signals.
fn started(up: &Running, count: usize) -> Vec<i32> {
    eventually("the children start", || {
        Some(children(up.pid())).filter(|all| all.len() == count && all.iter().all(|pid| catches_sigterm(*pid)))
    })
}
