//! `WEB-INF/web.xml`, the deployment descriptor of the servlet specification (Jakarta Servlet 6.0, chapter 14), as far
//! as it means something here.

mod cookie;
mod headers;
mod xml;

use std::{collections::BTreeMap, time::Duration};

use actix_web::http::header::{HeaderName, HeaderValue};

pub use self::cookie::{CookieRules, Secure};
use self::xml::Element;
use crate::{limits, names::ContextPath};

/// What a webapp says of itself. [`Descriptor::default`] is a webapp without a web.xml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// `<distributable/>`: its sessions are copied to other nodes. Without it they stay on their node.
    pub distributable: bool,
    /// When its sessions end.
    pub session_timeout: SessionTimeout,
    /// How its session cookie differs from the server's.
    pub cookie: CookieRules,
    /// Whether requests of one session wait for each other: the context parameter `session.concurrency`.
    pub concurrency: Concurrency,
    /// What answers for a folder, first one first. Tomcat's default: index.html, index.htm.
    pub welcome_files: Vec<String>,
    /// What is shown instead of the server's own error pages.
    pub error_pages: ErrorPages,
    /// `<mime-mapping>`: content types by the end of a file's name, in lower case and without its dot.
    pub content_types: BTreeMap<String, String>,
    /// On every reply that does not have them already: the context parameters `response.header.NAME`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `<display-name>`, for people.
    pub display_name: Option<String>,
    /// `<context-param>`: what pages see as `application.parameters`, in the order of the file.
    pub parameters: Vec<(String, String)>,
}

/// `<session-config><session-timeout>`: idle time, in minutes in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionTimeout {
    /// The webapp names none: the node's `session.timeout` holds.
    Unspecified,
    /// Idle time after which a session ends.
    After(Duration),
    /// 0 or less in the file: sessions end only when a page ends them.
    Never,
}

/// How requests of one session stand to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// One after the other, so that none overwrites what another has changed.
    #[default]
    Serial,
    /// Side by side.
    Parallel,
}

/// `<error-page>`: paths of pages or static files within the webapp, by status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPages {
    by_status: BTreeMap<u16, ErrorPage>,
    /// Without an `<error-code>`: for every status that has none of its own.
    other: Option<ErrorPage>,
}

/// A path, and where it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ErrorPage {
    pub(super) location: String,
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Something in the file that was understood well enough to go on, and that its author should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) line: usize,
    pub(super) what: String,
}

/// Why the file cannot be used. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) what: String,
}

const HEADER: &str = "response.header.";
const CONCURRENCY: &str = "session.concurrency";

struct Reading<'a> {
    context: &'a ContextPath,
    descriptor: Descriptor,
    remarks: Vec<Remark>,
}

/// Reads the text of a web.xml of a webapp that answers at `context`.
///
/// Elements that mean nothing here are skipped and named in the remarks.
pub(super) fn parse(source: &str, context: &ContextPath) -> Result<(Descriptor, Vec<Remark>), Malformed> {
    let root = xml::read(source, "web-app")?;
    let mut reading = Reading { context, descriptor: Descriptor::default(), remarks: Vec::new() };
    for element in &root.children {
        reading.take(element)?;
    }
    Ok((reading.descriptor, reading.remarks))
}

impl ErrorPages {
    /// The page for a status, if there is one.
    pub fn of(&self, status: u16) -> Option<&str> {
        self.by_status.get(&status).or(self.other.as_ref()).map(|page| page.location.as_str())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &ErrorPage> {
        self.by_status.values().chain(&self.other)
    }
}

impl Descriptor {
    /// The content type that `<mime-mapping>` has for a file name.
    pub fn content_type(&self, file_name: &str) -> Option<&str> {
        let (_, end) = file_name.rsplit_once('.')?;
        self.content_types.get(&end.to_ascii_lowercase()).map(String::as_str)
    }
}

impl Reading<'_> {
    fn take(&mut self, element: &Element) -> Result<(), Malformed> {
        match element.name.as_str() {
            "distributable" => self.descriptor.distributable = true,
            "display-name" => self.descriptor.display_name = Some(element.text.clone()),
            "description" => {}
            "session-config" => self.session_config(element)?,
            "welcome-file-list" => self.welcome_files(element),
            "context-param" => self.parameter(element)?,
            "error-page" => self.error_page(element)?,
            "mime-mapping" => self.content_type(element)?,
            _ => self.unused(element),
        }
        Ok(())
    }

    fn session_config(&mut self, config: &Element) -> Result<(), Malformed> {
        for child in &config.children {
            match child.name.as_str() {
                "session-timeout" => self.descriptor.session_timeout = timeout(child)?,
                "cookie-config" => {
                    let context = self.context;
                    let rules = cookie::read(child, context, &mut |child| self.unused(child))?;
                    if !rules.http_only {
                        self.remark(child, "scripts can read the session cookie: <http-only> is false".into());
                    }
                    self.descriptor.cookie = rules;
                }
                "tracking-mode" if child.text == "COOKIE" => {}
                "tracking-mode" => {
                    self.remark(child, format!("sessions are kept by cookie only, not by {}", child.text));
                }
                _ => self.unused(child),
            }
        }
        Ok(())
    }

