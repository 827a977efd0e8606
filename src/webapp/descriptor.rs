//! `WEB-INF/web.xml`, the deployment descriptor of the servlet specification (Jakarta Servlet 6.0, chapter 14), as far
//! as it means something here.

use std::time::Duration;

use quick_xml::{Reader, events::Event};

use crate::limits;

/// What a webapp says of itself. [`Descriptor::default`] is a webapp without a web.xml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// `<distributable/>`: its sessions are copied to other nodes. Without it they stay on their node.
    pub distributable: bool,
    /// When its sessions end.
    pub session_timeout: SessionTimeout,
    /// What answers for a folder, first one first. Tomcat's default: index.html, index.htm.
    pub welcome_files: Vec<String>,
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

/// The elements that are read, as paths below `web-app`.
const KNOWN: &[&[&str]] = &[
    &[],
    &["description"],
    &["display-name"],
    &["distributable"],
    &["session-config"],
    &["session-config", "session-timeout"],
    &["welcome-file-list"],
    &["welcome-file-list", "welcome-file"],
    &["context-param"],
    &["context-param", "description"],
    &["context-param", "param-name"],
    &["context-param", "param-value"],
];

struct Parser<'a> {
    source: &'a str,
    reader: Reader<&'a [u8]>,
    /// Local names of the open elements, the root first.
    open: Vec<String>,
    text: String,
    started: bool,
    parameter: (Option<String>, Option<String>),
    welcome_files: Vec<String>,
    descriptor: Descriptor,
    remarks: Vec<Remark>,
}

/// Reads the text of a web.xml.
///
/// Elements that mean nothing here are skipped and named in the remarks. A DOCTYPE is refused: it is where XML's
/// attacks live, and no descriptor since Servlet 2.4 needs one.
pub(super) fn parse(source: &str) -> Result<(Descriptor, Vec<Remark>), Malformed> {
    let mut parser = Parser {
        source,
        reader: Reader::from_str(source),
        open: Vec::new(),
        text: String::new(),
        started: false,
        parameter: (None, None),
        welcome_files: Vec::new(),
        descriptor: Descriptor::default(),
        remarks: Vec::new(),
    };
    while parser.step()? {}
    if !parser.welcome_files.is_empty() {
        parser.descriptor.welcome_files = parser.welcome_files;
    }
    Ok((parser.descriptor, parser.remarks))
}

