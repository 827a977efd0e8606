//! The README and the guide as a test: what they show is run, and what then comes is compared with what they say.
//!
//! Numbers that differ from run to run (ports, process ids, times) are masked; what users count is not.

#[path = "support/mod.rs"]
mod support;
#[path = "readme/text.rs"]
mod text;

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use support::{
    browser::Browser,
    cluster::{Cluster, Place, settled},
    wait_for,
};
use text::{Block, Routes, Step, blocks, command, masked, steps, words};

const README: &str = include_str!("../README.md");
const SETTINGS: &str = include_str!("../conf/tasuki.toml");

fn of_language(language: &str) -> impl Iterator<Item = Block<'static>> {
    blocks(README).into_iter().filter(move |block| block.language == language)
}

fn first_screen() -> &'static str {
    README.split("\n## ").next().unwrap()
}

/// The path of the address that a `curl` line asks for.
fn path(command: &str) -> Option<&str> {
    let url = words(command).into_iter().find_map(|word| word.strip_prefix("http://127.0.0.1:12121"));
    url.filter(|_| command.starts_with("curl "))
}

/// The project's webapps and settings in a folder of their own, in which webapps can be added.
fn place() -> Place {
    let (place, project) = (Place::new(), Path::new(env!("CARGO_MANIFEST_DIR")));
    for folder in ["webapps", "conf"] {
        copy(&project.join(folder), &place.path(folder));
    }
    place.set("NODE__WEBAPPS", "webapps")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Runs a block's commands one after the other, each as a reader would who waits until all is well. The browser has the
/// cookies of the reader's `jar`.
async fn play(cluster: &Cluster, browser: &mut Browser, block: &Block<'_>) {
    let (mut shown, mut said) = (Routes::default(), Routes::default());
    let mut node = None;
    for Step { command, shown: expected } in steps(block.text) {
        if let Some(path) = path(command) {
            let answer = browser.get(path).await.unwrap();
            assert_eq!(said.masked(&answer.body), shown.masked(&expected), "{command}");
            // With one of the two nodes dead there is nobody to hold a copy.
            if !block.text.contains("kill -9") {
                assert_eq!(answer.header("tasuki-copies"), Some("2"), "{command}");
            }
            node = answer.header("tasuki-node").map(str::to_owned);
        } else if command.starts_with("kill -9 ") {
            cluster.kill(node.as_deref().expect("somebody has answered before")).await;
        } else {
            let arguments =
                words(command.strip_prefix("tasuki ").unwrap_or_else(|| panic!("{command:?} is not known")));
            if matches!(arguments[0], "status" | "restart") {
                cluster.settled(2).await;
            }
            let (code, said) = cluster.command(&arguments).await;
            assert_eq!((masked(&said), code), (masked(&expected), Some(0)), "{command}");
        }
    }
}

/// Writes the file whose name stands above a block, and says whether there is one.
fn write_webapp(place: &Place, block: &Block<'_>) -> bool {
    let Some(name) = block.above.strip_prefix("`webapps/").and_then(|rest| rest.split('`').next()) else {
        return false;
    };
    let file = place.path("webapps").join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, block.text).unwrap();
    true
}

/// Waits until every node has an answer for what a block asks for.
async fn deployed(cluster: &Cluster, block: &Block<'_>) {
    for path in block.text.lines().filter_map(|line| path(line.strip_prefix("$ ")?)) {
        answered(cluster, path).await;
    }
}

/// Waits until every node has an answer for a path.
async fn answered(cluster: &Cluster, path: &str) {
    for node in &cluster.settled(2).await.nodes {
        wait_for(path, || async { Browser::new(node.http).get(path).await.ok().filter(|it| it.status == 200) }).await;
    }
}

fn story(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, story);
}

#[test]
fn the_first_screen_is_what_one_sees() {
    let mut blocks = blocks(first_screen()).into_iter();
    let commands: Vec<&str> = blocks.next().unwrap().text.lines().map(|line| command(line).0).collect();
    assert_eq!(commands, ["cargo run --release", "cargo test"]);
    assert!(include_str!("../Cargo.toml").contains("\ndefault-run = \"tasuki\"\n"), "what is run is this command");
    let shown = blocks.next().unwrap().text;
    story(async {
        let place = place();
        let _up = place.start(&[]);
        let run = place.path("run");
        let listening = wait_for("the balancer listens", || async { tasuki::settings::Listening::read(&run).ok() });
        settled(listening.await.listen, 2).await;
        let said = wait_for("everything is said", || async { Some(place.log()).filter(|log| log.contains("Ctrl-C")) });
        // Lines of the log begin with the time.
        let said = said.await;
        let said: Vec<&str> = said.lines().filter(|line| !line.starts_with(|c: char| c.is_ascii_digit())).collect();
        assert_eq!(masked(said.join("\n").trim_start_matches('\n')), masked(shown));
    });
}

