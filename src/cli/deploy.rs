//! `tasuki deploy`, `undeploy`, `rollback`: one webapp changes on all nodes, or on none.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use bytes::Bytes;
use clap::Args;

use super::{Config, Failure, block_on, complain, node, say};
use crate::{
    deployment::Event,
    limits,
    names::Route,
    webapp::{self, Refusal},
};

#[derive(Debug, Args)]
pub(super) struct Deploy {
    /// A .war or .zip archive, or a folder of the same
    path: PathBuf,
    /// The webapp's name [default: that of the file: ROOT, shop, a#b, shop##2]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    care: Care,
    #[command(flatten)]
    config: Config,
}

#[derive(Debug, Args)]
pub(super) struct Undeploy {
    /// The webapp's name, as "tasuki webapps" shows it
    name: String,
    #[command(flatten)]
    config: Config,
}

#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// The webapp's name, as "tasuki webapps" shows it
    name: String,
    #[command(flatten)]
    care: Care,
    #[command(flatten)]
    config: Config,
}

/// How carefully.
#[derive(Debug, Args)]
struct Care {
    /// Let this node serve it first, alone
    #[arg(long, value_name = "ROUTE")]
    canary: Option<Route>,
    /// How many seconds the canary serves users before the others follow; one failed page, and it is taken back
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "canary",
          value_parser = clap::value_parser!(u64).range(0..=limits::DEPLOY_WATCH.as_secs()))]
    watch: u64,
    /// A page of the webapp that every node must answer well, such as /health.txt [default: its root must not fail]
    #[arg(long, value_name = "PATH")]
    probe: Option<String>,
}

/// Why nothing was ordered, or what came of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotDeployed {
    #[error(transparent)]
    Node(#[from] node::NoNode),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("{path}: {problem}", path = .0.display(), problem = .1)]
    Archive(PathBuf, String),
    #[error("{0}")]
    Failed(String),
}

impl Deploy {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Self { path, name, care, config } = self;
        let name = name.map_or_else(|| name_of(&path), Ok)?;
        let archive = read(&path)?;
        carry_out(&config, &care.query("deploy", &name), archive)
    }
}

impl Undeploy {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        carry_out(&self.config, &query("undeploy", &self.name), Bytes::new())
    }
}

impl Rollback {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        carry_out(&self.config, &self.care.query("rollback", &self.name), Bytes::new())
    }
}

impl Care {
    fn query(&self, wanted: &str, name: &str) -> String {
        let mut query = query(wanted, name);
        if let Some(canary) = &self.canary {
            query += &format!("&canary={canary}&watch={}", self.watch);
        }
        if let Some(probe) = &self.probe {
            query += &format!("&probe={}", encoded(probe));
        }
        query
    }
}

fn query(wanted: &str, name: &str) -> String {
    format!("wanted={wanted}&name={}", encoded(name))
}

/// For a query: everything but letters, digits and a few harmless characters (RFC 3986 section 2.3).
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// `shop##2.war` and the folder `shop##2` are `shop##2`.
fn name_of(path: &Path) -> Result<String, NotDeployed> {
    let unnamed = || NotDeployed::Archive(path.to_owned(), "has no name; give one with --name".into());
    // What `.` and `a/..` are called is known to the file system only.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(unnamed)?;
    let lower = name.to_ascii_lowercase();
    let end = [".war", ".zip"].into_iter().find(|end| lower.ends_with(end) && !path.is_dir()).unwrap_or_default();
    Ok(name[..name.len() - end.len()].to_owned())
}

fn read(path: &Path) -> Result<Bytes, NotDeployed> {
    let problem = |problem: String| NotDeployed::Archive(path.to_owned(), problem);
    if path.is_dir() {
        return Ok(webapp::pack(path)?.into());
    }
    let bytes = fs::metadata(path).map_err(|error| problem(error.to_string()))?.len();
    if bytes > limits::ARCHIVE_BYTES {
        return Err(problem(format!("has {bytes} bytes; {} are allowed", limits::ARCHIVE_BYTES)));
    }
    Ok(fs::read(path).map_err(|error| problem(error.to_string()))?.into())
}

fn carry_out(config: &Config, query: &str, archive: Bytes) -> Result<ExitCode, Failure> {
    let settings = config.sources().load()?.settings;
    block_on(async {
        let mut news = node::order(&settings, query, archive).await.map_err(NotDeployed::Node)?;
        let mut last = None;
        while let Some(event) = news.next().await.map_err(NotDeployed::Node)? {
            if event.last {
                last = Some(event);
            } else {
                tell(&event);
            }
        }
        match last {
            Some(Event { good: true, text, .. }) => say(&text),
            Some(Event { text, .. }) => return Err(NotDeployed::Failed(text).into()),
            None => {
                return Err(NotDeployed::Failed(
                    "the node went away; \"tasuki webapps\" shows what is deployed".into(),
                )
                .into());
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn tell(event: &Event) {
    let node = event.node.as_ref().map_or("", Route::as_str);
    match event.good {
        true => say(&format!("{node}  {}", event.text)),
        false => complain(&format!("{node}: {}", event.text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webapp_is_called_as_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let shop = folder.path().join("shop.v1");
        fs::create_dir(&shop).unwrap();
        for (path, name) in [
            (folder.path().join("shop##2.war"), "shop##2"),
            (folder.path().join("a#b.ZIP"), "a#b"),
            (folder.path().join("ROOT"), "ROOT"),
            (shop.clone(), "shop.v1"),
            (shop.join("."), "shop.v1"),
            (shop.join("..").join("shop.v1/"), "shop.v1"),
        ] {
            assert_eq!(name_of(&path).unwrap(), name, "{}", path.display());
        }
        assert!(name_of(Path::new("/")).unwrap_err().to_string().contains("--name"));
    }

    #[test]
    fn a_name_crosses_a_query_whole() {
        let care = Care { canary: Some("r1".parse().unwrap()), watch: 5, probe: Some("/a b?c=1&d".into()) };
        let expected = "wanted=deploy&name=a%23b%23%232&canary=r1&watch=5&probe=%2Fa%20b%3Fc%3D1%26d";
        assert_eq!(care.query("deploy", "a#b##2"), expected);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let missing = read(Path::new("/nowhere/shop.war")).unwrap_err().to_string();
        assert!(missing.starts_with("/nowhere/shop.war: "), "{missing}");
    }
}