impl Parser<'_> {
    /// Takes one event; false at the end of the file.
    fn step(&mut self) -> Result<bool, Malformed> {
        let event = match self.reader.read_event() {
            Ok(event) => event,
            Err(error) => return Err(self.malformed(self.reader.error_position(), error.to_string())),
        };
        match event {
            Event::Start(tag) => {
                if !self.open(tag.local_name().as_ref())? {
                    let skipped = self.reader.read_to_end(tag.name());
                    skipped.map_err(|error| self.malformed(self.reader.error_position(), error.to_string()))?;
                }
            }
            Event::Empty(tag) => {
                if self.open(tag.local_name().as_ref())? {
                    self.close()?;
                }
            }
            Event::End(_) => self.close()?,
            Event::Text(text) => self.add(&text.xml10_content())?,
            Event::CData(text) => self.add(&text.xml10_content())?,
            Event::GeneralRef(entity) => {
                let character = character(&entity);
                let character = character.ok_or_else(|| self.here(format!("unknown entity &{};", &*entity)))?;
                self.add(character.encode_utf8(&mut [0; 4]))?;
            }
            Event::DocType(_) => return Err(self.here("a DOCTYPE is not read; remove the line".into())),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return self.end().map(|()| false),
        }
        Ok(true)
    }

    /// Enters an element; false when it is not one of ours (it is not entered then).
    fn open(&mut self, name: &str) -> Result<bool, Malformed> {
        if self.open.is_empty() && (self.started || name != "web-app") {
            return Err(self.here(format!("<{name}> stands where the one root element <web-app> belongs")));
        }
        if self.open.len() == limits::DESCRIPTOR_DEPTH {
            return Err(self.here(format!("elements are nested deeper than {}", limits::DESCRIPTOR_DEPTH)));
        }
        let below: Vec<&str> = self.open.iter().skip(1).map(String::as_str).collect();
        let path = if self.open.is_empty() { below } else { [below, vec![name]].concat() };
        if !KNOWN.contains(&&*path) {
            self.remark(format!("<{name}> is not used by this server"));
            return Ok(false);
        }
        self.started = true;
        self.open.push(name.to_owned());
        self.text.clear();
        Ok(true)
    }

    fn close(&mut self) -> Result<(), Malformed> {
        let text = std::mem::take(&mut self.text).trim().to_owned();
        let path: Vec<String> = self.open.iter().skip(1).cloned().collect();
        self.open.pop();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match &*path {
            ["distributable"] => self.descriptor.distributable = true,
            ["display-name"] => self.descriptor.display_name = Some(text),
            ["session-config", "session-timeout"] => self.descriptor.session_timeout = self.timeout(&text)?,
            ["welcome-file-list", "welcome-file"] => self.welcome(text),
            ["context-param", "param-name"] => self.parameter.0 = Some(text),
            ["context-param", "param-value"] => self.parameter.1 = Some(text),
            ["context-param"] => match std::mem::take(&mut self.parameter) {
                (Some(name), Some(value)) => self.descriptor.parameters.push((name, value)),
                _ => return Err(self.here("<context-param> needs <param-name> and <param-value>".into())),
            },
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, text: &str) -> Result<(), Malformed> {
        if self.open.is_empty() && !text.trim().is_empty() && text.trim() != "\u{feff}" {
            return Err(self.here("there is text outside of <web-app>".into()));
        }
        self.text.push_str(text);
        Ok(())
    }

    fn end(&self) -> Result<(), Malformed> {
        match self.open.last() {
            Some(name) => Err(self.here(format!("<{name}> is not closed"))),
            None if !self.started => Err(self.here("the file has no <web-app> element".into())),
            None => Ok(()),
        }
    }

    fn timeout(&self, text: &str) -> Result<SessionTimeout, Malformed> {
        let what = || format!("<session-timeout> is a whole number of minutes, but this is {text:?}");
        let minutes: i32 = text.parse().map_err(|_| self.here(what()))?;
        let seconds = u64::try_from(minutes).unwrap_or(0) * 60;
        Ok(if seconds == 0 { SessionTimeout::Never } else { SessionTimeout::After(Duration::from_secs(seconds)) })
    }

    fn welcome(&mut self, file: String) {
        if file.is_empty() || file.starts_with('/') || file.ends_with('/') {
            return self.remark(format!("<welcome-file> is a name without slashes at its ends, but this is {file:?}"));
        }
        self.welcome_files.push(file);
    }

    fn remark(&mut self, what: String) {
        if self.remarks.len() < limits::WEBAPP_REMARKS {
            let (line, _) = place(self.source, self.reader.buffer_position());
            self.remarks.push(Remark { line, what });
        }
    }

    fn here(&self, what: String) -> Malformed {
        self.malformed(self.reader.buffer_position(), what)
    }

    fn malformed(&self, position: u64, what: String) -> Malformed {
        let (line, column) = place(self.source, position);
        Malformed { line, column, what }
    }
}

impl Default for Descriptor {
    fn default() -> Self {
        Self {
            distributable: false,
            session_timeout: SessionTimeout::Unspecified,
            welcome_files: vec!["index.html".into(), "index.htm".into()],
            display_name: None,
            parameters: Vec::new(),
        }
    }
}

/// The character of a predefined entity or a character reference. No other entities exist without a DOCTYPE.
fn character(entity: &quick_xml::events::BytesRef<'_>) -> Option<char> {
    match &**entity {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "apos" => Some('\''),
        "quot" => Some('"'),
        _ => entity.resolve_char_ref().ok().flatten(),
    }
}