#[test]
fn what_one_tries_answers_as_shown() {
    story(async {
        let place = place();
        let cluster = Cluster::up_in(place.clone(), 2).await;
        let (mut played, mut written) = (0, 0);
        for block in blocks(README) {
            if block.language == "console" {
                deployed(&cluster, &block).await;
                play(&cluster, &mut cluster.browser(), &block).await;
                played += 1;
            }
            written += usize::from(write_webapp(&place, &block));
        }
        assert_eq!((played, written), (6, 2), "blocks of commands, files of a webapp");
    });
}

/// Plays a page of the guide from its first block to its last, as one reader: how many blocks of commands it has, and
/// how many files of a webapp.
async fn read_through(cluster: &Cluster, place: &Place, browser: &mut Browser, text: &str) -> (usize, usize) {
    let (mut played, mut written) = (0, 0);
    for block in blocks(text) {
        if block.language == "console" {
            deployed(cluster, &block).await;
            play(cluster, browser, &block).await;
            played += 1;
        }
        written += usize::from(write_webapp(place, &block));
    }
    (played, written)
}

#[test]
fn the_guide_answers_as_shown() {
    story(async {
        let place = place();
        let cluster = Cluster::up_in(place.clone(), 2).await;
        let mut reader = cluster.browser();
        let first = include_str!("../docs/first-webapp.md");
        assert_eq!(read_through(&cluster, &place, &mut reader, first).await, (2, 4));
        answered(&cluster, "/guests/style.css").await;
        let page = reader.get("/guests/").await.unwrap().body;
        let token = page.split("name=\"_csrf\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let signed = reader.post("/guests/", &format!("_csrf={token}&name=%E8%8A%B1%E5%AD%90")).await.unwrap();
        assert_eq!((signed.status.as_u16(), signed.header("location")), (303, Some("/guests/")));
        let page = reader.get("/guests/").await.unwrap().body;
        assert!(page.contains("Welcome, 花子!") && page.contains("<li>花子</li>"), "{page}");
        let style = reader.get("/guests/style.css").await.unwrap();
        assert_eq!(style.header("content-type"), Some("text/css; charset=utf-8"));

        let jsp = include_str!("../docs/from-jsp.md");
        assert_eq!(read_through(&cluster, &place, &mut cluster.browser(), jsp).await, (1, 2));
    });
}

#[test]
fn every_command_of_the_guide_is_understood() {
    let place = place();
    let lines = blocks(include_str!("../docs/deploying.md")).into_iter().filter(|block| block.language == "sh");
    let lines: Vec<&str> = lines.flat_map(|block| block.text.lines()).collect();
    for line in &lines {
        let arguments = words(command(line).0.strip_prefix("tasuki ").unwrap());
        let understood = bare(&place, &arguments).arg("--help").output().unwrap();
        assert!(understood.status.success(), "{line}: {}", String::from_utf8_lossy(&understood.stderr));
        let options: BTreeSet<&str> = arguments.iter().copied().filter(|word| word.starts_with("--")).collect();
        let help = String::from_utf8_lossy(&understood.stdout).into_owned();
        assert!(options.iter().all(|option| help.contains(option)), "{line}: {help}");
    }
    assert_eq!(lines.len(), 5);
}

#[test]
fn every_link_of_the_guide_leads_somewhere() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut followed = 0;
    for page in fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&page).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            assert!(docs.join(target).exists(), "{}: {target} leads nowhere", page.display());
            followed += 1;
        }
    }
    assert!(followed > 10, "{followed} links");
}

/// The command without any setting of a test.
fn bare(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.tasuki(arguments);
    let set: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    for name in set {
        command.env_remove(name);
    }
    command
}

#[test]
fn every_command_is_understood() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = place();
    let mut ours = 0;
    for line in of_language("sh").flat_map(|block| block.text.lines()).filter(|line| !line.starts_with("export PATH="))
    {
        let (said, variables) = command(line);
        match words(said)[..] {
            ["cargo", "run", "--release"] | ["cargo", "test"] | ["cargo", "nextest", "run"] => {}
            ["cargo", "bench", "--bench", name] => {
                let benches = project.join("benches");
                assert!(benches.join(format!("{name}.rs")).is_file() || benches.join(name).is_dir(), "{line}");
            }
            ["cargo", "test", "--test", name] => {
                let tests = project.join("tests");
                assert!(tests.join(format!("{name}.rs")).is_file() || tests.join(name).is_dir(), "{line}");
            }
            [".ci/run"] => assert!(project.join(".ci/run").is_file()),
            ["tasuki", ref arguments @ ..] => {
                let understood = bare(&place, arguments).arg("--help").output().unwrap();
                assert!(understood.status.success(), "{line}: {}", String::from_utf8_lossy(&understood.stderr));
                let checked = bare(&place, &["check"]).envs(variables).output().unwrap();
                assert!(checked.status.success(), "{line}: {}", String::from_utf8_lossy(&checked.stderr));
                ours += 1;
            }
            _ => panic!("nobody checks {line:?}"),
        }
    }
    assert_eq!(ours, 5);
}

