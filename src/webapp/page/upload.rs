//! A file of a form in a template: `request.file('attachment')`.

use std::sync::Arc;

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Enumerator, Kwargs, Object, from_args},
};

use super::{body::Upload, session::unknown};
use crate::limits;

/// `.field .name .content_type .size`, `bytes(most)`, `text(most, encoding='utf-8')`.
#[derive(Debug)]
pub(super) struct FileObject(Arc<Upload>);

impl FileObject {
    pub(super) fn new(upload: Arc<Upload>) -> Self {
        Self(upload)
    }

    /// The content, of at most so many bytes: as many as a session takes, where the page does not say.
    fn bytes(&self, state: &State<'_, '_>, most: Option<usize>) -> Result<Vec<u8>, Error> {
        let most = most.unwrap_or(limits::SESSION_BYTES).min(limits::PAGE_BYTES);
        let Upload { name, content, .. } = &*self.0;
        if content.len() > most as u64 {
            let what = format!("the file {name:?} has {} bytes, and at most {most} are asked for here", content.len());
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
        state.consume_fuel(content.len() / 64)?;
        let unreadable = |error| Error::new(ErrorKind::InvalidOperation, format!("the file {name:?}: {error}"));
        content.read().map_err(unreadable)
    }

    fn text(&self, state: &State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let (most, named): (Option<usize>, Kwargs) = from_args(args)?;
        let label: Option<&str> = named.get("encoding")?;
        named.assert_all_used()?;
        let label = label.unwrap_or("utf-8");
        let wrong = |what: String| Error::new(ErrorKind::InvalidOperation, what);
        let encoding = encoding_rs::Encoding::for_label(label.as_bytes());
        let encoding = encoding.ok_or_else(|| wrong(format!("{label:?} is no encoding of text that is known here")))?;
        let bytes = self.bytes(state, most)?;
        let (text, _, has_errors) = encoding.decode(&bytes);
        match has_errors {
            false => Ok(Value::from(text.into_owned())),
            true => Err(wrong(format!("the file {:?} is no text in {}", self.0.name, encoding.name()))),
        }
    }
}

impl Object for FileObject {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match key {
            "field" => Some(Value::from(&self.0.field)),
            "name" => Some(Value::from(&self.0.name)),
            "content_type" => Some(Value::from(&self.0.content_type)),
            "size" => Some(Value::from(self.0.content.len())),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["field", "name", "content_type", "size"])
    }

    fn call_method(self: &Arc<Self>, state: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        match method {
            "bytes" => from_args(args).and_then(|(most,)| self.bytes(state, most)).map(Value::from_bytes),
            "text" => self.text(state, args),
            _ => Err(unknown("file", method)),
        }
    }
}
