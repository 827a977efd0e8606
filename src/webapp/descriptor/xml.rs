//! The elements of a small XML file, with their places, and nothing that XML's attacks live in.

use quick_xml::{
    Reader,
    events::{BytesRef, Event},
};

use super::Malformed;
use crate::limits;

/// An element with its children.
#[derive(Debug, Default)]
pub(super) struct Element {
    /// Without its namespace's prefix.
    pub(super) name: String,
    /// Where it begins, both from 1.
    pub(super) line: usize,
    pub(super) column: usize,
    /// Its own text, trimmed.
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

/// Reads the one element `root` of a file.
///
/// A DOCTYPE is refused: it is where XML's attacks live, and no descriptor since Servlet 2.4 needs one.
pub(super) fn read(source: &str, root: &str) -> Result<Element, Malformed> {
    let mut tree = Tree {
        source,
        reader: Reader::from_str(source),
        root,
        open: Vec::new(),
        read: None,
        elements: 0,
        last: Place::START,
    };
    while tree.step()? {}
    tree.read.ok_or_else(|| malformed(source, source.len() as u64, format!("the file has no <{root}> element")))
}

impl Element {
    /// The first child of that name.
    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of a child; empty when there is no such child.
    pub(super) fn text_of(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| &child.text)
    }

    /// What is wrong with it.
    pub(super) fn malformed(&self, what: String) -> Malformed {
        Malformed { line: self.line, column: self.column, what }
    }
}

struct Tree<'a> {
    source: &'a str,
    reader: Reader<&'a [u8]>,
    root: &'a str,
    open: Vec<Element>,
    /// The root, when it is closed.
    read: Option<Element>,
    elements: usize,
    /// Where the last element began. The next one begins behind it: nothing is counted twice.
    last: Place,
}

/// A byte position with its line and column, both from 1.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: usize,
    line: usize,
    column: usize,
}

impl Tree<'_> {
    /// Takes one event; false at the end of the file.
    fn step(&mut self) -> Result<bool, Malformed> {
        let at = self.reader.buffer_position();
        let event = match self.reader.read_event() {
            Ok(event) => event,
            Err(error) => return Err(malformed(self.source, self.reader.error_position(), error.to_string())),
        };
        match event {
            Event::Start(tag) => self.open(tag.local_name().as_ref(), at)?,
            Event::Empty(tag) => {
                self.open(tag.local_name().as_ref(), at)?;
                self.close();
            }
            Event::End(_) => self.close(),
            Event::Text(text) => self.add(&text.xml10_content(), at)?,
            Event::CData(text) => self.add(&text.xml10_content(), at)?,
            Event::GeneralRef(entity) => {
                let unknown = || malformed(self.source, at, format!("unknown entity &{};", &*entity));
                let character = character(&entity).ok_or_else(unknown)?;
                self.add(character.encode_utf8(&mut [0; 4]), at)?;
            }
            Event::DocType(_) => {
                return Err(malformed(self.source, at, "a DOCTYPE is not read; remove the line".into()));
            }
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return self.end(at).map(|()| false),
        }
        Ok(true)
    }

    fn open(&mut self, name: &str, at: u64) -> Result<(), Malformed> {
        let wrong = |what: String| Err(malformed(self.source, at, what));
        self.elements += 1;
        if self.open.is_empty() && (self.read.is_some() || name != self.root) {
            return wrong(format!("<{name}> stands where the one root element <{}> belongs", self.root));
        }
        if self.open.len() == limits::DESCRIPTOR_DEPTH {
            return wrong(format!("elements are nested deeper than {}", limits::DESCRIPTOR_DEPTH));
        }
        if self.elements > limits::DESCRIPTOR_ELEMENTS {
            return wrong(format!("there are more than {} elements", limits::DESCRIPTOR_ELEMENTS));
        }
        self.last = self.last.on_to(self.source, at);
        let Place { line, column, .. } = self.last;
        self.open.push(Element { name: name.to_owned(), line, column, ..Element::default() });
        Ok(())
    }

    /// The reader has checked that it is the innermost one that is closed.
    fn close(&mut self) {
        let Some(mut element) = self.open.pop() else { return };
        element.text = element.text.trim().to_owned();
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None => self.read = Some(element),
        }
    }

    fn add(&mut self, text: &str, at: u64) -> Result<(), Malformed> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim().is_empty() || text.trim() == "\u{feff}" => {}
            None => {
                let at = at + (text.len() - text.trim_start().len()) as u64;
                return Err(malformed(self.source, at, format!("there is text outside of <{}>", self.root)));
            }
        }
        Ok(())
    }

    fn end(&self, at: u64) -> Result<(), Malformed> {
        match self.open.last() {
            Some(element) => Err(malformed(self.source, at, format!("<{}> is not closed", element.name))),
            None => Ok(()),
        }
    }
}

/// The character of a predefined entity or a character reference. No other entities exist without a DOCTYPE.
fn character(entity: &BytesRef<'_>) -> Option<char> {
    match &**entity {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "apos" => Some('\''),
        "quot" => Some('"'),
        _ => entity.resolve_char_ref().ok().flatten(),
    }
}

fn malformed(source: &str, position: u64, what: String) -> Malformed {
    let Place { line, column, .. } = Place::START.on_to(source, position);
    Malformed { line, column, what }
}

impl Place {
    const START: Self = Self { at: 0, line: 1, column: 1 };

    /// The place of a position that is not before this one.
    fn on_to(self, source: &str, position: u64) -> Self {
        let end = usize::try_from(position).unwrap_or(usize::MAX).min(source.len());
        let between = source.as_bytes().get(self.at..end).unwrap_or_default();
        let line_start = between.iter().rposition(|&byte| byte == b'\n').map(|at| at + 1);
        let line = self.line + between.iter().filter(|&&byte| byte == b'\n').count();
        let characters = String::from_utf8_lossy(&between[line_start.unwrap_or(0)..]).chars().count();
        let column = characters + line_start.map_or(self.column, |_| 1);
        Self { at: end, line, column }
    }
}
