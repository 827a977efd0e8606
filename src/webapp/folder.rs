//! Reads webapps from folders: everything of one webapp at once, or a refusal that says where and what to do.

use std::{
    collections::{BTreeMap, HashMap, hash_map::DefaultHasher},
    fmt, fs,
    hash::{Hash, Hasher},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    app::Webapp,
    assets::{self, Asset},
    descriptor::{self, Descriptor},
    page::{Application, Page, Source, Templates},
    path::is_private,
};
use crate::{limits, names::ContextPath};

/// Why a webapp was not deployed. What was deployed under its name before goes on answering.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The file at fault, relative to the webapps folder.
    pub file: String,
    /// Line and, where known, column in it, from 1.
    pub place: Option<(usize, Option<usize>)>,
    /// What is wrong and what to do.
    pub what: String,
}

/// A file of a webapp's folder.
#[derive(Clone, Debug)]
struct File {
    /// Relative to the webapp's folder, with slashes, without one at the start.
    name: String,
    at: PathBuf,
    bytes: u64,
    modified: (i64, i64),
    inode: u64,
}

#[derive(Debug, Default)]
struct Listing {
    files: Vec<File>,
    /// What lies there and is left out.
    remarks: Vec<String>,
}

/// A webapp and what its author should know of.
#[derive(Debug)]
pub(super) struct Readout {
    pub(super) app: Webapp,
    pub(super) remarks: Vec<String>,
}

const DESCRIPTOR: &str = "WEB-INF/web.xml";
const TEMPLATES: &str = "WEB-INF/templates/";

/// The webapps of a folder by name, each with a stamp that changes when a file in it does (name, size, time, inode).
/// A webapp that cannot be listed has a stamp all the same, so that it is read and refused once.
///
/// # Errors
/// The folder itself cannot be read.
pub(super) fn stamps(webapps: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut stamps = BTreeMap::new();
    for entry in fs::read_dir(webapps)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_archive = [".war", ".zip"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
        let is_webapp = !name.starts_with('.') && (is_archive || entry.path().is_dir());
        if is_webapp && stamps.len() < limits::WEBAPPS {
            let stamp = list(&name, &entry.path()).map_or(0, |listing| stamp(&listing.files));
            stamps.insert(name, stamp);
        }
    }
    Ok(stamps)
}

/// Reads, checks and compiles one webapp.
///
/// # Errors
/// Anything in it is broken; nothing of it is used then.
pub(super) fn read(webapps: &Path, name: &str) -> Result<Readout, Refusal> {
    let context = context(name)?;
    let listing = list(name, &webapps.join(name))?;
    let mut remarks = listing.remarks;
    let descriptor = descriptor(name, &listing.files, &mut remarks)?;
    let version = version(name, &listing.files)?;
    let application = Application {
        name: display_name(name, &descriptor),
        context,
        version,
        parameters: descriptor.parameters.clone(),
    };
    let sources = sources(name, &listing.files)?;
    let pages: Vec<String> = sources.iter().map(|s| s.name.clone()).filter(|name| name.starts_with('/')).collect();
    let templates = Templates::compile(sources, &application).map_err(|broken| Refusal {
        file: broken.file,
        place: broken.line.map(|line| (line, None)),
        what: broken.what,
    })?;
    let templates = Arc::new(templates);
    let page = |name: String| {
        let produced = name.strip_suffix(".j2").unwrap_or(&name).to_owned();
        (produced, Arc::new(Page::new(templates.clone(), name)))
    };
    let assets = assets(&webapps.join(name), &listing.files, &descriptor, &mut remarks);
    let app = Webapp {
        name: name.to_owned(),
        context: application.context,
        version: application.version,
        descriptor,
        pages: pages.into_iter().map(page).collect(),
        assets,
    };
    Ok(Readout { app, remarks })
}

impl Refusal {
    fn new(file: impl Into<String>, what: impl Into<String>) -> Self {
        Self { file: file.into(), place: None, what: what.into() }
    }

