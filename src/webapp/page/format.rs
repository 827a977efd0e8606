//! Dates, times and numbers for people: filters `date`, `time`, `datetime` and `number`, in the page's language and time
//! zone. The patterns are CLDR's, but for two: short English dates are ISO's, because 11/12 is December here and November
//! there, and hours count to 24.
//!
//! The language is the filter's `lang`, else the template's variable `lang`, else the webapp's parameter `language`, else
//! English. Where it is neither English nor Japanese dates are ISO's and numbers are not grouped. The zone is the filter's
//! `zone`, else the webapp's parameter `time_zone`, else the machine's, else UTC. Zones that the machine does not know
//! (a container without tzdata) come with the program.

use std::sync::Arc;

use jiff::{
    Timestamp, ZonedDateTime,
    civil::{Date, DateTime, Weekday},
    fmt::strtime,
    tz::TimeZone,
};
use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{Kwargs, ValueKind},
};

use super::templates::Application;

/// What holds where a page does not say.
#[derive(Clone, Debug)]
pub(super) struct Formats {
    language: String,
    zone: TimeZone,
}

/// What a value says of time.
enum When {
    /// A moment, and where it is looked at from.
    Moment(ZonedDateTime),
    /// Date and time on some wall.
    Wall(DateTime),
    /// A day.
    Day(Date),
}

/// What is to be shown of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Date,
    Time,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Language {
    English,
    Japanese,
    Other,
}

impl Formats {
    /// As the webapp's parameters say.
    ///
    /// # Errors
    /// Its time zone does not exist.
    pub(super) fn of(application: &Application) -> Result<Self, String> {
        let parameter = |wanted: &str| {
            let found = application.parameters.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str())
        };
        let zone = match parameter("time_zone") {
            Some(name) => {
                TimeZone::get(name).map_err(|_| format!("time_zone is {name:?}, and there is no such time zone"))?
            }
            None => TimeZone::try_system().unwrap_or(TimeZone::UTC),
        };
        Ok(Self { language: parameter("language").unwrap_or("en").to_owned(), zone })
    }

    /// Gives an environment the filters.
    pub(super) fn add_to(self, environment: &mut Environment<'static>) {
        let formats = Arc::new(self);
        for (name, part) in [("date", Part::Date), ("time", Part::Time), ("datetime", Part::Both)] {
            let formats = formats.clone();
            let filter = move |state: &State<'_, '_>, value: &Value, style: Option<&str>, named: Kwargs| {
                formats.shown(state, value, part, style, &named)
            };
            environment.add_filter(name, filter);
        }
        let number = move |state: &State<'_, '_>, value: &Value, decimals: Option<usize>, named: Kwargs| {
            let language = formats.language(state, &named)?;
            named.assert_all_used()?;
            number(value, decimals, language)
        };
        environment.add_filter("number", number);
    }

    fn shown(
        &self,
        state: &State<'_, '_>,
        value: &Value,
        part: Part,
        style: Option<&str>,
        named: &Kwargs,
    ) -> Result<String, Error> {
        let language = self.language(state, named)?;
        let zone = match named.get::<Option<&str>>("zone")? {
            Some(name) => TimeZone::get(name).map_err(|_| wrong(format!("there is no time zone {name:?}")))?,
            None => self.zone.clone(),
        };
        named.assert_all_used()?;
        // A field that was left empty.
        if matches!(value.kind(), ValueKind::Undefined | ValueKind::None) || value.as_str() == Some("") {
            return Ok(String::new());
        }
        let when = When::of(value, zone)?;
        let pattern = pattern(&when, part, style, language)?;
        let text = when.format(&pattern)?;
        Ok(if text.contains(WEEKDAY) { text.replace(WEEKDAY, japanese(when.weekday())) } else { text })
    }

    fn language(&self, state: &State<'_, '_>, named: &Kwargs) -> Result<Language, Error> {
        let said: Option<&str> = named.get("lang")?;
        let of_page = if said.is_none() { state.lookup("lang") } else { None };
        let tag = said.or_else(|| of_page.as_ref().and_then(Value::as_str)).unwrap_or(&self.language);
        Ok(match tag.split(['-', '_']).next() {
            Some("en") => Language::English,
            Some("ja") => Language::Japanese,
            _ => Language::Other,
        })
    }
}

impl When {
    /// Seconds since 1970, or a text of ISO 8601: with an offset or `Z` it is a moment, without one it is what a wall shows,
    /// such as what a browser sends for `<input type="date">` and `datetime-local`.
    fn of(value: &Value, zone: TimeZone) -> Result<Self, Error> {
        let text = || wrong(format!("{value} is no date or time (seconds since 1970, or a text as 2026-11-26T09:30)"));
        if value.kind() == ValueKind::Number {
            let moment = match value.as_i64() {
                Some(seconds) => Timestamp::from_second(seconds).ok(),
                None => f64::try_from(value.clone()).ok().and_then(moment),
            };
            return Ok(Self::Moment(moment.ok_or_else(text)?.to_zoned_datetime(zone)));
        }
        let said = value.as_str().ok_or_else(text)?;
        if let Ok(moment) = said.parse::<Timestamp>() {
            return Ok(Self::Moment(moment.to_zoned_datetime(zone)));
        }
        let has_time = said.contains(['T', ' ']);
        match has_time {
            true => said.parse().map(Self::Wall).map_err(|_| text()),
            false => said.parse().map(Self::Day).map_err(|_| text()),
        }
    }

