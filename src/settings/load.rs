//! Reads settings from where they stand: built-in defaults, then the file, then the environment, then the command line.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use config::{Config, ConfigError, Environment, FileFormat, Map, Source};

use super::{
    Settings,
    check::check,
    keys::{collect_written, key_problem, known_variables, variable_of},
    raw::{self, Raw},
    refusal::{Place, Refusal, Wrong},
};
use crate::limits;

/// The file that is read when none is named and it exists, relative to the working directory.
pub const DEFAULT_FILE: &str = "conf/tasuki.toml";

/// Where settings are looked for.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    variables: Vec<(OsString, OsString)>,
    flags: Vec<Flag>,
}

/// Settings, and the file they came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What is in force.
    pub settings: Settings,
    /// The file that was read; none when the built-in defaults were enough.
    pub file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct Flag {
    flag: &'static str,
    key: &'static str,
    value: String,
}

impl Sources {
    /// The environment of this process, and `file`, or else [`DEFAULT_FILE`] where it exists.
    pub fn of_this_process(file: Option<PathBuf>) -> Self {
        let default = || Path::new(DEFAULT_FILE).exists().then(|| PathBuf::from(DEFAULT_FILE));
        Self { file: file.or_else(default), variables: env::vars_os().collect(), flags: Vec::new() }
    }

    /// Exactly these, for callers that are not a process of their own.
    pub fn new(file: Option<PathBuf>, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self { file, variables: variables.into_iter().collect(), flags: Vec::new() }
    }

    /// Lets the option `flag` of the command line set `key`, over everything else.
    pub fn with_flag(mut self, flag: &'static str, key: &'static str, value: Option<String>) -> Self {
        self.flags.extend(value.map(|value| Flag { flag, key, value }));
        self
    }

    /// Reads and checks. The first thing that cannot be used is refused; nothing is ignored.
    ///
    /// # Errors
    /// [`Refusal`], whose text names the file, variable or option, the key, the value and the rule.
    pub fn load(self) -> Result<Loaded, Refusal> {
        let known = raw::keys();
        let mut builder = Config::builder();
        if let Some(path) = &self.file {
            let text = read_text(path)?;
            let source = config::File::from_str(&text, FileFormat::Toml);
            refuse_unknown_keys(path, &source, &known)?;
            builder = builder.add_source(source);
        }
        let variables = known_variables(&self.variables, &known)?;
        builder =
            builder.add_source(Environment::with_prefix("TASUKI").separator("__").source(Some(variables.clone())));
        for Flag { key, value, .. } in &self.flags {
            builder = builder.set_override(key, value.as_str()).map_err(|error| self.unreadable(&error))?;
        }
        let raw: Raw = builder.build().and_then(Config::try_deserialize).map_err(|error| self.unreadable(&error))?;
        let settings = check(raw).map_err(|wrong| self.refused(wrong, &variables))?;
        Ok(Loaded { settings, file: self.file })
    }

    fn refused(&self, wrong: Wrong, variables: &Map<String, String>) -> Refusal {
        let Wrong { key, value, rule } = wrong;
        let variable = variable_of(&key);
        let place = match self.flags.iter().find(|flag| flag.key == key) {
            Some(flag) => Place::Flag(flag.flag),
            None if variables.contains_key(&variable) => Place::Variable(variable),
            None => Place::File(self.file_or_default()),
        };
        Refusal::Value { place, key, value, rule }
    }

    /// What the checks before have not caught: a section that is a value, a value that is a section.
    fn unreadable(&self, error: &ConfigError) -> Refusal {
        Refusal::File { path: self.file_or_default(), problem: one_line(&error.to_string()) }
    }

    fn file_or_default(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(|| DEFAULT_FILE.into())
    }
}

fn read_text(path: &Path) -> Result<String, Refusal> {
    let refuse = |problem: String| Refusal::File { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|error| refuse(unreadable_file(&error)))?;
    let mut text = String::new();
    let read = file.take(limits::SETTINGS_BYTES as u64 + 1).read_to_string(&mut text);
    read.map_err(|error| refuse(unreadable_file(&error)))?;
    if text.len() > limits::SETTINGS_BYTES {
        return Err(refuse(format!("a settings file has at most {} bytes", limits::SETTINGS_BYTES)));
    }
    Ok(text)
}

