//! What a request's conditions ask for: the whole, a part, nothing because it is known already (RFC 9110, sections 13 and
//! 14). Pure.

use actix_web::{
    HttpMessage,
    http::{
        Method,
        header::{
            self, ByteRangeSpec, EntityTag, Header, HttpDate, IfMatch, IfModifiedSince, IfNoneMatch, IfRange,
            IfUnmodifiedSince, Range,
        },
    },
};

/// By what a client tells one content from another.
#[derive(Clone, Debug)]
pub(super) struct Validators {
    /// Follows from the content.
    pub(super) tag: EntityTag,
    /// When the file was changed, in whole seconds.
    pub(super) modified: HttpDate,
}

/// What the conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it.
    Send,
    /// The client has it: 304.
    NotModified,
    /// It is not what the client takes it for: 412.
    Failed,
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// From the first to the last byte named, both included.
    Bytes(u64, u64),
    /// Nothing of it lies in the range: 416.
    Unsatisfiable,
}

/// Judges the conditions of a GET or a HEAD in the order of RFC 9110, 13.2.2. What cannot be read is no condition.
pub(super) fn judge(request: &impl HttpMessage, ours: &Validators) -> Verdict {
    let has_changed = match get::<IfMatch>(request) {
        Some(IfMatch::Any) => false,
        Some(IfMatch::Items(tags)) => !tags.iter().any(|tag| tag.strong_eq(&ours.tag)),
        None => get::<IfUnmodifiedSince>(request).is_some_and(|IfUnmodifiedSince(since)| ours.modified > since),
    };
    if has_changed {
        return Verdict::Failed;
    }
    let is_known = match get::<IfNoneMatch>(request) {
        Some(IfNoneMatch::Any) => true,
        Some(IfNoneMatch::Items(tags)) => tags.iter().any(|tag| tag.weak_eq(&ours.tag)),
        None => get::<IfModifiedSince>(request).is_some_and(|IfModifiedSince(since)| ours.modified <= since),
    };
    if is_known { Verdict::NotModified } else { Verdict::Send }
}

/// The part that is asked for. Several ranges at once, other units and what is no range are ignored, as RFC 9110, 14.2
/// allows: the answer is the whole.
pub(super) fn part(method: &Method, request: &impl HttpMessage, ours: &Validators, length: u64) -> Part {
    if method != Method::GET || !is_same(request, ours) {
        return Part::Whole;
    }
    let Some(Range::Bytes(ranges)) = get::<Range>(request) else { return Part::Whole };
    match ranges[..] {
        [ByteRangeSpec::FromTo(from, to)] if from > to => Part::Whole,
        [ref range] => {
            range.to_satisfiable_range(length).map_or(Part::Unsatisfiable, |(from, to)| Part::Bytes(from, to))
        }
        _ => Part::Whole,
    }
}

/// Whether the rest still fits to what the client has. A date proves nothing, two contents may be of one second, and no
/// client needs it: it was given a tag.
fn is_same(request: &impl HttpMessage, ours: &Validators) -> bool {
    match get::<IfRange>(request) {
        Some(IfRange::EntityTag(tag)) => tag.strong_eq(&ours.tag),
        Some(IfRange::Date(_)) => false,
        None => !request.headers().contains_key(header::IF_RANGE),
    }
}

fn get<H: Header>(request: &impl HttpMessage) -> Option<H> {
    if request.headers().contains_key(H::name()) { H::parse(request).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use actix_web::{HttpRequest, test::TestRequest};

    use super::*;

    const OLD: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
    const NOW: &str = "Thu, 01 Jan 2026 00:00:01 GMT";
    const NEW: &str = "Thu, 01 Jan 2026 00:00:02 GMT";

    fn ours() -> Validators {
        Validators { tag: EntityTag::new_strong("a".into()), modified: NOW.parse().unwrap() }
    }

    fn with(headers: &[(&'static str, &'static str)]) -> HttpRequest {
        headers.iter().fold(TestRequest::get(), |request, header| request.append_header(*header)).to_http_request()
    }

    #[test]
    fn conditions_are_judged_in_their_order() {
        use Verdict::{Failed, NotModified, Send};
        let cases: [(&[(&'static str, &'static str)], Verdict); 15] = [
            (&[], Send),
            (&[("if-none-match", "\"a\"")], NotModified),
            (&[("if-none-match", "\"b\", W/\"a\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"b\"")], Send),
            // A tag outweighs a date.
            (&[("if-none-match", "\"b\""), ("if-modified-since", NEW)], Send),
            (&[("if-modified-since", OLD)], Send),
            (&[("if-modified-since", NOW)], NotModified),
            (&[("if-modified-since", "yesterday")], Send),
            (&[("if-match", "\"a\"")], Send),
            (&[("if-match", "W/\"a\"")], Failed),
            (&[("if-match", "\"b\""), ("if-none-match", "\"a\"")], Failed),
            (&[("if-match", "\"a\""), ("if-unmodified-since", OLD)], Send),
            (&[("if-unmodified-since", OLD)], Failed),
            (&[("if-unmodified-since", NOW)], Send),
        ];
        for (headers, verdict) in cases {
            assert_eq!(judge(&with(headers), &ours()), verdict, "{headers:?}");
        }
    }

    fn part_of(range: &'static str, condition: Option<&'static str>) -> Part {
        let condition = condition.map(|condition| ("if-range", condition));
        let headers: Vec<_> = [("range", range)].into_iter().chain(condition).collect();
        part(&Method::GET, &with(&headers), &ours(), 100)
    }

    #[test]
    fn one_range_is_answered_and_everything_else_with_the_whole() {
        for (range, part) in [
            ("bytes=0-0", Part::Bytes(0, 0)),
            ("bytes=10-19", Part::Bytes(10, 19)),
            ("bytes=90-", Part::Bytes(90, 99)),
            ("bytes=90-1000", Part::Bytes(90, 99)),
            ("bytes=-1", Part::Bytes(99, 99)),
            ("bytes=-1000", Part::Bytes(0, 99)),
            ("bytes=100-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=5-4", Part::Whole),
            ("bytes=0-0,5-9", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("bytes=x", Part::Whole),
            ("bytes=18446744073709551616-", Part::Whole),
        ] {
            assert_eq!(part_of(range, None), part, "{range}");
        }
        assert_eq!(part(&Method::HEAD, &with(&[("range", "bytes=0-0")]), &ours(), 100), Part::Whole);
    }

    #[test]
    fn the_rest_of_another_content_is_not_sent() {
        for (condition, part) in [
            ("\"a\"", Part::Bytes(10, 99)),
            ("\"b\"", Part::Whole),
            ("W/\"a\"", Part::Whole),
            (NOW, Part::Whole),
            ("nonsense", Part::Whole),
        ] {
            assert_eq!(part_of("bytes=10-", Some(condition)), part, "{condition}");
        }
    }
}
