//! One value at a time: text becomes meaning, or the rule it breaks is said.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZero,
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::IpNet;

use super::raw::Scalar;
use crate::limits;

/// The rule that a value breaks and what to write instead.
pub(super) type Rule = String;

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

pub(super) fn text(value: &Scalar) -> Result<&str, Rule> {
    match value {
        Scalar::Text(text) => Ok(text.trim()),
        _ => Err("must be text in double quotes".to_owned()),
    }
}

pub(super) fn switch(value: &Scalar) -> Result<bool, Rule> {
    match value {
        Scalar::Switch(on) => Ok(*on),
        Scalar::Text(text) if text == "true" => Ok(true),
        Scalar::Text(text) if text == "false" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

pub(super) fn whole(value: &Scalar, range: RangeInclusive<u64>) -> Result<u64, Rule> {
    let number = match value {
        Scalar::Whole(number) => u64::try_from(*number).ok(),
        Scalar::Text(text) => text.trim().parse().ok(),
        _ => None,
    };
    let (least, most) = (range.start(), range.end());
    number.filter(|number| range.contains(number)).ok_or(format!("must be a whole number from {least} to {most}"))
}

pub(super) fn count(value: &Scalar, most: usize) -> Result<NonZero<usize>, Rule> {
    let number = whole(value, 1..=most as u64)?;
    usize::try_from(number).ok().and_then(NonZero::new).ok_or("too large for this machine".to_owned())
}

pub(super) fn small_count(value: &Scalar, most: u32) -> Result<NonZero<u32>, Rule> {
    let number = whole(value, 1..=u64::from(most))?;
    u32::try_from(number).ok().and_then(NonZero::new).ok_or("too large".to_owned())
}

/// A number with a unit. A number alone is refused: the systems we replace count minutes here and milliseconds there.
pub(super) fn duration(value: &Scalar, range: RangeInclusive<Duration>) -> Result<Duration, Rule> {
    let written = match value {
        Scalar::Text(text) => text.trim().to_owned(),
        Scalar::Whole(number) => number.to_string(),
        _ => return Err(duration_rule()),
    };
    let digits = written.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = written.split_at(digits);
    let Ok(number) = number.parse::<u64>() else { return Err(duration_rule()) };
    if unit.is_empty() {
        return Err(format!(
            "a duration needs a unit; write \"{number}s\" for seconds or \"{number}ms\", \"{number}m\""
        ));
    }
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(duration_rule)?;
    let duration = number.checked_mul(factor).map(Duration::from_millis);
    duration.filter(|duration| range.contains(duration)).ok_or_else(|| {
        format!("must be from {} to {}", written_duration(*range.start()), written_duration(*range.end()))
    })
}

fn duration_rule() -> Rule {
    "a duration is a whole number and a unit of ms, s, m, h or d, such as \"30m\", \"2s\" or \"500ms\"".to_owned()
}

/// As it would stand in the file: `30m`, `1500ms`.
pub(super) fn written_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let fits = UNITS.iter().rev().find(|(_, factor)| millis > 0 && millis.is_multiple_of(*factor));
    fits.map_or("0s".to_owned(), |(unit, factor)| format!("{}{unit}", millis / factor))
}

/// Each element by `read`; text is a list with commas, as environment variables have it.
pub(super) fn list<T>(value: &Scalar, read: impl Fn(&str) -> Result<T, Rule>) -> Result<Vec<T>, Rule> {
    let parts: Vec<&str> = match value {
        Scalar::List(values) => values.iter().map(text).collect::<Result<_, _>>()?,
        Scalar::Text(text) if text.trim().is_empty() => Vec::new(),
        Scalar::Text(text) => text.split(',').map(str::trim).collect(),
        _ => return Err("must be a list such as [\"one\", \"two\"]".to_owned()),
    };
    if parts.len() > limits::SETTING_LIST {
        return Err(format!("a list has at most {} entries", limits::SETTING_LIST));
    }
    parts.into_iter().map(read).collect()
}

pub(super) fn address(value: &Scalar) -> Result<SocketAddr, Rule> {
    let rule = || "must be an IP address and a port, such as \"127.0.0.1:18080\" or \"[::1]:18080\"";
    let written = text(value)?;
    let local = written.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    match (written.parse(), local) {
        (Ok(address), _) => Ok(address),
        (Err(_), Some(numeric)) => Err(format!("names are not looked up here; write \"{numeric}\"")),
        (Err(_), None) => Err(rule().to_owned()),
    }
}

/// A network such as `10.0.0.0/8`, or one address.
pub(super) fn network(written: &str) -> Result<IpNet, Rule> {
    let one = || written.parse::<IpAddr>().map(IpNet::from);
    written
        .parse::<IpNet>()
        .map(|net| net.trunc())
        .or_else(|_| one())
        .map_err(|_| format!("{written:?} is neither an IP address nor a network such as \"10.0.0.0/8\""))
}

/// `host:port` of a member; the host may be a name.
pub(super) fn host_and_port(written: &str) -> Result<String, Rule> {
    let good = written.rsplit_once(':').is_some_and(|(host, port)| {
        let numeric_v6 = host.starts_with('[') && host.ends_with(']');
        let host_is_good = !host.is_empty() && (numeric_v6 || !host.contains([':', '/', ' ', '@']));
        host_is_good && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if good { Ok(written.to_owned()) } else { Err(format!("{written:?} is not host:port, such as \"127.0.0.1:4000\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Scalar {
        Scalar::Text(text.to_owned())
    }

    fn any_duration(value: &Scalar) -> Result<Duration, Rule> {
        duration(value, Duration::ZERO..=Duration::MAX)
    }

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        for (text, millis) in
            [("500ms", 500), ("2s", 2_000), ("30m", 1_800_000), ("1h", 3_600_000), ("7d", 604_800_000)]
        {
            assert_eq!(any_duration(&written(text)), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(written_duration(Duration::from_millis(millis)), text);
        }
        for bad in ["", "s", "1.5s", "-1s", "2 s", "2sec", "99999999999999999999s", "9999999999999999999d"] {
            assert!(any_duration(&written(bad)).is_err(), "{bad:?} is no duration");
        }
    }

    #[test]
    fn a_bare_number_is_refused_with_what_may_have_been_meant() {
        let hint = "a duration needs a unit; write \"30s\" for seconds or \"30ms\", \"30m\"";
        assert_eq!(any_duration(&Scalar::Whole(30)), Err(hint.to_owned()));
        assert_eq!(any_duration(&written("30")), Err(hint.to_owned()));
    }

    #[test]
    fn a_number_is_never_rounded() {
        assert!(whole(&Scalar::Real(2.5), 0..=10).is_err());
        assert!(whole(&Scalar::Whole(-1), 0..=10).is_err());
        assert_eq!(whole(&written("7"), 0..=10), Ok(7));
    }

    #[test]
    fn a_list_from_the_environment_has_commas() {
        let read = |part: &str| Ok(part.to_owned());
        assert_eq!(list(&written("a, b"), read), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(list(&written(""), read), Ok(vec![]));
        let many = written(&"a,".repeat(limits::SETTING_LIST + 1));
        assert!(list(&many, read).is_err());
    }

    #[test]
    fn an_address_names_what_to_write_instead_of_localhost() {
        let refusal = address(&written("localhost:18080")).unwrap_err();
        assert_eq!(refusal, "names are not looked up here; write \"127.0.0.1:18080\"");
        assert!(address(&written("127.0.0.1")).is_err());
    }

    #[test]
    fn a_peer_is_a_host_and_a_port() {
        for good in ["127.0.0.1:4000", "node-1.example:4001", "[::1]:4000"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for bad in ["4000", ":4000", "host", "host:0", "host:70000", "::1:4000", "http://h:1"] {
            assert!(host_and_port(bad).is_err(), "{bad:?} is no peer");
        }
    }
}
