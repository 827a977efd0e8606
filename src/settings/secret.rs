//! The secret that the members of a cluster share, and the file it stands in.
//!
//! ```text
//! 9f0c...   64 hex digits, one secret a line: the first one seals, each of them opens
//! 41d7...   a second one only while a secret is replaced
//! ```
//!
//! Empty lines and lines that begin with `#` do not count. A secret is never shown: not in errors, not by `Debug`.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use blake2::{
    Blake2sMac256,
    digest::{KeyInit, Mac},
};
use rustix::fs::OFlags;

use super::{Cluster, Refusal};
use crate::limits;

/// Where `tasuki secret` puts a new one when no other file is named, relative to the working directory.
pub const DEFAULT_SECRET_FILE: &str = "conf/secret";

/// One key for one use.
pub type Key = [u8; 32];

/// What the members of a cluster know and nobody else does.
#[derive(Clone)]
pub struct Secret(Vec<[u8; 32]>);

impl Secret {
    /// A new one from the operating system's random source.
    ///
    /// # Errors
    /// The operating system gives none.
    pub fn draw() -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(vec![bytes]))
    }

    /// The secrets that a file's text holds.
    ///
    /// # Errors
    /// What is wrong, as words that follow a file's name; nothing of the text is repeated.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let secret = |(at, line)| from_hex(line).ok_or_else(|| format!("line {} is not 64 hex digits", at + 1));
        let secrets: Vec<_> = lines.map(secret).collect::<Result<_, _>>()?;
        match secrets.len() {
            0 => Err("it holds no secret".to_owned()),
            count if count > limits::SECRETS => Err(format!("it holds more than {} secrets", limits::SECRETS)),
            _ => Ok(Self(secrets)),
        }
    }

    /// Writes it into a new file that only this user can read.
    ///
    /// # Errors
    /// There is something at the path already, or the file cannot be written.
    pub fn write_new(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let lines: Vec<String> = self.0.iter().map(|secret| to_hex(secret) + "\n").collect();
        let written = file.write_all(lines.concat().as_bytes()).and_then(|()| file.sync_all());
        // A part of a secret would be in the way of the next try.
        written.inspect_err(|_| drop(fs::remove_file(path)))
    }

    /// The keys for one purpose, the one that seals first. Keys of different purposes tell nothing of each other
    /// (BLAKE2s with a key, RFC 7693, as the derivation).
    pub fn keys(&self, purpose: &str) -> Vec<Key> {
        let key = |secret: &[u8; 32]| {
            let mac = <Blake2sMac256 as KeyInit>::new(secret.into());
            mac.chain_update(purpose.as_bytes()).finalize().into_bytes().into()
        };
        self.0.iter().map(key).collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

impl Cluster {
    /// Reads the secret, if a file is named.
    ///
    /// # Errors
    /// [`Refusal::Missing`], which names the file and what to do: it is not there, others than its owner may read it, or
    /// it is no secret. A member that does not get its secret must not start.
    pub fn secret(&self) -> Result<Option<Secret>, Refusal> {
        let Some(path) = &self.secret_file else { return Ok(None) };
        let refuse = |problem| Refusal::Missing { key: "cluster.secret_file", path: path.clone(), problem };
        read(path).map(Some).map_err(refuse)
    }
}

fn read(path: &Path) -> Result<Secret, String> {
    let make = format!("make one with \"tasuki secret {}\", or copy that of the other machines", path.display());
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no such file; {make}"),
        io::ErrorKind::InvalidData => format!("this is no text; remove it, then {make}"),
        _ => format!("cannot be read: {error}"),
    };
    // Nobody has to write into a pipe before it is refused.
    let open = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = open.map_err(unreadable)?;
    let make = format!("remove it, then {make}");
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err(format!("this is not a file; {make}"));
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("others than its owner may use it (mode {mode:03o}); run: chmod 600 {}", path.display()));
    }
    let mut text = String::new();
    file.take(limits::SECRET_FILE_BYTES as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() > limits::SECRET_FILE_BYTES {
        return Err(format!("it has more than {} bytes; {make}", limits::SECRET_FILE_BYTES));
    }
    Secret::parse(&text).map_err(|problem| format!("{problem}; {make}"))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (digits.len() == 64).then(|| bytes.try_into().ok())?
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF";
    const B: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn what_was_written_is_read_again_and_nothing_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("conf/secret");
        let secret = Secret::draw().unwrap();
        secret.write_new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap().len(), 65);
        assert_eq!(read(&path).unwrap().0, secret.0);
        assert_eq!(Secret::draw().unwrap().write_new(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path).unwrap().0, secret.0);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o666] {
            let (_folder, path) = written(A, mode);
            let cluster = Cluster { secret_file: Some(path.clone()), ..Cluster::default() };
            let refusal = cluster.secret().unwrap_err().to_string();
            assert!(refusal.starts_with("cluster.secret_file = "), "{refusal}");
            assert!(refusal.ends_with(&format!("run: chmod 600 {}", path.display())), "{refusal}");
        }
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_repeated() {
        let short = &A[2..];
        let three = format!("{A}\n{B}\n{A}");
        let long = "#".repeat(limits::SECRET_FILE_BYTES + 1);
        for (text, problem) in [
            ("", "it holds no secret"),
            ("# only a remark\n", "it holds no secret"),
            (short, "line 1 is not 64 hex digits"),
            (&format!("{A}\nxyz"), "line 2 is not 64 hex digits"),
            (&three, "it holds more than 2 secrets"),
            (&long, "it has more than 4096 bytes"),
        ] {
            let (_folder, path) = written(text, 0o600);
            let refusal = read(&path).unwrap_err();
            assert!(refusal.starts_with(problem), "{refusal}");
            let remedy = format!("; remove it, then make one with \"tasuki secret {}\"", path.display());
            assert!(refusal.contains(&remedy), "{refusal}");
            assert!(!refusal.contains("xyz") && !refusal.contains("abcdef"), "{refusal}");
        }
        assert!(read(Path::new("/nowhere/secret")).unwrap_err().starts_with("there is no such file"));
        assert!(read(Path::new("/")).unwrap_err().starts_with("this is not a file"));
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        assert!(read(&path).unwrap_err().starts_with("this is not a file"));
    }

    #[test]
    fn a_second_line_is_a_second_secret() {
        let both = Secret::parse(&format!("# new\n{A}\n\n# old\n{B}\n")).unwrap();
        let (a, b) = (Secret::parse(A).unwrap(), Secret::parse(B).unwrap());
        assert_eq!(both.keys("x"), [a.keys("x"), b.keys("x")].concat());
        assert_eq!(both.keys("x").len(), 2);
    }

    #[test]
    fn each_purpose_has_a_key_of_its_own_that_does_not_change() {
        let secret = Secret::parse(A).unwrap();
        assert_ne!(secret.keys("datagrams"), secret.keys("links"));
        // Computed with another implementation: hashlib.blake2s(b"links", key=...) of Python.
        assert_eq!(
            to_hex(&secret.keys("links")[0]),
            "5934230a5699f3b968fd43d48d120e9edbd17858fff959c1409b62960a29801e"
        );
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::parse(A).unwrap()), "Secret(not shown)");
    }
}
