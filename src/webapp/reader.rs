//! Reads a webapp whole: descriptor, pages, static files, or a refusal that says where and what to do.

use std::{
    collections::HashMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Read,
    path::Path,
    sync::Arc,
};

use actix_web::http::header::HeaderValue;

use super::{
    app::{ErrorPage, Tally, Webapp},
    archive::{self, Fault},
    assets::{Asset, Listed, collect},
    descriptor::{self, Descriptor},
    listing::{File, list},
    name::AppName,
    page::{self, Application, Page, Source, Templates},
    refusal::Refusal,
    work::Work,
};
use crate::{limits, names::ContextPath};

/// A webapp and what its author should know of.
#[derive(Debug)]
pub(super) struct Readout {
    pub(super) app: Webapp,
    pub(super) remarks: Vec<String>,
}

const DESCRIPTOR: &str = "WEB-INF/web.xml";
const TEMPLATES: &str = "WEB-INF/templates/";

/// Reads, checks and compiles the webapp in a folder. `label` stands for the folder in messages.
///
/// # Errors
/// Anything in it is broken; nothing of it is used then.
pub(super) fn read_folder(name: &str, label: &str, folder: &Path) -> Result<Readout, Refusal> {
    let name: AppName = name.parse().map_err(|why: String| Refusal::new(label, why))?;
    let listing = list(label, folder)?;
    let mut remarks = listing.remarks;
    let descriptor = descriptor(label, name.context(), &listing.files, &mut remarks)?;
    let version = version(label, &listing.files)?;
    let application = Application {
        name: descriptor.display_name.clone().unwrap_or_else(|| name.full().to_owned()),
        context: name.context().clone(),
        version: version.clone(),
        parameters: descriptor.parameters.clone(),
    };
    let assets = assets(label, folder, &listing.files, &descriptor, &mut remarks);
    let pages = pages(sources(label, &listing.files)?, &application, &descriptor, &assets)?;
    let error_pages = error_pages(label, &descriptor, &pages, &listing.files)?;
    let tally = Tally::default();
    let app = Webapp { name, version, descriptor, pages, assets, error_pages, unpacked: None, tally };
    Ok(Readout { app, remarks })
}

/// The same for an archive, which is unpacked to where only this process works.
///
/// # Errors
/// It is not complete, or anything in it is broken; nothing of it is left then.
pub(super) fn read_archive(name: &str, label: &str, at: &Path, work: &Work) -> Result<Readout, Fault> {
    // It names a folder.
    let _: AppName = name.parse().map_err(|why: String| Fault::Refused(Refusal::new(label, why)))?;
    let no_room = |error| {
        Fault::Refused(Refusal::new(label, format!("cannot be unpacked into {}: {error}", work.folder().display())))
    };
    let unpacked = work.unpack(name, |into| archive::unpack(label, at, into), no_room)?;
    let mut readout = read_folder(name, label, unpacked.folder()).map_err(Fault::Refused)?;
    readout.app.unpacked = Some(unpacked);
    Ok(readout)
}

/// What the descriptor's error pages are. One that is not there would be missed when it is needed.
fn error_pages(
    label: &str,
    descriptor: &Descriptor,
    pages: &HashMap<String, Arc<Page>>,
    files: &[File],
) -> Result<HashMap<String, ErrorPage>, Refusal> {
    let mut found = HashMap::new();
    for wanted in descriptor.error_pages.all() {
        let location = &wanted.location;
        let place = Some((wanted.line, Some(wanted.column)));
        let refused = |what: String| Refusal { file: format!("{label}/{DESCRIPTOR}"), place, what };
        let is_hidden = location.starts_with("/WEB-INF/") || location.ends_with(".j2");
        let public = |file: &&File| !is_hidden && location[1..] == file.name;
        let page = match (pages.get(location), files.iter().find(public)) {
            (Some(page), _) => ErrorPage::Page(page.clone()),
            (None, Some(file)) => {
                let body = content(&file.at, limits::ERROR_PAGE_BYTES)
                    .map_err(|what| refused(format!("the error page {location:?} {what}")))?;
                ErrorPage::Static { content_type: content_type(descriptor, location), body: body.into() }
            }
            (None, None) => {
                return Err(refused(format!("there is no page and no static file for the error page {location:?}")));
            }
        };
        found.insert(location.clone(), page);
    }
    Ok(found)
}

fn content_type(descriptor: &Descriptor, name: &str) -> HeaderValue {
    match descriptor.content_type(name).map(str::parse) {
        Some(Ok(declared)) => page::header_of(&declared),
        _ => page::content_type(name),
    }
}

