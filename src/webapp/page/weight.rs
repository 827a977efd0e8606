//! Makes work cost fuel where MiniJinja counts only its result, or nothing at all.
//!
//! A list that has itself twice, which has itself twice, and so on, takes a few bytes and no end of text: it is gone through
//! here before it is printed, and costs a step for each of its elements. What stays dear for its fuel are comparisons of large
//! lists and texts, `~` of such a list, and characters picked out of a text of megabytes: no filter stands before those.

use minijinja::{
    Environment, Error, ErrorKind, State, Value, filters, tests,
    value::{Kwargs, Rest, ValueKind, ValueOrKwargs},
};

use crate::limits;

/// Puts the filters and tests of an environment behind the scales.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    let weighed = [
        ("pprint", Value::from_function(filters::pprint)),
        ("string", Value::from_function(filters::string)),
        ("escape", Value::from_function(filters::escape)),
        ("e", Value::from_function(filters::escape)),
        ("urlencode", Value::from_function(filters::urlencode)),
        ("format", Value::from_function(filters::format)),
        ("join", Value::from_function(filters::join)),
    ];
    for (name, filter) in weighed {
        environment.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            arguments.iter().try_for_each(|value| weigh(state, value))?;
            filter.call(state, &arguments)
        });
    }
    environment.add_filter("tojson", tojson);
    for (name, test) in [
        ("lower", Value::from_function(tests::is_lower)),
        ("upper", Value::from_function(tests::is_upper)),
        ("startingwith", Value::from_function(tests::is_startingwith)),
        ("endingwith", Value::from_function(tests::is_endingwith)),
    ] {
        environment.add_test(name, move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            arguments.iter().try_for_each(|value| weigh(state, value))?;
            filter_result(test.call(state, &arguments))
        });
    }
}

/// Costs a step for each value in a value, and for each 64 bytes of text.
pub(super) fn weigh(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    weigh_at(state, value, 0)
}

fn weigh_at(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > limits::PRINTED_DEPTH {
        let what = format!("a value nested deeper than {} cannot be printed", limits::PRINTED_DEPTH);
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    state.consume_fuel(1 + value.as_bytes().map_or(0, <[u8]>::len) as u64 / 64)?;
    match value.kind() {
        ValueKind::Seq => value.try_iter()?.try_for_each(|element| weigh_at(state, &element, depth + 1)),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            weigh_at(state, &key, depth + 1)?;
            weigh_at(state, &value.get_item(&key)?, depth + 1)
        }),
        _ => Ok(()),
    }
}

fn filter_result(result: Result<Value, Error>) -> Result<bool, Error> {
    result.map(|value| value.is_true())
}

fn tojson(state: &mut State<'_, '_>, value: &Value, indent: Option<usize>, named: Kwargs) -> Result<Value, Error> {
    let indent = indent.or(named.get("indent")?);
    named.assert_all_used()?;
    weigh(state, value)?;
    if indent.is_some_and(|spaces| spaces > limits::JSON_INDENT) {
        let what = format!("JSON is indented by at most {} spaces", limits::JSON_INDENT);
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    filters::tojson(value, indent.map(Value::from), Kwargs::from_iter(std::iter::empty::<(String, Value)>()))
}
