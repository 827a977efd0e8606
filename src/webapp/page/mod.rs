//! A server page: a compiled `.j2` template that turns a request and a session's draft into an answer.
//!
//! What a template sees:
//!
//! | name | members |
//! |---|---|
//! | `session` | `get(name, default)`, `set(name, value)`, `add(name, n)`, `has`, `remove`, `renew()`, `invalidate()`, `.id`, `.is_new`, `.name` |
//! | `request` | `.method .path .query .query_string .form .json .headers .cookies .remote_addr .scheme .host .user .error`, `header(name)`, `field(name, most)` (of the form: trimmed, cut, never undefined), `form_all(name)`, `query_all(name)`, `file(name)`, `files(name)` |
//! | a file | `.field .name .content_type .size`, `bytes(most)`, `text(most, encoding='utf-8')` |
//! | `response` | `status(code)`, `header(name, value)`, `cookie(name, value, max_age=, path=, ...)`, and what ends the page: `redirect(url, code, external=)`, `send(bytes, content_type, file_name=, inline=)` |
//! | `application` | `.name .context .version .parameters` |
//! | `node` | `.route`, `.members` (each `.route .duty .me`, `.life`, another one after a restart, and of the others `.in_sync .lag_ms`), `.sessions` (`.owned .held`, of this node) |
//! | `flash` | `flash(message, kind)` keeps a message for the next page that asks `flash.take()`: each has `.message .kind` |
//! | functions | `url(path, name=value, ...)`, `asset(path)` (of a static file, with what names its content), `now()` (seconds since 1970), `csrf_field()`, `csrf_token()` |
//! | filters | `date`, `time`, `datetime` (`style, lang=, zone=`), `number(decimals, lang=)`, `hue`; beside MiniJinja's own |
//!
//! Rendering is synchronous, reads no clock and waits for nothing; fuel, nesting and size are bounded by `limits`.

mod body;
mod csrf;
mod exchange;
mod fault;
mod flash;
mod format;
mod link;
mod live;
mod output;
mod reach;
mod request;
mod response;
mod session;
mod templates;
mod upload;
mod weight;

use std::sync::Arc;

use actix_web::{
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web::Bytes,
};
use minijinja::Value;

pub(super) use self::output::{content_type, header_of};
pub(super) use self::templates::{Application, Source, Templates};
pub use self::{
    body::{Body, Content, TooManyParameters, Upload, base_name, json, parameters},
    exchange::{Follows, MemberInfo, NodeInfo},
    fault::{PageError, Place},
    request::{Request, RequestError},
};
use self::{exchange::Exchange, output::Sheet, templates::produced};
use crate::{limits, session::draft::Draft};

/// A page of one version of a webapp.
#[derive(Debug)]
pub struct Page {
    templates: Arc<Templates>,
    name: String,
    content_type: HeaderValue,
    uses_session: bool,
}

/// What a page answers.
#[derive(Debug)]
pub struct Rendered {
    /// 200 where the page names none; 303 after a redirect.
    pub status: StatusCode,
    /// What the page set, in its order, and `Cache-Control: no-store` for a page with a session that names none
    /// itself. Never a hop-by-hop header, Content-Length or Content-Type.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// By the name of what the page produces, or as it chose.
    pub content_type: HeaderValue,
    /// The body; empty after a redirect, what was sent after `response.send`.
    pub body: Bytes,
    /// The draft with what the page changed: to be committed before the answer is sent.
    pub draft: Draft,
}

impl Rendered {
    /// The draft, which leaves a blank one behind.
    pub fn take_draft(&mut self) -> Draft {
        std::mem::replace(&mut self.draft, Draft::blank())
    }
}

impl Page {
    /// The page of a template. `name` as in [`Templates`]: `/index.html.j2`.
    pub(super) fn new(templates: Arc<Templates>, name: String) -> Self {
        let content_type = content_type(produced(&name));
        let uses_session = templates.use_session(&name);
        Self { templates, name, content_type, uses_session }
    }

    /// The same page with the content type that the webapp's descriptor has for what it produces.
    pub(super) fn of_type(self, content_type: &str) -> Self {
        let mime = content_type.parse::<mime_guess::Mime>();
        Self { content_type: mime.map_or(self.content_type, |mime| header_of(&mime)), ..self }
    }

    /// Whether this page, or anything it may include, extends or import, names the session. Then it needs the
    /// session's draft and its turn; otherwise [`Draft::blank`] will do for a safe method.
    pub fn uses_session(&self) -> bool {
        self.uses_session
    }

    /// Whether a request of this method needs the session's draft: an unsafe one always does, for the CSRF token.
    pub fn needs_session(&self, method: &str) -> bool {
        self.uses_session || csrf::is_unsafe(method)
    }

    /// Renders the page.
    ///
    /// A request of an unsafe method without the session's CSRF token (form field `_csrf` or header `X-CSRF-Token`)
    /// does not reach the template: the answer is 403 and the draft is as it was.
    ///
    /// # Errors
    /// The template failed, left in the session what cannot be kept there, ran out of fuel, nested too deep or made too much; the draft is gone with it.
    pub fn render(&self, request: Request, draft: Draft, node: &Arc<NodeInfo>) -> Result<Rendered, PageError> {
        if csrf::is_unsafe(&request.method) && !csrf::accepts(&request, &draft) {
            return Ok(csrf::refusal(draft));
        }
        let exchange = Arc::new(Exchange::new(request, draft, node));
        let template = self.templates.environment.get_template(&self.name).map_err(|error| self.error(&error))?;
        let mut sheet = Sheet::default();
        let body = match template.render_captured_to(Value::from_dyn_object(exchange.clone()), &mut sheet) {
            Ok(_) => Bytes::from(sheet.into_bytes()),
            Err(_) if sheet.is_full() => return Err(self.too_large()),
            Err(error) => exchange.response.end().ok_or_else(|| self.error(&error))?,
        };
        let draft = exchange.session.take().map_err(|error| self.error(&error))?;
        let (status, mut headers, content_type) = exchange.response.take();
        if self.uses_session && !headers.iter().any(|(name, _)| *name == header::CACHE_CONTROL) {
            headers.push((header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
        }
        let content_type = content_type.unwrap_or_else(|| self.content_type.clone());
        Ok(Rendered { status, headers, content_type, body, draft })
    }

    /// Names that its template uses and does not define itself, such as `session.count`: for whoever looks for a fault.
    pub fn names(&self) -> Vec<String> {
        let template = self.templates.environment.get_template(&self.name);
        let mut names: Vec<String> = template.map(|it| it.undeclared_variables(true)).into_iter().flatten().collect();
        names.sort_unstable();
        names.truncate(limits::FAULT_NAMES);
        names
    }

    fn too_large(&self) -> PageError {
        let what = format!("the page has more than the {} bytes that are allowed", limits::PAGE_BYTES);
        PageError::new(self.templates.file(&self.name), what)
    }

    fn error(&self, error: &minijinja::Error) -> PageError {
        PageError::of(error, &self.templates, &self.name)
    }
}

impl Rendered {
    /// The body, where it is text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