    fn welcome_files(&mut self, list: &Element) {
        let mut files = Vec::new();
        for child in &list.children {
            match child.text.as_str() {
                _ if child.name != "welcome-file" => self.unused(child),
                file if file.is_empty() || file.starts_with('/') || file.ends_with('/') => {
                    let what = "<welcome-file> is a name without slashes at its ends, but this is";
                    self.remark(child, format!("{what} {file:?}"));
                }
                file => files.push(file.to_owned()),
            }
        }
        if !files.is_empty() {
            self.descriptor.welcome_files = files;
        }
    }

    fn parameter(&mut self, element: &Element) -> Result<(), Malformed> {
        let (Some(name), Some(value)) = (element.child("param-name"), element.child("param-value")) else {
            return Err(element.malformed("<context-param> needs <param-name> and <param-value>".into()));
        };
        if let Some(header) = name.text.strip_prefix(HEADER) {
            let header = headers::read(header, &value.text).map_err(|what| element.malformed(what))?;
            if self.descriptor.headers.len() == limits::PAGE_HEADERS {
                return Err(element.malformed(format!("there are more than {} headers", limits::PAGE_HEADERS)));
            }
            self.descriptor.headers.push(header);
        }
        if name.text == CONCURRENCY {
            self.descriptor.concurrency = concurrency(value)?;
        }
        self.descriptor.parameters.push((name.text.clone(), value.text.clone()));
        Ok(())
    }

    fn error_page(&mut self, element: &Element) -> Result<(), Malformed> {
        let location = element.text_of("location");
        if !location.starts_with('/') || location.contains(['?', '#', '\\']) {
            let what = format!("<error-page> needs a <location> such as /error.html, but this is {location:?}");
            return Err(element.malformed(what));
        }
        let page = ErrorPage { location: location.to_owned(), line: element.line, column: element.column };
        let code = element.child("error-code");
        if let Some(exception) = element.child("exception-type") {
            self.remark(
                exception,
                "<exception-type> means nothing here; a page that fails is an <error-code> 500".into(),
            );
            return Ok(());
        }
        match code.map(|code| (code, code.text.parse::<u16>())) {
            None => self.descriptor.error_pages.other = Some(page),
            Some((_, Ok(status @ 400..=599))) => drop(self.descriptor.error_pages.by_status.insert(status, page)),
            Some((code, _)) => {
                return Err(
                    code.malformed(format!("<error-code> is a status from 400 to 599, but this is {:?}", code.text))
                );
            }
        }
        Ok(())
    }

    fn content_type(&mut self, element: &Element) -> Result<(), Malformed> {
        let (end, mime) = (element.text_of("extension"), element.text_of("mime-type"));
        let is_type = mime.parse::<mime_guess::Mime>().is_ok() && HeaderValue::try_from(mime).is_ok();
        if end.is_empty() || end.contains(['/', '.']) || !is_type {
            let what = "<mime-mapping> needs an <extension> such as svg and a <mime-type> such as image/svg+xml";
            return Err(element.malformed(format!("{what}, but these are {end:?} and {mime:?}")));
        }
        self.descriptor.content_types.insert(end.to_ascii_lowercase(), mime.to_owned());
        Ok(())
    }

    fn unused(&mut self, element: &Element) {
        self.remark(element, format!("<{}> is not used by this server", element.name));
    }

    fn remark(&mut self, element: &Element, what: String) {
        if self.remarks.len() < limits::WEBAPP_REMARKS {
            self.remarks.push(Remark { line: element.line, what });
        }
    }
}

impl Default for Descriptor {
    fn default() -> Self {
        Self {
            distributable: false,
            session_timeout: SessionTimeout::Unspecified,
            cookie: CookieRules::default(),
            concurrency: Concurrency::Serial,
            welcome_files: vec!["index.html".into(), "index.htm".into()],
            error_pages: ErrorPages::default(),
            content_types: BTreeMap::new(),
            headers: Vec::new(),
            display_name: None,
            parameters: Vec::new(),
        }
    }
}

fn timeout(element: &Element) -> Result<SessionTimeout, Malformed> {
    let what = || format!("<session-timeout> is a whole number of minutes, but this is {:?}", element.text);
    let minutes: i32 = element.text.parse().map_err(|_| element.malformed(what()))?;
    let seconds = u64::try_from(minutes).unwrap_or(0) * 60;
    Ok(if seconds == 0 { SessionTimeout::Never } else { SessionTimeout::After(Duration::from_secs(seconds)) })
}

fn concurrency(value: &Element) -> Result<Concurrency, Malformed> {
    match value.text.as_str() {
        "serial" => Ok(Concurrency::Serial),
        "parallel" => Ok(Concurrency::Parallel),
        other => Err(value.malformed(format!("{CONCURRENCY} is serial or parallel, but this is {other:?}"))),
    }
}

#[cfg(test)]
mod tests;