    fn format(&self, pattern: &str) -> Result<String, Error> {
        let text = match self {
            Self::Moment(moment) => strtime::format(pattern, moment),
            Self::Wall(wall) => strtime::format(pattern, *wall),
            Self::Day(day) => strtime::format(pattern, *day),
        };
        text.map_err(|error| wrong(format!("{pattern:?}: {error}")))
    }

    fn weekday(&self) -> Weekday {
        match self {
            Self::Moment(moment) => moment.weekday(),
            Self::Wall(wall) => wall.weekday(),
            Self::Day(day) => day.weekday(),
        }
    }
}

/// Stands in a pattern for the Japanese name of the weekday, which strftime does not know.
const WEEKDAY: &str = "\u{1}";

fn pattern(when: &When, part: Part, style: Option<&str>, language: Language) -> Result<String, Error> {
    let style = style.unwrap_or("medium");
    if style.contains('%') {
        return Ok(style.to_owned());
    }
    let known = matches!(style, "short" | "medium" | "long" | "full" | "iso");
    if !known {
        return Err(wrong(format!("the style is short, medium, long, full, iso or a pattern with %, not {style:?}")));
    }
    let is_moment = matches!(when, When::Moment(_));
    if style == "iso" && part == Part::Both {
        return Ok(if is_moment { "%Y-%m-%dT%H:%M:%S%:z" } else { "%Y-%m-%dT%H:%M:%S" }.to_owned());
    }
    let date = date(style, language);
    Ok(match part {
        Part::Date => date.to_owned(),
        Part::Time => time(style, is_moment).to_owned(),
        Part::Both if language == Language::English && style != "short" => format!("{date}, %H:%M"),
        Part::Both => format!("{date} %H:%M"),
    })
}

fn date(style: &str, language: Language) -> &'static str {
    match (language, style) {
        (_, "iso") | (Language::Other, _) | (Language::English, "short") => "%Y-%m-%d",
        (Language::English, "medium") => "%b %-d, %Y",
        (Language::English, "long") => "%B %-d, %Y",
        (Language::English, _) => "%A, %B %-d, %Y",
        (Language::Japanese, "short" | "medium") => "%Y/%m/%d",
        (Language::Japanese, "long") => "%Y年%-m月%-d日",
        (Language::Japanese, _) => "%Y年%-m月%-d日\u{1}",
    }
}

fn time(style: &str, is_moment: bool) -> &'static str {
    match style {
        "short" => "%H:%M",
        "long" | "full" if is_moment => "%H:%M:%S %Z",
        _ => "%H:%M:%S",
    }
}

fn japanese(weekday: Weekday) -> &'static str {
    let names = ["月曜日", "火曜日", "水曜日", "木曜日", "金曜日", "土曜日", "日曜日"];
    names.get(weekday.to_monday_zero_offset() as usize).copied().unwrap_or_default()
}

fn moment(seconds: f64) -> Option<Timestamp> {
    let whole = seconds.floor();
    // A float beyond the range of an i64 becomes its bound, which is no moment either.
    Timestamp::new(whole as i64, ((seconds - whole) * 1e9) as i32).ok()
}

/// A number with so many decimals, or as it is, grouped in thousands.
fn number(value: &Value, decimals: Option<usize>, language: Language) -> Result<String, Error> {
    const MOST: usize = 12;
    if matches!(value.kind(), ValueKind::Undefined | ValueKind::None) || value.as_str() == Some("") {
        return Ok(String::new());
    }
    let decimals = match decimals {
        Some(decimals) if decimals > MOST => {
            return Err(wrong(format!("a number is shown with at most {MOST} decimals")));
        }
        decimals => decimals,
    };
    let refused = || wrong(format!("{value} is no number"));
    let text = match (i128::try_from(value.clone()), value.as_str()) {
        (Ok(whole), None) => whole.to_string() + &fraction(decimals),
        (_, Some(text)) if text.trim().parse::<i128>().is_ok() => text.trim().to_owned() + &fraction(decimals),
        (_, text) => {
            let real = text.map_or_else(|| f64::try_from(value.clone()).ok(), |text| text.trim().parse().ok());
            let real = real.filter(|real| real.is_finite()).ok_or_else(refused)?;
            decimals.map_or_else(|| real.to_string(), |decimals| format!("{real:.decimals$}"))
        }
    };
    Ok(if language == Language::Other { text } else { grouped(&text) })
}

fn fraction(decimals: Option<usize>) -> String {
    match decimals {
        None | Some(0) => String::new(),
        Some(decimals) => format!(".{:0decimals$}", 0),
    }
}

fn grouped(text: &str) -> String {
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = sign.to_owned();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

fn wrong(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}
