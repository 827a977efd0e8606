//! `session` in a template: a draft that can be read and changed while the page is rendered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Enumerator, Kwargs, Object, ValueKind, from_args},
};

use super::{csrf, flash, live::Live};
use crate::{
    limits,
    session::{
        draft::{Draft, Refused},
        value,
    },
    webapp::VERSION_ATTRIBUTE,
};

/// Attributes are read as `session.name` or `session.get('name', default)`; `id` and `is_new` are the session's own.
#[derive(Debug)]
pub(super) struct SessionObject {
    draft: Mutex<Draft>,
    live: Mutex<Live>,
    /// Changes are found by comparison, so values may be changed in place.
    is_comparing: bool,
}

impl SessionObject {
    pub(super) fn new(draft: Draft) -> Self {
        let is_comparing = draft.is_comparing();
        Self { draft: Mutex::new(draft), live: Mutex::default(), is_comparing }
    }

    /// The draft with its changes; what is left behind is blank.
    ///
    /// # Errors
    /// A value was changed in place into one that cannot be kept in a session.
    pub(super) fn take(&self) -> Result<Draft, Error> {
        let mut draft = std::mem::replace(&mut *self.draft(), Draft::blank());
        let mut fuel = limits::PAGE_FUEL;
        let mut spend = |units: u64| {
            fuel = fuel.checked_sub(units).ok_or_else(|| Error::from(ErrorKind::OutOfFuel))?;
            Ok(())
        };
        for (name, value) in self.live().take() {
            check(&mut spend, &name, &value, 0)?;
            draft.set(&name, &value).map_err(refused)?;
        }
        draft.compare();
        Ok(draft)
    }

    /// An attribute's value, decoded; none when there is no such attribute.
    pub(super) fn attribute(&self, name: &str) -> Option<Value> {
        let decoded = || self.draft().get(name).map(decoded);
        match self.is_comparing {
            true => self.live().get(name, decoded).unwrap_or_else(|bad| Some(Value::from(bad))),
            false => decoded(),
        }
    }

    /// The CSRF token of this session, made and kept in it when there is none.
    pub(super) fn csrf_token(&self) -> Result<String, Error> {
        csrf::token_of(&mut self.draft()).map_err(refused)
    }

    /// Keeps a message for the next page that shows them.
    pub(super) fn flash(&self, message: &str, kind: &str) -> Result<(), Error> {
        flash::keep(&mut self.draft(), message, kind).map_err(refused)
    }

    /// The messages that were kept and not yet shown.
    pub(super) fn take_flashes(&self) -> Value {
        flash::take(&mut self.draft())
    }

    /// Only this rendering holds the lock, one call at a time, so it is never waited for.
    fn draft(&self) -> MutexGuard<'_, Draft> {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, args: &[Value]) -> Result<Value, Error> {
        let (name, fallback, named): (&str, Option<Value>, Kwargs) = from_args(args)?;
        let fallback = fallback.or(named.get("default")?);
        named.assert_all_used()?;
        Ok(self.attribute(name).unwrap_or_else(|| fallback.unwrap_or(Value::UNDEFINED)))
    }

    fn set(&self, state: &State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let (name, value): (&str, Value) = from_args(args)?;
        check(&mut |units| state.consume_fuel(units), name, &value, 0)?;
        self.draft().set(name, &value).map_err(refused)?;
        if self.is_comparing {
            self.live().keep(name, &value)?;
        }
        let bytes = self.draft().get(name).map_or(0, value::Value::len);
        state.consume_fuel(bytes as u64 / 64)?;
        Ok(Value::UNDEFINED)
    }

    fn add(&self, args: &[Value]) -> Result<Value, Error> {
        let (name, amount): (&str, Option<i64>) = from_args(args)?;
        self.live().forget(name);
        self.draft().add(name, amount.unwrap_or(1)).map(Value::from).map_err(refused)
    }

    fn remove(&self, args: &[Value]) -> Result<Value, Error> {
        let (name,): (&str,) = from_args(args)?;
        let before = self.attribute(name);
        self.draft().remove(name);
        self.live().forget(name);
        Ok(before.unwrap_or(Value::UNDEFINED))
    }

    fn invalidate(&self) {
        self.draft().invalidate();
        drop(self.live().take());
    }

    /// A new id after a login, and with it a new CSRF token: one that was planted before is worth nothing.
    fn renew(&self) {
        let mut draft = self.draft();
        draft.remove(csrf::ATTRIBUTE);
        draft.renew();
    }
}

impl Object for SessionObject {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match key {
            "id" => Some(self.draft().id().map_or(Value::from(()), |id| Value::from(id.to_string()))),
            "is_new" => Some(Value::from(self.draft().is_new())),
            name => self.attribute(name),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let draft = self.draft();
        let hidden = [csrf::ATTRIBUTE, flash::ATTRIBUTE, VERSION_ATTRIBUTE];
        let names = draft.attributes().map(|(name, _)| name).filter(|name| !hidden.contains(name));
        Enumerator::Values(names.map(Value::from).collect())
    }

    fn call_method(self: &Arc<Self>, state: &mut State<'_, '_>, name: &str, args: &[Value]) -> Result<Value, Error> {
        match name {
            "get" => self.get(args),
            "set" => self.set(state, args),
            "add" => self.add(args),
            "remove" => self.remove(args),
            "has" => from_args(args).map(|(name,): (&str,)| Value::from(self.draft().get(name).is_some())),
            "renew" => from_args(args).map(|(): ()| self.renew()).map(|()| Value::UNDEFINED),
            "invalidate" => from_args(args).map(|(): ()| self.invalidate()).map(|()| Value::UNDEFINED),
            _ => Err(unknown("session", name)),
        }
    }
}

/// The error for a method that an object does not have.
pub(super) fn unknown(object: &str, method: &str) -> Error {
    Error::new(ErrorKind::UnknownMethod, format!("`{object}` has no method `{method}`"))
}

fn decoded(value: &value::Value) -> Value {
    // A value that cannot be decoded came from a peer; using it fails the page with the reason.
    value.decode().unwrap_or_else(|bad| Value::from(Error::new(ErrorKind::BadSerialization, bad.to_string())))
}

fn refused(refused: Refused) -> Error {
    Error::new(ErrorKind::InvalidOperation, refused.to_string())
}

/// Refuses what is no data before it is encoded: a function would be kept as its name. Each element costs fuel.
fn check(
    spend: &mut dyn FnMut(u64) -> Result<(), Error>,
    name: &str,
    value: &Value,
    depth: usize,
) -> Result<(), Error> {
    spend(1)?;
    let wrong = |what: &str| {
        let text = format!("session attribute {name:?}: {what} cannot be kept in a session");
        Err(Error::new(ErrorKind::InvalidOperation, text))
    };
    if depth == limits::VALUE_DEPTH {
        return wrong("a value that is nested this deep");
    }
    match value.kind() {
        ValueKind::Plain | ValueKind::Invalid => wrong("an object of the server"),
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|it| check(spend, name, &it, depth + 1)),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| check(spend, name, &value.get_item(&key)?, depth + 1)),
        _ => Ok(()),
    }
}
