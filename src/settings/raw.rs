//! Settings as they are written: the shape of `conf/tasuki.toml`, nothing decided yet.
//!
//! The names of the fields are the only list of known keys: [`keys`] reads it off these types.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, SeqAccess, Visitor},
};

/// The whole file.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) cluster: Cluster,
    pub(super) session: Session,
    pub(super) node: Node,
    pub(super) balancer: Balancer,
}

/// `[cluster]`
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Cluster {
    pub(super) name: Option<Scalar>,
    pub(super) bind: Option<Scalar>,
    pub(super) discovery: Option<Scalar>,
    pub(super) multicast: Option<Scalar>,
    pub(super) peers: Option<Scalar>,
    pub(super) dns: Option<Scalar>,
    pub(super) secret_file: Option<Scalar>,
    pub(super) discovery_timeout: Option<Scalar>,
    pub(super) min_copies: Option<Scalar>,
}

/// `[session]`
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Session {
    pub(super) cookie: Option<Scalar>,
    pub(super) timeout: Option<Scalar>,
    pub(super) manager: Option<Scalar>,
    pub(super) copies: Option<Scalar>,
    pub(super) dirty_flag: Option<Scalar>,
    pub(super) ack: Option<Scalar>,
    pub(super) ack_timeout: Option<Scalar>,
    pub(super) claim_timeout: Option<Scalar>,
    pub(super) turn_timeout: Option<Scalar>,
    pub(super) repair_interval: Option<Scalar>,
    pub(super) max_sessions: Option<Scalar>,
}

/// `[node]`
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Node {
    pub(super) route: Option<Scalar>,
    pub(super) http: Option<Scalar>,
    pub(super) replication: Option<Scalar>,
    pub(super) webapps: Option<Scalar>,
    pub(super) run: Option<Scalar>,
    pub(super) snapshot: Option<Scalar>,
    pub(super) workers: Option<Scalar>,
    pub(super) response_headers: Option<Scalar>,
    pub(super) development: Option<Scalar>,
    pub(super) max_file_bytes: Option<Scalar>,
    pub(super) max_upload_bytes: Option<Scalar>,
    pub(super) shutdown_timeout: Option<Scalar>,
    pub(super) version_timeout: Option<Scalar>,
}

/// `[balancer]`
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Balancer {
    pub(super) listen: Option<Scalar>,
    pub(super) membership: Option<Scalar>,
    pub(super) method: Option<Scalar>,
    pub(super) sticky: Option<Scalar>,
    pub(super) failover: Option<Scalar>,
    pub(super) forced_recovery: Option<Scalar>,
    pub(super) timeout: Option<Scalar>,
    pub(super) read_timeout: Option<Scalar>,
    pub(super) max_attempts: Option<Scalar>,
    pub(super) retry_timeout: Option<Scalar>,
    pub(super) retry_percent: Option<Scalar>,
    pub(super) retry: Option<Scalar>,
    pub(super) health_interval: Option<Scalar>,
    pub(super) health_fall: Option<Scalar>,
    pub(super) health_rise: Option<Scalar>,
    pub(super) member_connections: Option<Scalar>,
    pub(super) queue: Option<Scalar>,
    pub(super) queue_timeout: Option<Scalar>,
    pub(super) fail_on_status: Option<Scalar>,
    pub(super) fail_on_timeout: Option<Scalar>,
    pub(super) max_ejected_percent: Option<Scalar>,
    pub(super) slow_start: Option<Scalar>,
    pub(super) sorry_page: Option<Scalar>,
    pub(super) trusted_proxies: Option<Scalar>,
    pub(super) max_body_bytes: Option<Scalar>,
    pub(super) retry_body_bytes: Option<Scalar>,
    pub(super) restart_timeout: Option<Scalar>,
    pub(super) workers: Option<Scalar>,
    pub(super) manager: Manager,
    pub(super) tls: Tls,
    #[serde(rename = "static")]
    pub(super) local: Static,
    pub(super) member: Vec<Member>,
}

/// `[balancer.manager]`
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Manager {
    pub(super) listen: Option<Scalar>,
    pub(super) path: Option<Scalar>,
    pub(super) allow: Option<Scalar>,
}

/// `[balancer.tls]`
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    pub(super) listen: Option<Scalar>,
    pub(super) certificate: Option<Scalar>,
    pub(super) key: Option<Scalar>,
    pub(super) http2: Option<Scalar>,
}

/// `[balancer.static]`
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Static {
    pub(super) path: Option<Scalar>,
    pub(super) folder: Option<Scalar>,
}

/// `[[balancer.member]]`
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Member {
    pub(super) url: Option<Scalar>,
    pub(super) route: Option<Scalar>,
    pub(super) weight: Option<Scalar>,
    pub(super) standby: Option<Scalar>,
    pub(super) set: Option<Scalar>,
}

/// A value without a meaning yet. From the environment everything is text, and lists are comma-separated.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    Text(String),
    Whole(i64),
    Real(f64),
    Switch(bool),
    List(Vec<Scalar>),
    Table,
}

/// Every key that may be set, dotted; those of `[[balancer.member]]` start with `balancer.member.`.
pub(super) fn keys() -> Vec<String> {
    let mut raw = Raw::default();
    raw.balancer.member.push(Member::default());
    let mut keys = Vec::new();
    let shape = serde_json::to_value(&raw).unwrap_or_default();
    collect_keys("", &shape, &mut keys);
    keys
}

fn collect_keys(prefix: &str, shape: &serde_json::Value, keys: &mut Vec<String>) {
    match shape {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                collect_keys(&key, value, keys);
            }
        }
        serde_json::Value::Array(elements) => elements.iter().for_each(|each| collect_keys(prefix, each, keys)),
        _ => keys.push(prefix.to_owned()),
    }
}

impl fmt::Display for Scalar {
    /// As it would stand in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Whole(number) => write!(f, "{number}"),
            Self::Real(number) => write!(f, "{number:?}"),
            Self::Switch(on) => write!(f, "{on}"),
            Self::List(values) => {
                let values: Vec<_> = values.iter().map(Scalar::to_string).collect();
                write!(f, "[{}]", values.join(", "))
            }
            Self::Table => f.write_str("{...}"),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyScalar)
    }
}

struct AnyScalar;

impl<'de> Visitor<'de> for AnyScalar {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<Scalar, E> {
        Ok(Scalar::Switch(on))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Whole(number))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar::Real(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(Scalar::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<de::IgnoredAny, de::IgnoredAny>()?.is_some() {}
        Ok(Scalar::Table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_keys_are_the_fields() {
        let keys = keys();
        for key in ["cluster.name", "node.http", "balancer.manager.path", "balancer.member.weight"] {
            assert!(keys.iter().any(|known| known == key), "{key} is known");
        }
        assert!(!keys.iter().any(|key| key == "balancer.member" || key == "node"));
    }

    #[test]
    fn a_value_is_shown_as_it_would_be_written() {
        let list = Scalar::List(vec![Scalar::Text("a\"b".into()), Scalar::Whole(1)]);
        assert_eq!(list.to_string(), r#"["a\"b", 1]"#);
        assert_eq!(Scalar::Real(2.0).to_string(), "2.0");
    }
}
