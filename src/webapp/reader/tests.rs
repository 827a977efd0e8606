use std::os::unix::fs::symlink;

use super::*;
use crate::webapp::{Resource, SessionTimeout, packing};

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
fn an_archive_of_the_folder_instead_of_its_content_is_remarked() {
    let place = tempfile::tempdir().unwrap();
    let (work, _) = Work::open(&place.path().join("work"));
    let read = |files: &[(&str, &[u8])]| {
        let at = place.path().join("shop.war");
        fs::write(&at, packing::packed(files)).unwrap();
        read_archive("shop", "shop.war", &at, &work).unwrap().remarks
    };
    let remarks = read(&[("shop/index.html", b"x"), ("shop/WEB-INF/web.xml", b"<web-app/>")]);
    assert!(remarks[0].contains("answers below /shop/shop/"), "{remarks:?}");
    assert_eq!(read(&[("index.html", b"x"), ("WEB-INF/web.xml", b"<web-app/>")]), [""; 0]);
    assert_eq!(read(&[("css/a.css", b"x")]), [""; 0]);
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
