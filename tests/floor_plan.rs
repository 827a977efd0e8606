//! The source tree is a house: imports go down only, and what belongs to one room stays in it.
//!
//! A checker over the text of one file, run over every file below `src`. It reads code only: comments, texts and what
//! is compiled for tests alone do not count.

#[path = "floor_plan/code.rs"]
mod code;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use code::{Token, product, test_modules};

/// The floors, the top one first. Who stands on one floor does not see its neighbours.
const FLOORS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["supervisor", "server"],
    &["node"],
    &["deployment"],
    &["webapp", "replication", "balancer"],
    &["session", "membership"],
    &["settings", "observe", "descriptors", "untold"],
    &["names", "time", "limits"],
];

/// Pairs that never meet, whatever their floors: balancer and node know each other by HTTP and membership only.
const STRANGERS: &[(&str, &str)] = &[("node", "balancer")];

/// Imports that are not downwards and are right all the same.
const EXCEPTIONS: &[(&str, &str)] = &[
    // The bounds of names are bounds like all others.
    ("names", "limits"),
    // A status report shows a node's duty in membership's own word; a second enum would only be a translation.
    ("observe", "membership"),
];

/// Where the clock may be read: shells. Everything else takes the time as an argument.
const SHELLS: &[&str] = &[
    "balancer/actor.rs",
    "balancer/answer.rs",
    "balancer/client.rs",
    "balancer/door.rs",
    "balancer/entrance.rs",
    "balancer/forward.rs",
    "balancer/manager/report.rs",
    "balancer/http2.rs",
    "balancer/pace.rs",
    "balancer/upload.rs",
    "balancer/worker.rs",
    "cli/",
    "deployment/sync.rs",
    "membership/actor.rs",
    "node/",
    "replication/accept.rs",
    "replication/accept/incoming.rs",
    "replication/actor.rs",
    "replication/intake.rs",
    "replication/link.rs",
    "replication/refusals.rs",
    "server.rs",
    "server/door.rs",
    "server/snapshot.rs",
    "session/actor.rs",
    "session/snapshot/file.rs",
    "supervisor.rs",
    "supervisor/child.rs",
    "supervisor/door.rs",
    "time.rs",
    "webapp/actor.rs",
];

/// Words that stand only where they are listed. A path that ends with a slash is a folder.
const ROOMS: &[(&[&str], &[&str])] = &[
    (&["dashmap"], &["session/table.rs"]),
    (&["DashMap"], &["session/table.rs"]),
    // What seals: one home for each, and the keys are made in one place.
    (&["snow"], &["replication/seal.rs"]),
    (&["chacha20poly1305"], &["membership/seal.rs"]),
    (&["blake2"], &["settings/secret.rs", "webapp/assets/disk.rs"]),
    // What packs.
    (&["flate2"], &["webapp/assets/coding.rs"]),
    (&["brotli", ":", ":"], &["webapp/assets/coding.rs"]),
    (&["println", "!"], &["cli/"]),
    (&["print", "!"], &["cli/"]),
    (&["eprintln", "!"], &["cli/"]),
    (&["eprint", "!"], &["cli/"]),
    (&["io", ":", ":", "stdout"], &["cli/"]),
    // The log goes there.
    (&["io", ":", ":", "stderr"], &["cli/", "observe.rs"]),
    (&["Moment", ":", ":", "now"], SHELLS),
    (&["Instant", ":", ":", "now"], SHELLS),
    (&["Timestamp", ":", ":", "now"], &["node/serve.rs", "deployment/host.rs"]),
    // The number of a life that must be above the last one's, also across restarts; how long a node was down; whether a
    // certificate is still good.
    (&["SystemTime"], &["balancer/tls.rs", "membership/actor.rs", "session/snapshot/file.rs"]),
];