fn unreadable_file(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; check the path after --config".to_owned(),
        io::ErrorKind::InvalidData => "is not UTF-8 text; save it as UTF-8".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

fn refuse_unknown_keys(path: &Path, source: &impl Source, known: &[String]) -> Result<(), Refusal> {
    let tree = source.collect().map_err(|error| syntax_refusal(path, &error))?;
    let mut written = Vec::new();
    collect_written("", &tree, &mut written);
    written.sort();
    for (key, stands) in written {
        if let Some(problem) = key_problem(&key, stands, known) {
            return Err(Refusal::Key { place: Place::File(path.to_owned()), key, problem });
        }
    }
    Ok(())
}

/// The parser's report, from its lines "TOML parse error at line 3, column 5", an excerpt, and the reason.
fn syntax_refusal(path: &Path, error: &ConfigError) -> Refusal {
    let ConfigError::FileParse { cause, .. } = error else {
        return Refusal::File { path: path.to_owned(), problem: one_line(&error.to_string()) };
    };
    let report = cause.to_string();
    let mut numbers = report.lines().next().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.by_ref().find_map(|part| part.parse().ok());
    match (number(), number()) {
        (Some(line), Some(column)) => {
            let problem = report.lines().skip(4).collect::<Vec<_>>().join(" ");
            Refusal::Syntax { path: path.to_owned(), line, column, problem: one_line(&problem) }
        }
        _ => Refusal::File { path: path.to_owned(), problem: one_line(&report) },
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tempfile::TempDir;

    use super::*;
    use crate::settings::{Ack, keys::Written};

    const SHIPPED: &str = include_str!("../../conf/tasuki.toml");

    struct TestFile {
        folder: TempDir,
        variables: Vec<(OsString, OsString)>,
    }

    impl TestFile {
        fn load(&self) -> Result<Loaded, Refusal> {
            Sources::new(Some(self.path()), self.variables.clone()).load()
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("t.toml")
        }

        /// The refusal, its file's folder left out.
        fn refusal(&self) -> String {
            let text = self.load().expect_err("refused").to_string();
            text.replace(&format!("{}/", self.folder.path().display()), "")
        }
    }

    fn file(text: &str) -> TestFile {
        let written = TestFile { folder: tempfile::tempdir().unwrap(), variables: Vec::new() };
        fs::write(written.path(), text).unwrap();
        written
    }

    fn variables(variables: &[(&str, &str)]) -> Sources {
        Sources::new(None, variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
    }

    fn variable_refusal(name: &str, value: &str) -> String {
        variables(&[(name, value)]).load().expect_err("refused").to_string()
    }

    /// Lines "#key = value" lose their "#"; prose has a space behind it.
    fn uncommented(text: &str) -> String {
        let bare = |line: &str| {
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())).map(str::to_owned)
        };
        text.lines().map(|line| bare(line).unwrap_or(line.to_owned()) + "\n").collect()
    }

    #[test]
    fn the_shipped_file_is_the_defaults_with_and_without_its_comment_signs() {
        assert_eq!(file(SHIPPED).load().unwrap().settings, Settings::default());
        assert_eq!(file(&uncommented(SHIPPED)).load().unwrap().settings, Settings::default());
    }

    #[test]
    fn the_shipped_file_names_every_key() {
        let whole = uncommented(SHIPPED);
        let tree = config::File::from_str(&whole, FileFormat::Toml).collect().unwrap();
        let mut written = Vec::new();
        collect_written("", &tree, &mut written);
        for key in raw::keys().iter().filter(|key| !key.starts_with("balancer.member.")) {
            assert!(written.contains(&(key.clone(), Written::Value)), "{key} is explained");
        }
    }

    #[test]
    fn the_environment_wins_over_the_file_and_a_flag_over_both() {
        let mut written = file("[node]\nroute = \"a\"\nhttp = \"127.0.0.1:1\"\n[session]\nack = \"all\"\n");
        written.variables =
            vec![("TASUKI__NODE__ROUTE".into(), "b".into()), ("TASUKI__NODE__HTTP".into(), "127.0.0.1:2".into())];
        let sources = Sources::new(Some(written.path()), written.variables.clone());
        let settings = sources.with_flag("--route", "node.route", Some("c".into())).load().unwrap().settings;
        assert_eq!(settings.node.route.as_str(), "c");
        assert_eq!(settings.node.http.port(), 2);
        assert_eq!(settings.session.ack, Ack::All);
    }

    #[test]
    fn every_kind_of_value_can_come_from_the_environment() {
        let sources = variables(&[
            ("TASUKI__CLUSTER__NAME", "007"),
            ("TASUKI__CLUSTER__PEERS", "127.0.0.1:4000, node2:4001"),
            ("TASUKI__SESSION__TIMEOUT", "1h"),
            ("TASUKI__SESSION__MAX_SESSIONS", "5"),
            ("TASUKI__NODE__REPLICATION", "4007"),
            ("TASUKI__NODE__RESPONSE_HEADERS", "false"),
            ("TASUKI__BALANCER__MANAGER__ALLOW", "10.0.0.0/8,::1"),
            ("PATH", "/bin"),
            ("TASUKI_HOME", "/opt/tasuki"),
        ]);
        let settings = sources.load().unwrap().settings;
        assert_eq!(settings.cluster.name, "007", "text stays text, whatever it looks like");
        assert_eq!(settings.cluster.peers, ["127.0.0.1:4000", "node2:4001"]);
        assert_eq!(settings.session.timeout, Duration::from_secs(3600));
        assert_eq!(settings.session.max_sessions.get(), 5);
        assert_eq!(settings.node.replication, Some(4007));
        assert!(!settings.node.response_headers);
        assert_eq!(settings.balancer.manager.allow.len(), 2);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let cases = [
            ("[session]\ntimout = \"1m\"", "t.toml: session.timout: unknown key; did you mean session.timeout?"),
            ("[sesion]\ntimeout = \"1m\"", "t.toml: sesion: unknown section; did you mean [session]?"),
            ("timeout = \"1m\"", "t.toml: timeout: unknown key; did you mean session.timeout?"),
            ("colour = 1", "t.toml: colour: unknown key; keys stand in [cluster], [session], [node] or [balancer]"),
            ("[node]\nlisten = \"x\"", "t.toml: node.listen: unknown key; did you mean balancer.listen?"),
            ("[session]\nTIMEOUT = \"1m\"", "t.toml: session.TIMEOUT: unknown key; did you mean session.timeout?"),
            (
                "[balancer.manager]\ncolour = 1",
                "t.toml: balancer.manager.colour: unknown key; [balancer.manager] has allow, listen, path",
            ),
            (
                "[colours]\nx = 1",
                "t.toml: colours: unknown section; there are [cluster], [session], [node] and [balancer]",
            ),
            (
                "[[balancer.member]]\nloadfactor = 1",
                "t.toml: balancer.member.loadfactor: unknown key; [balancer.member] has route, set, standby, url, weight",
            ),
        ];
        for (text, refusal) in cases {
            assert_eq!(file(text).refusal(), refusal, "{text}");
        }
    }

    #[test]
    fn a_section_and_a_key_are_not_taken_for_each_other() {
        let cases = [
            ("node = 3", "t.toml: node: is a section; write [node] and its keys below"),
            ("[node.http]\nport = 1", "t.toml: node.http: is a key with one value, not a section"),
            (
                "[balancer]\nmember = 3",
                "t.toml: balancer.member: is a list of sections; write [[balancer.member]] for each",
            ),
        ];
        for (text, refusal) in cases {
            assert_eq!(file(text).refusal(), refusal, "{text}");
        }
    }

    #[test]
    fn what_comes_in_a_later_release_is_refused_and_not_ignored() {
        let cases = [
            (
                "[session]\nmax_bytes = 5",
                "t.toml: session.max_bytes: not in this release; remove it (see session.max_sessions)",
            ),
            ("[balancer]\nmethod = \"bytraffic\"", "t.toml: balancer.method = \"bytraffic\": write \"by_traffic\""),
        ];
        for (text, refusal) in cases {
            assert_eq!(file(text).refusal(), refusal, "{text}");
        }
        assert_eq!(
            variable_refusal("TASUKI__SESSION__MAX_BYTES", "2"),
            "TASUKI__SESSION__MAX_BYTES: not in this release; unset it (see session.max_sessions)"
        );
    }

    #[test]
    fn without_a_secret_the_cluster_stays_on_loopback() {
        for open in ["192.0.2.7", "0.0.0.0", "::"] {
            assert_eq!(
                file(&format!("[cluster]\nbind = \"{open}\"")).refusal(),
                format!(
                    "t.toml: cluster.bind = \"{open}\": without a secret the cluster stays on loopback; make one with \
                     \"tasuki secret conf/secret\", copy it to every machine, and name it in cluster.secret_file \
                     (node.http and balancer.listen may be any address)"
                )
            );
        }
        let sealed = |bind: &str| file(&format!("[cluster]\nbind = \"{bind}\"\nsecret_file = \"s\""));
        let cluster = sealed("192.0.2.7").load().unwrap().settings.cluster;
        assert_eq!((cluster.bind.to_string(), cluster.secret_file), ("192.0.2.7".into(), Some("s".into())));
        for unspecified in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
            let nowhere = sealed(unspecified).refusal();
            let rule = "write the one by which they reach this machine, such as \"192.0.2.7\"";
            assert!(nowhere.ends_with(rule), "{nowhere}");
        }
    }

    #[test]
    fn an_ipv4_address_that_is_written_as_ipv6_is_the_one_that_the_others_are_told() {
        let bind = |text: &str| file(text).load().unwrap().settings.cluster.bind.to_string();
        assert_eq!(bind("[cluster]\nbind = \"::ffff:192.0.2.7\"\nsecret_file = \"s\""), "192.0.2.7");
        assert_eq!(bind("[cluster]\nbind = \"::ffff:127.0.0.1\""), "127.0.0.1");
        assert_eq!(bind("[cluster]\nbind = \"::1\""), "::1");
    }

    #[test]
    fn a_bad_value_is_named_with_its_place_key_rule_and_remedy() {
        let cases = [
            (
                "[session]\ntimeout = 30",
                "t.toml: session.timeout = 30: a duration needs a unit; write \"30s\" for seconds or \"30ms\", \"30m\"",
            ),
            ("[session]\nack = \"two\"", "t.toml: session.ack = \"two\": must be \"one\", \"all\" or \"none\""),
            ("[session]\nmanager = \"DeltaManager\"", "t.toml: session.manager = \"DeltaManager\": write \"delta\""),
            ("[session]\ncopies = 0", "t.toml: session.copies = 0: must be a whole number from 1 to 16"),
            ("[session]\ndirty_flag = 1", "t.toml: session.dirty_flag = 1: must be true or false"),
            (
                "[cluster]\nmin_copies = 3\n[session]\nmanager = \"backup\"",
                "t.toml: cluster.min_copies = 3: there are never more than 2: session.manager = \"backup\" with session.copies = 1",
            ),
            (
                "[cluster]\ndns = [\"nodes:4000\"]",
                "t.toml: cluster.dns = [\"nodes:4000\"]: nobody here is asked, because cluster.discovery lacks \"dns\"; add it there",
            ),
            (
                "[cluster]\ndiscovery = [\"multicast\"]\npeers = [\"node2:4000\"]",
                "t.toml: cluster.peers = [\"node2:4000\"]: nobody here is asked, because cluster.discovery lacks \"static\"; add it there",
            ),
            (
                "[cluster]\nmin_copies = 2\n[session]\nack = \"none\"",
                "t.toml: cluster.min_copies = 2: session.ack = \"none\" waits for no copy; write \"one\" or \"all\" there",
            ),
            ("[balancer]\nsticky = 1", "t.toml: balancer.sticky = 1: must be true or false"),
            (
                "[balancer]\nhealth_fall = 2.5",
                "t.toml: balancer.health_fall = 2.5: must be a whole number from 1 to 100",
            ),
            ("[balancer]\nmax_attempts = 0", "t.toml: balancer.max_attempts = 0: must be a whole number from 1 to 100"),
            (
                "[balancer]\nlisten = \"12121\"",
                "t.toml: balancer.listen = \"12121\": must be an IP address and a port, such as \"127.0.0.1:18080\" or \"[::1]:18080\"",
            ),
            (
                "[node]\nroute = \"r.1\"",
                "t.toml: node.route = \"r.1\": a route has 1 to 32 characters of A-Z a-z 0-9 _ -, as \"r1\"",
            ),
            (
                "[node]\nreplication = 70000",
                "t.toml: node.replication = 70000: must be a port, 0 for any free one, or \"auto\" for the first free one of 4000 to 4099",
            ),
            (
                "[cluster]\nmulticast = \"10.0.0.1:4\"",
                "t.toml: cluster.multicast = \"10.0.0.1:4\": must be an IPv4 multicast group (224.0.0.0 to 239.255.255.255) and a port, as \"228.0.0.4:45564\"",
            ),
            ("[session]\nack_timeout = \"2m\"", "t.toml: session.ack_timeout = \"2m\": must be from 1ms to 1m"),
            (
                "[balancer.manager]\npath = \"/\"",
                "t.toml: balancer.manager.path = \"/\": must be a path such as \"/balancer-manager\", not \"/\" and without a slash at the end",
            ),
            (
                "[balancer.tls]\nlisten = \"127.0.0.1:443\"\nkey = \"k\"",
                "t.toml: balancer.tls.certificate = (nothing): TLS needs one; name a PEM file with the certificate and its chain",
            ),
            (
                "[balancer.tls]\nlisten = \"127.0.0.1:443\"\ncertificate = \"c\"",
                "t.toml: balancer.tls.key = (nothing): TLS needs it; name a PEM file with the private key of the certificate",
            ),
            (
                "[balancer.tls]\ncertificate = \"c\"\nkey = \"k\"",
                "t.toml: balancer.tls.listen = (nothing): there is a certificate and no port for it; write \"0.0.0.0:443\", or another one",
            ),
            (
                "[balancer.tls]\nlisten = \"127.0.0.1:12121\"\ncertificate = \"c\"\nkey = \"k\"",
                "t.toml: balancer.tls.listen = \"127.0.0.1:12121\": balancer.listen has this address for plain HTTP; give each its own, such as \"0.0.0.0:443\"",
            ),
            (
                "[balancer.manager]\nlisten = \"127.0.0.1:12121\"",
                "t.toml: balancer.manager.listen = \"127.0.0.1:12121\": users connect to this address; give the manager its own, such as \"127.0.0.1:12122\"",
            ),
            (
                "[[balancer.member]]\nurl = \"http://127.0.0.1:1\"",
                "t.toml: [[balancer.member]] number 1: route = (nothing): every member needs it",
            ),
            (
                "[[balancer.member]]\nurl = \"ajp://127.0.0.1:18009\"\nroute = \"r1\"",
                "t.toml: [[balancer.member]] number 1: url = \"ajp://127.0.0.1:18009\": AJP and TLS to members are not in this release; write \"http://127.0.0.1:18080\"",
            ),
        ];
        for (text, refusal) in cases {
            assert_eq!(file(text).refusal(), refusal, "{text}");
        }
    }

    #[test]
    fn a_path_of_the_balancers_own_needs_a_folder() {
        let text = "[balancer.static]\npath = \"/static\"\n";
        assert_eq!(
            file(text).refusal(),
            "t.toml: balancer.static.path = \"/static\": balancer.static.path and balancer.static.folder belong together; \
             set both or none"
        );
        let local = file(&format!("{text}folder = \"htdocs\"\n")).load().unwrap().settings.balancer.local;
        assert_eq!((local.path.as_str(), local.folder), ("/static", Some("htdocs".into())));
    }

    #[test]
    fn members_are_read_and_their_routes_differ() {
        let text = "[[balancer.member]]\nurl = \"http://127.0.0.1:18080/\"\nroute = \"r7\"\nstandby = true\nset = 3\n";
        let members = file(text).load().unwrap().settings.balancer.members;
        let member = &members[0];
        assert_eq!((member.address.port(), member.weight, member.standby, member.set), (18080, 50, true, 3));
        assert_eq!(
            file(&text.repeat(2)).refusal(),
            "t.toml: [[balancer.member]] number 2: route = \"r7\": another member has this route; give each its own"
        );
    }

    #[test]
    fn a_key_that_begins_like_the_members_can_be_set_by_a_variable() {
        let sources = variables(&[("TASUKI__BALANCER__MEMBERSHIP", "4100")]);
        assert_eq!(sources.load().unwrap().settings.balancer.membership, 4100);
    }

    #[test]
    fn statuses_that_count_as_failures_are_read_from_file_and_environment() {
        let read = |loaded: Loaded| loaded.settings.balancer.fail_on_status;
        assert_eq!(read(file("[balancer]\nfail_on_status = [500, 503]").load().unwrap()), [500, 503]);
        assert!(read(file("[balancer]\nfail_on_status = []").load().unwrap()).is_empty());
        assert_eq!(read(variables(&[("TASUKI__BALANCER__FAIL_ON_STATUS", "500,503")]).load().unwrap()), [500, 503]);
        assert_eq!(
            file("[balancer]\nfail_on_status = [200]").refusal(),
            "t.toml: balancer.fail_on_status = [200]: must be a list of statuses from 400 to 599, such as [500, 502]"
        );
    }

    #[test]
    fn a_bad_variable_is_named_as_it_was_set() {
        assert_eq!(
            variable_refusal("TASUKI__SESSION__TIMEOUT", "30"),
            "TASUKI__SESSION__TIMEOUT=\"30\": a duration needs a unit; write \"30s\" for seconds or \"30ms\", \"30m\""
        );
        assert_eq!(
            variables(&[]).with_flag("--route", "node.route", Some("a.b".into())).load().unwrap_err().to_string(),
            "--route \"a.b\": a route has 1 to 32 characters of A-Z a-z 0-9 _ -, as \"r1\""
        );
    }

    #[test]
    fn an_unknown_variable_is_refused_with_the_nearest_known_one() {
        let cases = [
            ("TASUKI__NODE__HTPP", "unknown variable; did you mean TASUKI__NODE__HTTP?"),
            ("TASUKI_NODE_HTTP", "unknown variable; did you mean TASUKI__NODE__HTTP?"),
            ("tasuki__node__http", "unknown variable; did you mean TASUKI__NODE__HTTP?"),
            ("TASUKI__X", "unknown variable; names are TASUKI__SECTION__KEY, as in TASUKI__NODE__HTTP"),
            ("TASUKI__BALANCER__MEMBER__URL", "members are set in the file only, as [[balancer.member]]"),
        ];
        for (name, problem) in cases {
            assert_eq!(variable_refusal(name, "1"), format!("{name}: {problem}"));
        }
    }

    #[test]
    fn a_syntax_error_is_named_with_line_and_column() {
        let refusal = file("[node]\nroute = \"r1\nhttp = 1\n").load().unwrap_err();
        assert!(matches!(refusal, Refusal::Syntax { line: 2, column: 9.., .. }), "{refusal:?}");
        assert_eq!(file("[node]\nroute = r1\n").refusal().lines().count(), 1);
        let twice = file("[node]\nroute = \"a\"\nroute = \"b\"\n").refusal();
        assert!(twice.starts_with("t.toml: line 3, column 1: duplicate key"), "{twice}");
    }

    #[test]
    fn a_file_that_is_missing_or_no_text_is_named() {
        let gone = Sources::new(Some("/nowhere/t.toml".into()), []).load().unwrap_err().to_string();
        assert_eq!(gone, "/nowhere/t.toml: there is no such file; check the path after --config");
        let written = file("");
        fs::write(written.path(), [0xFF, 0xFE]).unwrap();
        assert_eq!(written.refusal(), "t.toml: is not UTF-8 text; save it as UTF-8");
        fs::write(written.path(), "#".repeat(limits::SETTINGS_BYTES + 1)).unwrap();
        assert_eq!(written.refusal(), "t.toml: a settings file has at most 1048576 bytes");
    }
}