fn pages(
    sources: Vec<Source>,
    application: &Application,
    descriptor: &Descriptor,
    assets: &HashMap<String, Arc<Asset>>,
) -> Result<HashMap<String, Arc<Page>>, Refusal> {
    let pages: Vec<String> = sources.iter().map(|s| s.name.clone()).filter(|name| name.starts_with('/')).collect();
    let mut templates = Templates::compile(sources, application).map_err(|broken| Refusal {
        file: broken.file,
        place: broken.line.map(|line| (line, broken.column)),
        what: broken.what,
    })?;
    templates.add_assets(application.context.clone(), assets.clone());
    let templates = Arc::new(templates);
    let page = |name: String| {
        let produced = name.strip_suffix(".j2").unwrap_or(&name).to_owned();
        let page = Page::new(templates.clone(), name);
        let page = match descriptor.content_type(&produced) {
            Some(content_type) => page.of_type(content_type),
            None => page,
        };
        (produced, Arc::new(page))
    };
    Ok(pages.into_iter().map(page).collect())
}

fn descriptor(
    app: &str,
    context: &ContextPath,
    files: &[File],
    remarks: &mut Vec<String>,
) -> Result<Descriptor, Refusal> {
    let Some(file) = files.iter().find(|file| file.name == DESCRIPTOR) else { return Ok(Descriptor::default()) };
    let at = format!("{app}/{DESCRIPTOR}");
    let text = text(&at, file, limits::DESCRIPTOR_BYTES)?;
    let (descriptor, notes) = descriptor::parse(&text, context).map_err(|malformed| Refusal {
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
    app: &str,
    folder: &Path,
    files: &[File],
    descriptor: &Descriptor,
    remarks: &mut Vec<String>,
) -> HashMap<String, Arc<Asset>> {
    let root = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let public = files.iter().filter(|file| !file.name.ends_with(".j2") && !file.name.starts_with("WEB-INF/"));
    let listed = |file: &File| {
        let inside = file.at.strip_prefix(&root).ok()?.to_owned();
        let path = format!("/{}", file.name);
        let content_type = descriptor.content_type(&path).map(str::to_owned);
        Some(Listed { path, inside, bytes: file.bytes, content_type })
    };
    let listed: Vec<_> = public.filter_map(listed).collect();
    let (assets, notes) = collect(&root, &listed, &descriptor.parameters);
    remarks.extend(notes.into_iter().map(|note| format!("{app}/{DESCRIPTOR}: {note}")));
    assets
}

/// A file of a bounded size, or what is wrong with it.
fn content(at: &Path, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = fs::File::open(at).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > most { Err(format!("has more than {most} bytes")) } else { Ok(bytes) }
}

/// A text file of a bounded size, without a byte order mark.
fn text(at: &str, file: &File, most: u64) -> Result<String, Refusal> {
    let bytes = content(&file.at, most).map_err(|what| Refusal::new(at, what))?;
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

    fn read(webapps: &Path, name: &str) -> Result<Readout, Refusal> {
        read_folder(name, name, &webapps.join(name))
    }

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
        assert!(broken.starts_with("x/a.html.j2:3:7: syntax error"), "{broken}");
        let broken = refusal(&[("x/WEB-INF/templates/b.html.j2", "\n{{ a b }}")], "x");
        assert!(broken.starts_with("x/WEB-INF/templates/b.html.j2:2:6: "), "{broken}");
        let broken = refusal(&[("x/WEB-INF/web.xml", "<web-app>\n<a></b></web-app>")], "x");
        assert!(broken.starts_with("x/WEB-INF/web.xml:2:"), "{broken}");
        let broken = refusal(&[("x/a.html.j2", "{% include 'nav.html.j2' %}")], "x");
        assert!(broken.contains("x/a.html.j2:1: there is no template \"nav.html.j2\""), "{broken}");
    }

    #[test]
    fn names_that_are_no_context_path_are_refused() {
        for name in ["a##", "a#", "a;b"] {
            let broken = refusal(&[(&format!("{name}/index.html"), "")], name);
            assert!(broken.starts_with(name), "{broken}");
        }
        let large = "x".repeat(limits::TEMPLATE_BYTES as usize + 1);
        assert!(refusal(&[("x/a.html.j2", &large)], "x").contains("1048576"));
    }

    #[test]
    fn a_version_changes_with_the_content_only() {
        let folder = webapps(&[("x/a.css", "a"), ("x/WEB-INF/web.xml", "<web-app/>")]);
        let version = read(folder.path(), "x").unwrap().app.version;
        fs::write(folder.path().join("x/b.css"), "b").unwrap();
        fs::remove_file(folder.path().join("x/b.css")).unwrap();
        assert_eq!(read(folder.path(), "x").unwrap().app.version, version);
        fs::write(folder.path().join("x/a.css"), "ab").unwrap();
        assert_ne!(read(folder.path(), "x").unwrap().app.version, version);
    }
}