/// What is wrong with one file, given its path below `src`, with slashes.
fn violations(path: &str, text: &str) -> Vec<String> {
    let tokens = product(text);
    let mut wrong = Vec::new();
    for Token { text: to, line } in imports(path, &tokens) {
        if let Err(why) = may_import(home(path), &to) {
            wrong.push(format!("src/{path}:{line}: {} imports {to}: {why}", home(path)));
        }
    }
    for (words, rooms) in ROOMS {
        let is_at_home = rooms.iter().any(|room| path == *room || room.ends_with('/') && path.starts_with(room));
        for found in tokens.windows(words.len()).filter(|found| found.iter().zip(*words).all(|(a, b)| a.text == **b)) {
            if !is_at_home {
                wrong.push(format!("src/{path}:{}: {} belongs into {rooms:?}", found[0].line, words.concat()));
            }
        }
    }
    wrong
}

fn may_import(from: &str, to: &str) -> Result<(), &'static str> {
    let floor = |home: &str| FLOORS.iter().position(|floor| floor.contains(&home));
    if from == to || EXCEPTIONS.contains(&(from, to)) {
        return Ok(());
    }
    if STRANGERS.contains(&(from, to)) {
        return Err("they never meet");
    }
    match (floor(from), floor(to)) {
        (Some(from), Some(to)) if from < to => Ok(()),
        (Some(from), Some(to)) if from == to => Err("neighbours on one floor"),
        (Some(_), Some(_)) => Err("that is upwards"),
        _ => Err("it has no floor"),
    }
}

/// The top module a file belongs to.
fn home(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// The top modules that a file names by `crate::`, in `main` by `tasuki::`, or by climbing up with `super::`.
fn imports(path: &str, tokens: &[Token]) -> Vec<Token> {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    let separator = |at: usize| is(at, ":") && is(at + 1, ":");
    let root = if home(path) == "main" { "tasuki" } else { "crate" };
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        // `pub(in crate::webapp)` says who may look in; it imports nothing.
        if is(at, root) && separator(at + 1) && !(at > 0 && is(at - 1, "in")) {
            found.extend(first_words(&tokens[at + 3..]));
        }
        let mut end = at;
        while is(end, "super") && separator(end + 1) {
            end += 3;
        }
        let begins = at < 3 || !(separator(at - 2) && is(at - 3, "super"));
        if end > at && begins && (end - at) / 3 == depth(path) {
            found.extend(first_words(&tokens[end..]));
        }
    }
    found
}

/// Modules above the file's own: 1 for `server.rs` and `cli/mod.rs`, 2 for `cli/up.rs`.
fn depth(path: &str) -> usize {
    path.trim_end_matches("/mod.rs").split('/').count()
}

/// The first word of a path, or of each branch of a `{..}` group.
fn first_words(tokens: &[Token]) -> Vec<Token> {
    let Some(first) = tokens.first() else { return Vec::new() };
    if first.text != "{" {
        return vec![first.clone()];
    }
    let (mut depth, mut words) = (0, Vec::new());
    for pair in tokens.windows(2) {
        match pair[0].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        let is_word = pair[1].text.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if depth == 1 && matches!(pair[0].text.as_str(), "{" | ",") && is_word {
            words.push(pair[1].clone());
        }
    }
    words
}

/// Every source file below `folder`, as its path below `src` and its text.
fn sources(folder: &Path, below: &str, found: &mut Vec<(String, String)>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        let name = format!("{below}{}", entry.file_name().unwrap().to_str().unwrap());
        if entry.is_dir() {
            sources(&entry, &format!("{name}/"), found);
        } else if name.ends_with(".rs") {
            found.push((name, fs::read_to_string(&entry).unwrap()));
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut found);
    found
}

