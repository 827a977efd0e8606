//! All templates of one webapp, compiled once for each deployment.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use minijinja::{Environment, Error, ErrorKind, State, Value, value::Kwargs};

use super::{
    csrf, exchange, fault, format::Formats, link, output, reach, request::RequestObject, session::SessionObject,
};
use crate::{limits, names::ContextPath, webapp::assets::Asset};

/// What pages see as `application`.
#[derive(Clone, Debug)]
pub(in crate::webapp) struct Application {
    pub(in crate::webapp) name: String,
    pub(in crate::webapp) context: ContextPath,
    pub(in crate::webapp) version: String,
    pub(in crate::webapp) parameters: Vec<(String, String)>,
}

/// A template as it was read.
#[derive(Clone, Debug)]
pub(in crate::webapp) struct Source {
    /// How templates name it: `/a/index.html.j2` for a page, `base.html.j2` for WEB-INF/templates/base.html.j2.
    pub(in crate::webapp) name: String,
    /// Where it is, relative to the webapps folder, for messages.
    pub(in crate::webapp) file: String,
    pub(in crate::webapp) text: String,
}

/// Compiled templates that may include each other.
#[derive(Debug)]
pub(in crate::webapp) struct Templates {
    pub(super) environment: Environment<'static>,
    /// Files by template name.
    files: BTreeMap<String, String>,
    session_users: Vec<String>,
}

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::webapp) struct Broken {
    pub(in crate::webapp) file: String,
    pub(in crate::webapp) line: Option<usize>,
    pub(in crate::webapp) column: Option<usize>,
    pub(in crate::webapp) what: String,
}

impl Templates {
    /// Compiles the templates of a webapp; the first one that does not compile, or names a template that does not
    /// exist, ends it.
    pub(in crate::webapp) fn compile(sources: Vec<Source>, application: &Application) -> Result<Self, Broken> {
        let session_users = reach::session_users(&sources);
        let missing = reach::missing(&sources);
        let formats = Formats::of(application).map_err(|what| Broken {
            file: descriptor(application),
            line: None,
            column: None,
            what,
        })?;
        let mut environment = environment(application);
        formats.add_to(&mut environment);
        let mut files = BTreeMap::new();
        for Source { name, file, text } in sources {
            environment.add_template_owned(name.clone(), text).map_err(|error| broken(&file, &error))?;
            files.insert(name, file);
        }
        match missing {
            Some(missing) => Err(missing),
            None => Ok(Self { environment, files, session_users }),
        }
    }

    /// Lets pages ask for the address of a static file: `asset('/style.css')`.
    pub(in crate::webapp) fn add_assets(&mut self, context: ContextPath, assets: HashMap<String, Arc<Asset>>) {
        let asset = move |state: &State<'_, '_>, path: &str| match assets.get(path) {
            Some(asset) => {
                let version = asset.digits().map(|digits| ("v", Value::from(digits)));
                link::url(state, &context, path, &Kwargs::from_iter(version))
            }
            None => Err(Error::new(ErrorKind::InvalidOperation, format!("{path:?} is no static file of this webapp"))),
        };
        self.environment.add_function("asset", asset);
    }

    /// The file of a template, for messages.
    pub(super) fn file(&self, name: &str) -> String {
        self.files.get(name).map_or(name, String::as_str).to_owned()
    }

    /// Whether a template, or one it reaches, names the session.
    pub(super) fn use_session(&self, name: &str) -> bool {
        self.session_users.iter().any(|user| user == name)
    }
}

/// The name of what a template produces: without `.j2`.
pub(super) fn produced(name: &str) -> &str {
    name.strip_suffix(".j2").unwrap_or(name)
}

fn environment(application: &Application) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_reload(false);
    environment.set_auto_escape_callback(output::escaping);
    environment.set_formatter(output::write_value);
    environment.set_fuel(Some(limits::PAGE_FUEL));
    environment.set_recursion_limit(limits::PAGE_RECURSION);
    // Debug information clones the template's source into each error; the line is kept without it.
    environment.set_debug(false);
    environment.add_global("application", described(application));
    let context = application.context.clone();
    environment.add_function("url", move |state: &State<'_, '_>, path: &str, query: Kwargs| {
        link::url(state, &context, path, &query)
    });
    environment.add_function("now", now);
    environment.add_function("csrf_token", |state: &State<'_, '_>| token(state).map(Value::from));
    environment.add_function("csrf_field", |state: &State<'_, '_>| token(state).map(|token| csrf::field(&token)));
    environment.add_filter("hue", exchange::hue);
    environment
}

fn described(application: &Application) -> Value {
    let parameters = application.parameters.iter().map(|(name, value)| (name.clone(), Value::from(value.clone())));
    Value::from_pairs([
        ("name", Value::from(application.name.clone())),
        ("context", Value::from(application.context.as_str())),
        ("version", Value::from(application.version.clone())),
        ("parameters", Value::from_pairs(parameters)),
    ])
}

/// When the request came: a rendering takes no time.
fn now(state: &State<'_, '_>) -> Result<i64, Error> {
    let request = state.lookup("request").and_then(|request| request.downcast_object::<RequestObject>());
    let request: Arc<RequestObject> = request.ok_or_else(|| renamed("request"))?;
    Ok(request.now())
}

/// The CSRF token of the session, made when there is none: a write.
fn token(state: &State<'_, '_>) -> Result<String, Error> {
    let session = state.lookup("session").and_then(|session| session.downcast_object::<SessionObject>());
    let session: Arc<SessionObject> = session.ok_or_else(|| renamed("session"))?;
    session.csrf_token()
}

fn renamed(name: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("`{name}` was given another meaning here"))
}

fn descriptor(application: &Application) -> String {
    format!("{}/WEB-INF/web.xml", application.name)
}

fn broken(file: &str, error: &Error) -> Broken {
    let what = error.detail().map_or(error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    let column = error.template_source().and_then(|source| fault::columns(source, error)).map(|(first, _)| first);
    Broken { file: file.to_owned(), line: error.line(), column, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_static_file_names_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::write(root.join("a b.css"), "body {}").unwrap();
        std::fs::write(root.join("large.bin"), vec![0; limits::ASSET_KEPT_BYTES as usize + 1]).unwrap();
        let context: ContextPath = "/shop".parse().unwrap();
        let application =
            Application { name: "shop".into(), context: context.clone(), version: String::new(), parameters: vec![] };
        let mut templates = Templates::compile(vec![], &application).unwrap();
        let assets = ["/a b.css", "/large.bin", "/gone.css"].map(|path| (path.to_owned(), Asset::plain(&root, path)));
        templates.add_assets(context, HashMap::from(assets));
        let rendered = |text: &str| templates.environment.render_str(text, ());
        let address = rendered("{{ asset('/a b.css') }}").unwrap();
        let digits = address.strip_prefix("/shop/a%20b.css?v=").unwrap_or_else(|| panic!("{address}"));
        assert!(digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{address}");
        assert_eq!(rendered("{{ asset('/large.bin') }}").unwrap(), "/shop/large.bin", "not read for a link");
        assert_eq!(rendered("{{ asset('/gone.css') }}").unwrap(), "/shop/gone.css");
        let wrong = rendered("{{ asset('/b.css') }}").unwrap_err().to_string();
        assert!(wrong.contains("\"/b.css\" is no static file of this webapp"), "{wrong}");
    }
}