#[test]
fn what_lands_is_tested_by_the_command_of_the_first_screen() {
    let last = include_str!("../.ci/run").lines().rev().find(|line| !line.trim().is_empty());
    assert_eq!(last, Some("run cargo test"));
}

#[test]
fn every_settings_file_is_accepted() {
    let place = place();
    let mut checked = 0;
    assert!(bare(&place, &["secret"]).output().unwrap().status.success(), "one of the files names it");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(place.path("conf/fullchain.pem"), made.cert.pem()).unwrap();
    fs::write(place.path("conf/privkey.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(place.path("conf/privkey.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    for block in of_language("toml") {
        fs::write(place.path("shown.toml"), block.text).unwrap();
        let output = bare(&place, &["check", "--config", "shown.toml"]).output().unwrap();
        assert!(output.status.success(), "{}\n{}", block.text, String::from_utf8_lossy(&output.stderr));
        checked += 1;
    }
    assert_eq!(checked, 5);
}

/// The keys of `conf/tasuki.toml`, dotted.
fn keys() -> BTreeSet<String> {
    let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.');
    let mut section = "";
    let mut keys = BTreeSet::new();
    for line in SETTINGS.lines().map(|line| line.trim_start_matches('#').trim()) {
        let name = line.trim_start_matches('[').trim_end_matches(']');
        if line.starts_with('[') && line.ends_with(']') && is_name(name) {
            section = name;
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| is_name(key)) {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

#[test]
fn every_key_that_is_named_exists() {
    let keys = keys();
    let sections = ["cluster.", "session.", "node.", "balancer."];
    let is_key = |word: &&str| {
        sections.iter().any(|section| word.starts_with(section))
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.')
    };
    let named: BTreeSet<&str> = README.split('`').filter(is_key).collect();
    assert!(named.len() > 30, "{} keys are named", named.len());
    let unknown: Vec<_> = named.iter().filter(|key| !keys.contains(**key)).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not in conf/tasuki.toml");
}

#[test]
fn the_source_tree_is_as_drawn_and_every_link_leads_somewhere() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tree = of_language("text").find(|block| block.text.starts_with("src/\n")).unwrap();
    let inside = tree.text.lines().filter_map(|line| line.strip_prefix("  "));
    let drawn: BTreeSet<&str> =
        inside.flat_map(str::split_whitespace).filter(|word| word.ends_with(".rs") || word.ends_with('/')).collect();
    let real = fs::read_dir(project.join("src")).unwrap().map(Result::unwrap).map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() { format!("{name}/") } else { name }
    });
    // A module's parts may lie in a folder beside it.
    let real: BTreeSet<String> = real
        .filter(|name| !project.join("src").join(name.replace('/', ".rs")).is_file() || name.ends_with(".rs"))
        .collect();
    assert_eq!(drawn, real.iter().map(String::as_str).collect());
    let targets = README.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    for target in targets.filter(|target| !target.starts_with("http")) {
        let found = match target.strip_prefix('#') {
            Some(heading) => README.to_lowercase().contains(&format!("\n## {}\n", heading.replace('-', " "))),
            None => project.join(target).exists(),
        };
        assert!(found, "{target} leads nowhere");
    }
}

#[test]
fn a_difference_is_noticed() {
    assert_eq!(
        masked("  node r1   http://127.0.0.1:18080      pid 9\n"),
        masked("  node r1  http://127.0.0.1:4  pid 47")
    );
    assert_ne!(masked("r1: asked"), masked("r2: asked"));
    assert_ne!(masked("kill -9 1, reload"), masked("kill 1, reload"));
    let same = |a: &[&str], b: &[&str]| {
        let (mut one, mut other) = (Routes::default(), Routes::default());
        a.iter().zip(b).all(|(a, b)| one.masked(a) == other.masked(b))
    };
    assert!(same(&["[r1]\n1\n", "[r1]\n2\n", "[r2]\n3\n"], &["[r2]\n1", "[r2]\n2", "[r1]\n3"]));
    assert!(!same(&["[r1]\n1", "[r2]\n2"], &["[r1]\n1", "[r1]\n2"]), "another node");
    assert!(!same(&["[r1]\n1"], &["[r1]\n2"]), "another number");
    let steps = steps("$ a\n1\n2\n$ b\n");
    assert_eq!(steps, [Step { command: "a", shown: "1\n2\n".into() }, Step { command: "b", shown: String::new() }]);
}