/// Line and column of a byte position, both from 1.
fn place(source: &str, position: u64) -> (usize, usize) {
    let end = usize::try_from(position).unwrap_or(usize::MAX).min(source.len());
    let before = &source.as_bytes()[..end];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_descriptor_is_distributable() {
        let source = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<web-app xmlns=\"http://xmlns.jcp.org/xml/ns/javaee\" \
                      version=\"3.1\">\n<distributable/>\n</web-app>\n";
        let (descriptor, remarks) = parse(source).unwrap();
        assert_eq!(descriptor, Descriptor { distributable: true, ..Descriptor::default() });
        assert_eq!(remarks, []);
    }

    #[test]
    fn everything_that_is_used_is_read() {
        let source = "<!-- ours --><j:web-app xmlns:j='x'><display-name>R&amp;D <![CDATA[<shop>]]> &#x7533;</display-name>\
            <session-config><session-timeout> 5 </session-timeout></session-config><distributable></distributable>\
            <welcome-file-list><welcome-file>start.html</welcome-file><welcome-file>index.html</welcome-file>\
            </welcome-file-list><context-param><param-name>a</param-name><param-value>1</param-value></context-param>\
            <context-param><param-value/><param-name>b</param-name></context-param></j:web-app>";
        let (descriptor, remarks) = parse(source).unwrap();
        assert_eq!(remarks, []);
        assert_eq!(descriptor.display_name.as_deref(), Some("R&D <shop> 申"));
        assert_eq!(descriptor.session_timeout, SessionTimeout::After(Duration::from_secs(300)));
        assert_eq!(descriptor.welcome_files, ["start.html", "index.html"]);
        assert_eq!(descriptor.parameters, [("a".into(), "1".into()), ("b".into(), "".into())]);
        assert!(descriptor.distributable);
    }

    #[test]
    fn a_timeout_of_zero_or_less_never_ends() {
        for (text, timeout) in [("0", SessionTimeout::Never), ("-1", SessionTimeout::Never)] {
            let source = format!(
                "<web-app><session-config><session-timeout>{text}</session-timeout></session-config></web-app>"
            );
            assert_eq!(parse(&source).unwrap().0.session_timeout, timeout);
        }
    }

    #[test]
    fn unknown_elements_are_skipped_whole_and_named_with_their_line() {
        let source = "<web-app>\n<servlet>\n<distributable/><x>a</x>\n</servlet>\n\
                      <session-config>\n<cookie-config/></session-config></web-app>";
        let (descriptor, remarks) = parse(source).unwrap();
        assert!(!descriptor.distributable);
        assert_eq!(remarks.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 6]);
        assert!(remarks[0].what.contains("<servlet>") && remarks[1].what.contains("<cookie-config>"));
    }

    #[test]
    fn a_malformed_file_is_refused_with_line_and_column() {
        for (source, line, what) in [
            ("<web-app>\n  <distributable>\n</web-app>", 3, "distributable"),
            ("<web-app>\n<display-name>x", 2, "display-name"),
            ("<!DOCTYPE web-app [<!ENTITY a 'b'>]>\n<web-app/>", 1, "DOCTYPE"),
            ("<web-app>\n\n<display-name>&a;</display-name></web-app>", 3, "&a;"),
            ("<web-app/>\n<web-app/>", 2, "root"),
            ("<html/>", 1, "<html>"),
            ("", 1, "<web-app>"),
            ("<web-app/>\ntext", 2, "text"),
            (
                "<web-app><session-config>\n<session-timeout>soon</session-timeout></session-config></web-app>",
                2,
                "soon",
            ),
            ("<web-app>\n<context-param><param-name>a</param-name></context-param></web-app>", 2, "param-value"),
            ("<web-app a=b", 1, ""),
        ] {
            let fault = parse(source).expect_err(source);
            assert_eq!(fault.line, line, "{source}: {fault:?}");
            assert!(fault.what.contains(what) && fault.column > 0, "{source}: {fault:?}");
        }
    }

    #[test]
    fn many_unknown_elements_leave_a_bounded_number_of_remarks() {
        let source = format!("<web-app>{}</web-app>", "<x/>".repeat(10_000));
        assert_eq!(parse(&source).unwrap().1.len(), limits::WEBAPP_REMARKS);
    }
}
