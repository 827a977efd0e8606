//! `flash` in a template: messages for the next page that shows them, kept in the session until then. So they outlive a
//! redirect, and the node.

use std::{fmt, sync::Arc};

use minijinja::{
    Error, State, Value,
    value::{Kwargs, Object, ObjectRepr, from_args},
};
use serde::{Deserialize, Serialize};

use super::session::{SessionObject, unknown};
use crate::{
    limits,
    session::draft::{Draft, Refused},
};

/// The session attribute.
pub(super) const ATTRIBUTE: &str = "_flash";

/// `flash(message, kind='info')` and `flash.take()`.
#[derive(Debug)]
pub(super) struct FlashObject(Arc<SessionObject>);

/// One message. `kind` is the page's own word, such as the name of a CSS class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    message: String,
    kind: String,
}

impl FlashObject {
    pub(super) fn new(session: Arc<SessionObject>) -> Self {
        Self(session)
    }
}

/// Keeps a message; of too many the oldest is dropped, and a long one is cut.
pub(super) fn keep(draft: &mut Draft, message: &str, kind: &str) -> Result<(), Refused> {
    let mut messages: Vec<Message> = draft.get_as(ATTRIBUTE).unwrap_or_default();
    if messages.len() >= limits::FLASHES {
        messages.remove(0);
    }
    let cut = |text: &str, most: usize| text[..text.floor_char_boundary(most)].to_owned();
    let message = cut(message, limits::FLASH_BYTES);
    messages.push(Message { message, kind: cut(kind, limits::FLASH_KIND_BYTES) });
    draft.set(ATTRIBUTE, &messages)
}

/// The messages, the oldest first; then there are none. Nothing is written where there were none.
pub(super) fn take(draft: &mut Draft) -> Value {
    let messages: Vec<Message> = draft.get_as(ATTRIBUTE).unwrap_or_default();
    draft.remove(ATTRIBUTE);
    let value = |Message { message, kind }| Value::from_pairs([("message", message), ("kind", kind)]);
    Value::from(messages.into_iter().map(value).collect::<Vec<_>>())
}

impl Object for FlashObject {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let (message, kind, named): (Value, Option<String>, Kwargs) = from_args(args)?;
        let kind = kind.or(named.get("kind")?).unwrap_or_else(|| "info".to_owned());
        named.assert_all_used()?;
        self.0.flash(&message.to_string(), &kind).map(|()| Value::UNDEFINED)
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        match method {
            "take" => from_args(args).map(|(): ()| self.0.take_flashes()),
            _ => Err(unknown("flash", method)),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flash")
    }
}
