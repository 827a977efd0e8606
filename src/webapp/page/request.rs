//! `request` in a template. What costs work is done when a page asks for it.

use std::sync::{Arc, OnceLock};

use actix_web::{
    cookie::Cookie,
    http::header::{self, HeaderMap},
};
use jiff::Timestamp;
use minijinja::{
    Error, State, Value,
    value::{Enumerator, Object, from_args},
};

use super::{
    body::{Body, Upload, parameters},
    session::{SessionObject, unknown},
    upload::FileObject,
};
use crate::limits;

/// A request, as the node hands it to a page.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Upper case, as sent: `GET`, `POST`.
    pub method: String,
    /// The path within the webapp, decoded: as [`Catalog::find`](crate::webapp::Catalog::find) gave it.
    pub path: String,
    /// The query as sent, without the question mark; empty when there is none.
    pub query: String,
    /// What came with it.
    pub body: Body,
    /// All headers. Cheap to clone from actix-web's request: names and values are shared.
    pub headers: HeaderMap,
    /// The client's address without its port, as far as it is believed.
    pub remote_addr: String,
    /// `http` or `https`, as the client sees it.
    pub scheme: String,
    /// Host and port as the client sees them.
    pub host: String,
    /// When it came.
    pub now: Timestamp,
    /// What the page is to explain, if it is rendered as an error page.
    pub error: Option<RequestError>,
}

/// What went wrong with a request: `request.error` of an error page. An error page sees no session, and its method is GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// The status of the reply.
    pub code: u16,
    /// The path that was asked for, as in [`Request::path`].
    pub path: String,
    /// What the server's own page would say.
    pub message: String,
}

#[derive(Debug)]
pub(super) struct RequestObject {
    request: Request,
    session: Arc<SessionObject>,
    query: OnceLock<Arc<Pairs>>,
    form: Arc<Pairs>,
    files: Vec<Arc<Upload>>,
    cookies: OnceLock<Arc<Pairs>>,
    headers: OnceLock<Arc<Pairs>>,
}

/// Names and values; of several values of one name the last one counts.
#[derive(Debug)]
struct Pairs(Vec<(String, String)>);

impl Request {
    /// A header's value, if it is there once and is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A field of the form; the last one of that name.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.body.form.as_deref().unwrap_or_default();
        fields.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl RequestObject {
    pub(super) fn new(mut request: Request, session: Arc<SessionObject>) -> Self {
        let form = Arc::new(Pairs(request.body.form.take().unwrap_or_default()));
        let files = std::mem::take(&mut request.body.files);
        let [query, cookies, headers] = [const { OnceLock::new() }; 3];
        Self { request, session, query, form, files, cookies, headers }
    }

    /// When the request came, in seconds since 1970.
    pub(super) fn now(&self) -> i64 {
        self.request.now.as_second()
    }

    /// A query of too many fields is an empty one: the page goes on with its defaults.
    fn query(&self) -> &Arc<Pairs> {
        self.query.get_or_init(|| Arc::new(Pairs(parameters(&self.request.query).unwrap_or_default())))
    }

    /// The files of one field.
    fn files(&self, args: &[Value]) -> Result<impl DoubleEndedIterator<Item = Value>, Error> {
        let (field,): (&str,) = from_args(args)?;
        let files = self.files.iter().filter(move |file| file.field == field).cloned();
        Ok(files.map(|file| Value::from_object(FileObject::new(file))))
    }

    fn cookies(&self) -> &Arc<Pairs> {
        self.cookies.get_or_init(|| {
            let lines = self.request.headers.get_all(header::COOKIE).filter_map(|line| line.to_str().ok());
            let cookies = lines.flat_map(|line| line.split(';')).filter_map(|text| Cookie::parse_encoded(text).ok());
            let pairs = cookies.map(|cookie| (cookie.name().to_owned(), cookie.value().to_owned()));
            Arc::new(Pairs(pairs.take(limits::PARAMETERS).collect()))
        })
    }

    fn headers(&self) -> &Arc<Pairs> {
        self.headers.get_or_init(|| {
            let lines = self.request.headers.iter();
            let text = |value: &header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            Arc::new(Pairs(lines.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()))
        })
    }
}

impl Object for RequestObject {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        Some(match key {
            "method" => Value::from(&self.request.method),
            "path" => Value::from(&self.request.path),
            "query_string" => Value::from(&self.request.query),
            "remote_addr" => Value::from(&self.request.remote_addr),
            "scheme" => Value::from(&self.request.scheme),
            "host" => Value::from(&self.request.host),
            "query" => Value::from_dyn_object(self.query().clone()),
            "form" => Value::from_dyn_object(self.form.clone()),
            "cookies" => Value::from_dyn_object(self.cookies().clone()),
            "headers" => Value::from_dyn_object(self.headers().clone()),
            "json" => return self.request.body.json.clone(),
            "error" => return self.request.error.as_ref().map(described),
            "user" => return self.session.attribute("user"),
            _ => return None,
        })
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&[
            "method",
            "path",
            "query",
            "form",
            "json",
            "headers",
            "cookies",
            "remote_addr",
            "scheme",
            "host",
        ])
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        match method {
            "header" => {
                let (name,): (&str,) = from_args(args)?;
                Ok(self.request.header(name).map_or(Value::UNDEFINED, Value::from))
            }
            "field" => {
                let (name, most): (&str, Option<usize>) = from_args(args)?;
                let text = self.form.last(name).unwrap_or_default().trim();
                Ok(Value::from(text.chars().take(most.unwrap_or(usize::MAX)).collect::<String>()))
            }
            "form_all" => self.form.all(args),
            "file" => Ok(self.files(args)?.next_back().unwrap_or(Value::UNDEFINED)),
            "files" => Ok(Value::from(self.files(args)?.collect::<Vec<_>>())),
            "query_all" => self.query().all(args),
            _ => Err(unknown("request", method)),
        }
    }
}

fn described(error: &RequestError) -> Value {
    Value::from_pairs([
        ("code", Value::from(error.code)),
        ("path", Value::from(&error.path)),
        ("message", Value::from(&error.message)),
    ])
}

impl Pairs {
    fn last(&self, wanted: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    fn all(&self, args: &[Value]) -> Result<Value, Error> {
        let (name,): (&str,) = from_args(args)?;
        let values = self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| Value::from(value));
        Ok(Value::from(values.collect::<Vec<_>>()))
    }
}

impl Object for Pairs {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.last(key).map(Value::from)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in &self.0 {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        Enumerator::Values(names.into_iter().map(Value::from).collect())
    }
}