#[test]
fn imports_go_down_and_everything_stays_in_its_room() {
    let sources = all_sources();
    let for_tests: Vec<String> = sources.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    let is_for_tests = |path: &str| {
        for_tests.iter().any(|module| path == format!("{module}.rs") || path.starts_with(&format!("{module}/")))
    };
    let product: Vec<_> = sources.iter().filter(|(path, _)| path != "lib.rs" && !is_for_tests(path)).collect();
    assert!(product.len() > 60 && product.len() < sources.len(), "{} files were read", product.len());
    let wrong: Vec<String> = product.iter().flat_map(|(path, text)| violations(path, text)).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_module_has_a_floor_and_every_exception_is_needed() {
    let sources = all_sources();
    let homes: BTreeSet<&str> = sources.iter().map(|(path, _)| home(path)).filter(|home| *home != "lib").collect();
    let floors: BTreeSet<&str> = FLOORS.iter().flat_map(|floor| floor.iter().copied()).collect();
    assert_eq!(homes, floors);
    for (from, to) in EXCEPTIONS {
        let files = sources.iter().filter(|(path, _)| home(path) == *from);
        let mut imports = files.flat_map(|(path, text)| imports(path, &product(text)));
        assert!(imports.any(|import| import.text == *to), "{from} does not import {to} any more");
    }
    for shell in SHELLS {
        assert!(sources.iter().any(|(path, _)| path.starts_with(shell)), "src/{shell} is gone");
    }
}

#[test]
fn what_is_planted_is_found() {
    for (path, text, found) in [
        ("session/table.rs", "use crate::node::House;", "upwards"),
        ("session/table.rs", "use crate::{\n    limits,\n    names::{NodeId, Route},\n    server::Exit,\n};", ":4: "),
        ("session/table.rs", "fn f() -> crate::webapp::Page {}", "imports webapp"),
        ("session/table.rs", "use super::super::cli::run;", "imports cli"),
        ("membership/mod.rs", "use super::{limits, node};", "imports node"),
        ("balancer/pool.rs", "use crate::replication::Core;", "neighbours"),
        ("node/serve.rs", "use crate::balancer::Door;", "never meet"),
        ("session/table.rs", "use crate::elsewhere::Thing;", "no floor"),
        ("main.rs", "use tasuki::elsewhere::Thing;", "no floor"),
        ("session/replica.rs", "let map = dashmap::DashMap::new();", "session/table.rs"),
        ("replication/link.rs", "use snow::Builder;", "replication/seal.rs"),
        ("node/serve.rs", "println!(\"{x}\");", "println! belongs"),
        ("supervisor.rs", "std::io::stdout().flush();", "io::stdout"),
        ("session/replica.rs", "let now = Moment::now();", "Moment::now"),
        ("balancer/health.rs", "tokio::time::Instant :: now()", "Instant::now"),
        ("names.rs", "let a = 'a'; let b: &'a str = \"\\\"\"; use crate::cli;", "imports cli"),
        ("names.rs", "let a = r#\"\"\"#; let b = b'\\''; use crate::cli;", "imports cli"),
        ("names.rs", "#[cfg(test)]\nuse crate::{cli, node};\nuse crate::server;", "imports server"),
        ("names.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::server;", "imports server"),
    ] {
        let wrong = violations(path, text);
        assert!(wrong.len() == 1 + usize::from(text.contains("DashMap")), "{text}: {wrong:?}");
        assert!(wrong[0].contains(found), "{text}: {wrong:?}");
    }
}

#[test]
fn what_is_right_is_left_alone() {
    for (path, text) in [
        ("node/serve.rs", "use crate::{limits, session::{Table, draft::Draft}, webapp::Page};"),
        ("webapp/page/mod.rs", "pub(in crate::webapp) fn f() {} use super::folder; use super::super::limits;"),
        ("session/table.rs", "use super::server; // its own module, not the one at the top"),
        ("session/table.rs", "use dashmap::DashMap; // crate::cli"),
        ("names.rs", "/* crate::cli */ let text = \"println!(crate::cli)\"; let raw = br##\"crate::\"cli\"##;"),
        ("names.rs", "#[cfg(test)]\n#[allow(unused)]\nmod tests { use crate::cli; fn f() { println!(); } }"),
        ("node/gate.rs", "let now = Moment::now();"),
        ("main.rs", "tasuki::cli::run()"),
    ] {
        assert_eq!(violations(path, text), [""; 0], "{text}");
    }
    assert_eq!(test_modules("webapp/mod.rs", "#[cfg(test)]\nmod demo;\nmod page;"), ["webapp/demo"]);
    assert_eq!(test_modules("webapp/page.rs", "#[cfg(test)]\nmod tests;"), ["webapp/page/tests"]);
}