    fn io(file: impl Into<String>, error: &io::Error) -> Self {
        Self::new(file, format!("cannot be read: {error}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, Some(column))) => write!(f, "{}:{line}:{column}: {}", self.file, self.what),
            Some((line, None)) => write!(f, "{}:{line}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

/// Tomcat's names: `ROOT` is the root, `a#b` is `/a/b`.
fn context(name: &str) -> Result<ContextPath, Refusal> {
    if name.ends_with(".war") || name.ends_with(".zip") {
        return Err(Refusal::new(name, "archives are not deployed; unpack it into a folder of the same name"));
    }
    if name.contains("##") {
        return Err(Refusal::new(name, "versions behind ## are not deployed; rename the folder"));
    }
    if name == "ROOT" {
        return Ok(ContextPath::root());
    }
    format!("/{}", name.replace('#', "/"))
        .parse()
        .map_err(|bad| Refusal::new(name, format!("{bad}; rename the folder")))
}

fn display_name(name: &str, descriptor: &Descriptor) -> String {
    descriptor.display_name.clone().unwrap_or_else(|| name.to_owned())
}

/// All files of a webapp that may be used, in the order of their names.
fn list(name: &str, folder: &Path) -> Result<Listing, Refusal> {
    let root = fs::canonicalize(folder).map_err(|error| Refusal::io(name, &error))?;
    let mut listing = Listing::default();
    if root.is_dir() {
        walk(name, &root, &root, "", &mut listing)?;
    }
    listing.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listing)
}

fn walk(app: &str, root: &Path, folder: &Path, prefix: &str, listing: &mut Listing) -> Result<(), Refusal> {
    if prefix.split('/').count() > limits::WEBAPP_DEPTH {
        return Err(Refusal::new(format!("{app}/{prefix}"), format!("deeper than {} folders", limits::WEBAPP_DEPTH)));
    }
    let failed = |error: io::Error| Refusal::io(format!("{app}/{prefix}"), &error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(file_name) = entry.file_name().into_string() else {
            listing.remark(format!("{app}/{prefix}{}: the name is not UTF-8", entry.file_name().display()));
            continue;
        };
        let name = format!("{prefix}{file_name}");
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            if !is_private(&file_name) || name == "WEB-INF" {
                walk(app, root, &entry.path(), &format!("{name}/"), listing)?;
            }
        } else if !file_name.starts_with('.') {
            listing.add(app, root, name, entry.path(), kind.is_symlink())?;
        }
    }
    Ok(())
}

impl Listing {
    /// Adds a file; a link only if it leads to a file inside the webapp.
    fn add(&mut self, app: &str, root: &Path, name: String, at: PathBuf, link: bool) -> Result<(), Refusal> {
        let target = if link { fs::canonicalize(&at).unwrap_or_default() } else { at };
        if link && (!target.starts_with(root) || target.is_dir() || leads_to_private(root, &target)) {
            self.remark(format!("{app}/{name}: a link that does not lead to a public file of the webapp is left out"));
            return Ok(());
        }
        // A file that vanishes between two looks is simply not there.
        let Ok(metadata) = fs::metadata(&target) else { return Ok(()) };
        if !metadata.is_file() {
            return Ok(());
        }
        if self.files.len() == limits::WEBAPP_FILES {
            return Err(Refusal::new(app, format!("more than {} files", limits::WEBAPP_FILES)));
        }
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        self.files.push(File { name, at: target, bytes: metadata.len(), modified, inode: metadata.ino() });
        Ok(())
    }

    fn remark(&mut self, what: String) {
        if self.remarks.len() < limits::WEBAPP_REMARKS {
            self.remarks.push(what);
        }
    }
}

fn leads_to_private(root: &Path, target: &Path) -> bool {
    let inside = target.strip_prefix(root).unwrap_or(target);
    inside.extension().is_some_and(|end| end == "j2") || inside.iter().any(|part| part.to_str().is_none_or(is_private))
}

fn descriptor(app: &str, files: &[File], remarks: &mut Vec<String>) -> Result<Descriptor, Refusal> {
    let Some(file) = files.iter().find(|file| file.name == DESCRIPTOR) else { return Ok(Descriptor::default()) };
    let at = format!("{app}/{DESCRIPTOR}");
    let text = text(&at, file, limits::DESCRIPTOR_BYTES)?;
    let (descriptor, notes) = descriptor::parse(&text).map_err(|malformed| Refusal {
        file: at.clone(),
        place: Some((malformed.line, Some(malformed.column))),
        what: malformed.what,
    })?;
    remarks.extend(notes.into_iter().map(|note| format!("{at}:{}: {}", note.line, note.what)));
    Ok(descriptor)
}

fn sources(app: &str, files: &[File]) -> Result<Vec<Source>, Refusal> {
    let mut left = limits::TEMPLATES_BYTES;
    let mut sources = Vec::new();
    for file in files.iter().filter(|file| file.name.ends_with(".j2")) {
        let name = match file.name.strip_prefix(TEMPLATES) {
            Some(name) => name.to_owned(),
            None if file.name.starts_with("WEB-INF/") => continue,
            None => format!("/{}", file.name),
        };
        let at = format!("{app}/{}", file.name);
        let text = text(&at, file, limits::TEMPLATE_BYTES)?;
        left = left.checked_sub(text.len() as u64).ok_or_else(|| {
            Refusal::new(app, format!("its templates have more than {} bytes", limits::TEMPLATES_BYTES))
        })?;
        sources.push(Source { name, file: at, text });
    }
    Ok(sources)
}

fn assets(
    folder: &Path,
    files: &[File],
    descriptor: &Descriptor,
    remarks: &mut Vec<String>,
) -> HashMap<String, Arc<Asset>> {
    let root = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let public = files.iter().filter(|file| !file.name.ends_with(".j2") && !file.name.starts_with("WEB-INF/"));
    let listed = |file: &File| {
        let inside = file.at.strip_prefix(&root).ok()?.to_owned();
        Some(assets::Listed { path: format!("/{}", file.name), inside, bytes: file.bytes, content_type: None })
    };
    let listed: Vec<_> = public.filter_map(listed).collect();
    let (assets, notes) = assets::collect(&root, &listed, &descriptor.parameters);
    remarks.extend(notes.into_iter().map(|note| format!("{DESCRIPTOR}: {note}")));
    assets
}

/// A text file of a bounded size, without a byte order mark.
fn text(at: &str, file: &File, most: u64) -> Result<String, Refusal> {
    let mut bytes = Vec::new();
    let open = fs::File::open(&file.at).map_err(|error| Refusal::io(at, &error))?;
    open.take(most + 1).read_to_end(&mut bytes).map_err(|error| Refusal::io(at, &error))?;
    if bytes.len() as u64 > most {
        return Err(Refusal::new(at, format!("has more than {most} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|error| Refusal {
        file: at.to_owned(),
        place: Some((
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count(),
            None,
        )),
        what: "is not UTF-8; save it as UTF-8".into(),
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn stamp(files: &[File]) -> u64 {
    let mut hasher = DefaultHasher::new();
    files.iter().for_each(|file| (&file.name, file.bytes, file.modified, file.inode).hash(&mut hasher));
    hasher.finish()
}

/// A fingerprint of names and contents, so that nodes with equal files name equal versions.
fn version(app: &str, files: &[File]) -> Result<String, Refusal> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        (&file.name, file.bytes).hash(&mut hasher);
        if file.bytes <= limits::HASHED_FILE_BYTES {
            let content = fs::read(&file.at).map_err(|error| Refusal::io(format!("{app}/{}", file.name), &error))?;
            content.hash(&mut hasher);
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::webapp::{Resource, SessionTimeout};

    fn webapps(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let at = folder.path().join(name);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, text).unwrap();
        }
        folder
    }

    fn refusal(files: &[(&str, &str)], name: &str) -> String {
        read(webapps(files).path(), name).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_folder_becomes_a_webapp() {
        let folder = webapps(&[
            ("a#b/index.html.j2", "{% extends 'base.html.j2' %}"),
            ("a#b/style.css", "a{}"),
            ("a#b/WEB-INF/templates/base.html.j2", "{{ session.count }}"),
            ("a#b/WEB-INF/web.xml", "<web-app><distributable/><servlet/></web-app>"),
        ]);
        let Readout { app, remarks } = read(folder.path(), "a#b").unwrap();
        assert_eq!((app.context().as_str(), app.descriptor().distributable), ("/a/b", true));
        assert_eq!(app.descriptor().session_timeout, SessionTimeout::Unspecified);
        assert!(matches!(app.resolve("/"), Resource::Page(page) if page.uses_session()));
        assert!(matches!(app.resolve("/style.css"), Resource::Asset(_)));
        assert!(remarks[0].starts_with("a#b/WEB-INF/web.xml:1: <servlet>"), "{remarks:?}");
    }

    #[test]
    fn what_is_private_is_never_served() {
        let folder = webapps(&[
            ("x/index.html.j2", "hello"),
            ("x/.env", "secret"),
            ("x/.git/config", "secret"),
            ("x/WEB-INF/web.xml", "<web-app/>"),
            ("x/WEB-INF/notes.txt", "secret"),
            ("x/Meta-Inf/MANIFEST.MF", "secret"),
            ("x/sub/web-inf/secret.txt", "secret"),
            ("x/sub/ok.txt", "fine"),
            ("secret.txt", "secret"),
        ]);
        let root = folder.path().join("x");
        symlink(folder.path().join("secret.txt"), root.join("out.txt")).unwrap();
        symlink(root.join("WEB-INF/notes.txt"), root.join("in.txt")).unwrap();
        symlink(folder.path(), root.join("folder")).unwrap();
        symlink(root.join("sub/ok.txt"), root.join("linked.txt")).unwrap();
        symlink(root.join("index.html.j2"), root.join("source.txt")).unwrap();
        let Readout { app, remarks } = read(folder.path(), "x").unwrap();
        let mut served: Vec<&String> = app.assets.keys().collect();
        served.sort();
        assert_eq!(served, ["/linked.txt", "/sub/ok.txt"]);
        assert_eq!(app.pages.keys().collect::<Vec<_>>(), ["/index.html"]);
        assert_eq!(remarks.len(), 4, "{remarks:?}");
        for path in ["/index.html.j2", "/.env", "/WEB-INF/web.xml", "/web-inf/web.xml", "/META-INF/MANIFEST.MF"] {
            assert!(matches!(app.resolve(path), Resource::NotFound), "{path}");
        }
    }

    #[test]
    fn a_broken_webapp_is_refused_with_file_and_line() {
        let broken = refusal(&[("x/a.html.j2", "fine\n\n{% if %}")], "x");
        assert!(broken.starts_with("x/a.html.j2:3: syntax error"), "{broken}");
        let broken = refusal(&[("x/WEB-INF/templates/b.html.j2", "\n{{ a b }}")], "x");
        assert!(broken.starts_with("x/WEB-INF/templates/b.html.j2:2: "), "{broken}");
        let broken = refusal(&[("x/WEB-INF/web.xml", "<web-app>\n<a></b></web-app>")], "x");
        assert!(broken.starts_with("x/WEB-INF/web.xml:2:"), "{broken}");
        let broken = refusal(&[("x/a.html.j2", "{% include 'nav.html.j2' %}")], "x");
        assert!(broken.contains("x/a.html.j2:1: there is no template \"nav.html.j2\""), "{broken}");
    }

    #[test]
    fn names_that_are_no_context_path_are_refused() {
        for name in ["a##2", "a#", "shop.war", "a;b"] {
            let broken = refusal(&[(&format!("{name}/index.html"), "")], name);
            assert!(broken.starts_with(name), "{broken}");
        }
        let large = "x".repeat(limits::TEMPLATE_BYTES as usize + 1);
        assert!(refusal(&[("x/a.html.j2", &large)], "x").contains("1048576"));
    }

    #[test]
    fn a_stamp_changes_with_any_file_and_a_version_with_the_content() {
        let folder = webapps(&[("x/a.css", "a"), ("x/WEB-INF/web.xml", "<web-app/>"), (".hidden/a", ""), ("note", "")]);
        let before = stamps(folder.path()).unwrap();
        let version = read(folder.path(), "x").unwrap().app.version;
        assert_eq!(before.keys().collect::<Vec<_>>(), ["x"]);
        assert_eq!(stamps(folder.path()).unwrap(), before);
        fs::write(folder.path().join("x/b.css"), "b").unwrap();
        fs::remove_file(folder.path().join("x/b.css")).unwrap();
        assert_eq!(read(folder.path(), "x").unwrap().app.version, version);
        fs::write(folder.path().join("x/a.css"), "ab").unwrap();
        assert_ne!(stamps(folder.path()).unwrap(), before);
        assert_ne!(read(folder.path(), "x").unwrap().app.version, version);
        assert!(stamps(&folder.path().join("none")).is_err());
    }
}
