//! Values of the session that a page has in its hands and may change in place, where `session.dirty_flag` is false.
//!
//! A template can assign to the fields of a namespace and to nothing else. So a map of the session is given to the page as
//! a namespace, the same one as often as it asks, and what the page sets is remembered as it is, because it may hold a
//! namespace too. In the end each is encoded again, and compared with what the session had.

use std::collections::BTreeMap;

use minijinja::{
    Error, Value, functions,
    value::{ValueKind, ValueOrKwargs, from_args},
};

/// The values by their attributes.
#[derive(Debug, Default)]
pub(super) struct Live(BTreeMap<String, Value>);

impl Live {
    /// The value of an attribute as the page has it, or, the first time, as it can be changed.
    ///
    /// # Errors
    /// What makes the value useless in itself.
    pub(super) fn get(&mut self, name: &str, decoded: impl FnOnce() -> Option<Value>) -> Result<Option<Value>, Error> {
        if let Some(value) = self.0.get(name) {
            return Ok(Some(value.clone()));
        }
        let Some(value) = decoded() else { return Ok(None) };
        self.keep(name, &value)?;
        Ok(Some(self.0.get(name).cloned().unwrap_or(value)))
    }

    /// The attribute has this value now, which is data. What cannot change is not kept.
    ///
    /// # Errors
    /// What makes the value useless in itself.
    pub(super) fn keep(&mut self, name: &str, value: &Value) -> Result<(), Error> {
        self.0.remove(name);
        if matches!(value.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable) {
            self.0.insert(name.to_owned(), assignable(value)?);
        }
        Ok(())
    }

    /// The attribute has another value now, or none.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// All of them, once.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (String, Value)> + use<> {
        std::mem::take(&mut self.0).into_iter()
    }
}

/// The same value with namespaces for its maps, at any depth. A map with other keys than names stays as it is: a namespace
/// could not hold it. So does a namespace, for the page may have it in its hands. The depth is bounded by what can be kept in
/// a session.
fn assignable(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map if is_namespace(value) => Ok(value.clone()),
        ValueKind::Seq => {
            let elements: Vec<Value> =
                value.try_iter()?.map(|element| assignable(&element)).collect::<Result<_, _>>()?;
            Ok(Value::from(elements))
        }
        ValueKind::Map if value.try_iter()?.all(|key| key.as_str().is_some()) => {
            let field = |key: Value| Ok::<_, Error>((key.clone(), assignable(&value.get_item(&key)?)?));
            let fields: BTreeMap<Value, Value> = value.try_iter()?.map(field).collect::<Result<_, _>>()?;
            let (fields,): (Option<ValueOrKwargs>,) = from_args(&[Value::from_pairs(fields)])?;
            functions::namespace(fields)
        }
        _ => Ok(value.clone()),
    }
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}
