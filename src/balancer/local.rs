//! Files of the balancer's own: what is excluded from proxying, such as the pictures of the sorry page.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use actix_files::NamedFile;
use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method,
        header::{self, HeaderValue},
    },
};

use super::{pages::Refusal, paths};
use crate::settings;

/// A path and the folder that answers for it.
pub(crate) struct Local {
    path: String,
    /// Without a symbolic link in it.
    folder: PathBuf,
}

impl Local {
    /// None when nothing is served here.
    ///
    /// # Errors
    /// The folder is not there; the text names it.
    pub(crate) fn new(settings: &settings::Static) -> io::Result<Option<Self>> {
        let (Some(folder), false) = (&settings.folder, settings.path.is_empty()) else { return Ok(None) };
        let found = fs::canonicalize(folder).map_err(|error| {
            io::Error::new(error.kind(), format!("balancer.static.folder {}: {error}", folder.display()))
        })?;
        Ok(Some(Self { path: settings.path.clone(), folder: found }))
    }

    /// Whether a request's path, however it is spelled, is answered here and by no member.
    pub(crate) fn answers_for(&self, path: &str) -> bool {
        paths::is_below(path, &self.path)
    }

    /// The file, with validators and ranges; GET and HEAD only. What begins with a dot and what a symbolic link leads to
    /// outside the folder is not there.
    ///
    /// # Errors
    /// 404 and 405.
    pub(crate) fn answer(&self, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refusal::MethodNotAllowed);
        }
        let file = self.file(request.uri().path()).ok_or(Refusal::NotFound)?;
        let file = NamedFile::open(file).map_err(|_| Refusal::NotFound)?;
        let mut response = file.prefer_utf8(true).disable_content_disposition().into_response(request);
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Ok(response)
    }

    fn file(&self, path: &str) -> Option<PathBuf> {
        let below = paths::below(path, &self.path)?;
        let plain = |name: &String| !name.starts_with('.') && !name.contains('\0');
        let wanted = below.iter().all(plain).then(|| self.folder.join(below.iter().collect::<PathBuf>()))?;
        let found = fs::canonicalize(wanted).ok()?;
        (found.starts_with(&self.folder) && is_file(&found)).then_some(found)
    }
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn local() -> (tempfile::TempDir, Local) {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("static");
        fs::create_dir_all(inside.join("css")).unwrap();
        for name in ["static/logo.svg", "static/css/a b.css", "static/.htpasswd", "secret"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        symlink("../secret", inside.join("link")).unwrap();
        symlink("logo.svg", inside.join("alias.svg")).unwrap();
        let settings = settings::Static { path: "/static".to_owned(), folder: Some(inside) };
        let local = Local::new(&settings).unwrap().unwrap();
        (folder, local)
    }

    #[test]
    fn files_below_the_folder_are_there() {
        let (_folder, local) = local();
        for path in ["/static/logo.svg", "/static/css/a%20b.css", "//static/./logo.svg", "/static/alias.svg"] {
            assert!(local.answers_for(path) && local.file(path).is_some(), "{path}");
        }
    }

    #[test]
    fn what_is_outside_hidden_or_no_file_is_not_there() {
        let (_folder, local) = local();
        for path in [
            "/static",
            "/static/",
            "/static/css",
            "/static/none",
            "/static/.htpasswd",
            "/static/%2ehtpasswd",
            "/static/link",
            "/static/../secret",
            "/static/%2e%2e/secret",
            "/static/%252e%252e%252fsecret",
            "/static/..%5csecret",
            "/static/logo.svg%00",
            "/statics/logo.svg",
        ] {
            assert_eq!(local.file(path), None, "{path}");
        }
        assert!(!local.answers_for("/statics/logo.svg"));
    }

    #[test]
    fn nothing_is_served_without_a_folder_and_a_missing_one_is_named() {
        assert!(Local::new(&settings::Static::default()).unwrap().is_none());
        let gone = settings::Static { path: "/static".to_owned(), folder: Some("/nowhere".into()) };
        assert!(Local::new(&gone).err().unwrap().to_string().starts_with("balancer.static.folder /nowhere: "));
    }
}
