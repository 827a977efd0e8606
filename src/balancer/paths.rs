//! Which paths stay at the door. A path is read the way the most generous server would read it, so that no spelling of
//! a reserved path is forwarded; what is forwarded goes on as it was written.

use std::borrow::Cow;

/// First segment of the nodes' own endpoints.
const RESERVED: &str = ".tasuki";

/// Whether the path, however it is spelled, leads to the nodes' own endpoints. They are never forwarded.
pub(crate) fn is_reserved(path: &str) -> bool {
    may_be_disguised(path) && segments(path).first().is_some_and(|first| first.eq_ignore_ascii_case(RESERVED))
}

/// Whether the path, however it is spelled, is `base` or lies below it.
pub(crate) fn is_below(path: &str, base: &str) -> bool {
    let plain = |path: &str| {
        path.strip_prefix(base).is_some_and(|rest| base.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
    };
    plain(path) || may_be_disguised(path) && segments(path).starts_with(&segments(base))
}

/// The segments below `base`, decoded and resolved; none if the path is not below it.
pub(crate) fn below(path: &str, base: &str) -> Option<Vec<String>> {
    let (mut segments, base) = (segments(path), segments(base));
    segments.starts_with(&base).then(|| segments.split_off(base.len()))
}

/// Cheap for the ordinary path: nothing to decode, to climb or to merge, and no segment that begins with a dot.
fn may_be_disguised(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.iter().any(|b| matches!(b, b'%' | b'\\' | b';')) || bytes.windows(2).any(|two| two == b"//" || two == b"/.")
}

/// The segments after decoding twice, with empty ones, `.` and `..` resolved and path parameters cut off.
fn segments(path: &str) -> Vec<String> {
    let once = decoded(path.as_bytes());
    let twice = decoded(&once);
    let text = String::from_utf8_lossy(&twice);
    let mut segments = Vec::new();
    for segment in text.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default().trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.to_string()),
        }
    }
    segments
}

fn decoded(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let digit = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_the_nodes_own_paths_is_forwarded() {
        for path in [
            "/.tasuki",
            "/.tasuki/status",
            "/.TASUKI/status",
            "//.tasuki/status",
            "/./.tasuki/status",
            "/a/../.tasuki/status",
            "/%2etasuki/status",
            "/%2Etasuki%2fstatus",
            "/%252etasuki/status",
            "/.tasuki;x=1/status",
            "/.tasuki%3bx/status",
            "/\\.tasuki/status",
            "/a/%2e%2e/.tas%75ki/duty",
            "/..;/.tasuki/duty",
            "/;/.tasuki",
        ] {
            assert!(is_reserved(path), "{path} was forwarded");
        }
    }

    #[test]
    fn other_paths_are_not_held_back() {
        for path in ["/", "", "/.well-known/x", "/shop/.tasuki", "/tasuki", "/.tasukis", "/%", "/%zz", "/a;b", "*"] {
            assert!(!is_reserved(path), "{path} was held back");
        }
    }

    #[test]
    fn the_manager_is_found_in_any_spelling() {
        let base = "/balancer-manager";
        for path in [
            "/balancer-manager",
            "/balancer-manager/status.json",
            "/%62alancer-manager",
            "//balancer-manager/x",
            "/x/../balancer-manager",
            // Elsewhere for who resolves it, the manager's for who does not: it stays at the door.
            "/balancer-manager/../x",
        ] {
            assert!(is_below(path, base), "{path}");
        }
        for path in ["/", "/balancer-managers", "/x/balancer-manager", "/x/balancer-manager/../y"] {
            assert!(!is_below(path, base), "{path}");
        }
    }
}
