//! What came with a request: the fields of a form, its files, or a JSON value. Who reads it off the network is the node.

use std::{fmt, fs::File, io, os::unix::fs::FileExt, sync::Arc};

use actix_web::web::Query;
use minijinja::Value;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::limits;

/// A request's body. [`Body::default`] is a request without one.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The fields of a form, in its order; none when the body is no form.
    pub form: Option<Vec<(String, String)>>,
    /// The files of a form, in its order.
    pub files: Vec<Arc<Upload>>,
    /// The value of a JSON body, see [`json`].
    pub json: Option<Value>,
}

/// A file that came with a form. What it took goes when it is dropped, and with the process however that ends.
#[derive(Debug)]
pub struct Upload {
    /// The form's field.
    pub field: String,
    /// What the client calls it: the last part of its path, see [`base_name`].
    pub name: String,
    /// What the client takes it for; nobody has looked inside.
    pub content_type: String,
    /// The bytes.
    pub content: Content,
}

/// Where the bytes of a file are.
pub enum Content {
    /// A short one.
    Memory(Vec<u8>),
    /// A file without a name, and how many bytes it has.
    File(File, u64),
}

/// A query or a form has more than [`limits::PARAMETERS`] fields: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a query or form has at most {max} fields", max = limits::PARAMETERS)]
pub struct TooManyParameters;

/// Takes `a=1&b=2` apart, percent-decoded, as the URL standard has it (application/x-www-form-urlencoded).
///
/// # Errors
/// It has more than [`limits::PARAMETERS`] fields. Anything else means something, if only a strange name.
pub fn parameters(encoded: &str) -> Result<Vec<(String, String)>, TooManyParameters> {
    if encoded.bytes().filter(|&byte| byte == b'&').count() >= limits::PARAMETERS {
        return Err(TooManyParameters);
    }
    Query::from_query(encoded).map(Query::into_inner).map_err(|_| TooManyParameters)
}

/// Reads a JSON text (RFC 8259) as a value for a page: nested no deeper than what a session can keep, and of a bounded
/// number of values, because each takes some dozen times the room of its text. Of a name that stands twice the last counts.
///
/// # Errors
/// What is wrong, with line and column.
pub fn json(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut left = limits::JSON_VALUES;
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Bounded { depth: 0, left: &mut left }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// The last part of what a client calls a file, whatever slashes its system has, without what could deceive a reader:
/// control characters, and those that turn the direction of the text (`exe.txt` is `txt.exe` then).
pub fn base_name(claimed: &str) -> String {
    let last = claimed.rsplit(['/', '\\']).next().unwrap_or_default();
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut name: String = last.chars().filter(|c| !c.is_control() && !turns(*c)).collect();
    let most = name.floor_char_boundary(limits::FILE_NAME_BYTES);
    name.truncate(most);
    match name.trim() {
        "" | "." | ".." => "file".to_owned(),
        name => name.to_owned(),
    }
}

impl Content {
    /// How many bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, size) => *size,
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes, as often as they are asked for. The caller has looked how many there are.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Memory(bytes) => Ok(bytes.clone()),
            Self::File(file, size) => {
                let mut bytes = vec![0; usize::try_from(*size).map_err(io::Error::other)?];
                file.read_exact_at(&mut bytes, 0)?;
                Ok(bytes)
            }
        }
    }
}

impl fmt::Debug for Content {
    /// Only the size: it is a user's file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// Reads one value of at most so many, and those in it.
struct Bounded<'a> {
    depth: usize,
    left: &'a mut usize,
}

impl Bounded<'_> {
    fn inner(&mut self) -> Bounded<'_> {
        Bounded { depth: self.depth + 1, left: self.left }
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > limits::JSON_DEPTH {
            return Err(D::Error::custom(format!("values are nested deeper than {}", limits::JSON_DEPTH)));
        }
        let too_many = || D::Error::custom(format!("there are more than {} values", limits::JSON_VALUES));
        *self.left = self.left.checked_sub(1).ok_or_else(too_many)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::from(()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(self.inner())? {
            values.push(value);
        }
        Ok(Value::from(values))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            pairs.push((name, members.next_value_seed(self.inner())?));
        }
        Ok(Value::from_pairs(pairs))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_form_is_decoded_and_bounded() {
        let pairs = parameters("a=1&b=%E7%94%B3+x&a=2&plain").unwrap();
        let expected = [("a", "1"), ("b", "申 x"), ("a", "2"), ("plain", "")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(parameters(&"a&".repeat(limits::PARAMETERS)), Err(TooManyParameters));
        assert!(parameters("%ff=%f&=&&x=%").is_ok());
    }

    #[test]
    fn json_is_read_as_it_is_written() {
        let value =
            json(br#" {"a": [1, -2, 2.5, true, null, "\u7533<b>"], "b": {}, "a2": 18446744073709551615} "#).unwrap();
        assert_eq!(value.get_attr("a").unwrap().to_string(), "[1, -2, 2.5, True, None, '申<b>']");
        assert_eq!(value.get_attr("a2").unwrap().to_string(), u64::MAX.to_string());
        assert_eq!(json(br#"{"a": 1, "a": 2}"#).unwrap().get_attr("a").unwrap(), Value::from(2));
    }

    #[test]
    fn json_that_cannot_be_read_is_refused_with_its_place() {
        let refused = |text: &str| json(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(refused("{\n \"a\": x}"), "expected value at line 2 column 7");
        assert!(refused("{} {}").starts_with("trailing characters at line 1"));
        assert!(refused("").starts_with("EOF") && refused("[1,]").contains("line 1 column 4"));
        assert!(json(b"\"\xff\"").is_err(), "only UTF-8 is JSON");
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(json(nested(limits::JSON_DEPTH + 1).as_bytes()).is_ok());
        assert!(refused(&nested(limits::JSON_DEPTH + 2)).contains("nested deeper than 24 at line 1"));
        let many = format!("[{}1]", "1,".repeat(limits::JSON_VALUES));
        assert!(refused(&many).contains("more than 100000 values"));
    }

    #[test]
    fn a_file_is_called_by_the_last_part_of_its_path() {
        for (claimed, name) in [
            ("報告書.pdf", "報告書.pdf"),
            ("C:\\Users\\a\\b.txt", "b.txt"),
            ("../../etc/passwd", "passwd"),
            ("a\r\nSet-Cookie: x", "aSet-Cookie: x"),
            ("txt.\u{202e}exe", "txt.exe"),
            ("..", "file"),
            ("/", "file"),
        ] {
            assert_eq!(base_name(claimed), name, "{claimed:?}");
        }
        assert_eq!(base_name(&"申".repeat(200)).len(), 255);
    }

    #[test]
    fn a_file_is_read_as_often_as_it_is_asked_for() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"\x00\xffabc").unwrap();
        let content = Content::File(file, 5);
        for _ in 0..2 {
            assert_eq!(content.read().unwrap(), b"\x00\xffabc");
        }
        assert_eq!((content.len(), format!("{content:?}").as_str()), (5, "5 bytes"));
    }
}
