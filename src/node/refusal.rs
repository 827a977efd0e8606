//! Replies that no webapp made. Each says what happened and what to do, and nothing of the inside.

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::{
        Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};

use super::gate::{Elsewhere, NotDone};

/// Tells the balancer that nothing was done, and where to go instead.
const RETRY: HeaderName = HeaderName::from_static("tasuki-retry");

/// Any other node may do it; where there is none, this answer is the one for the client. No route has a semicolon.
const ANY_NOT_DONE: &str = "any;not-done";

/// The same of a request that may be done twice, and perhaps was done.
const ANY_IN_DOUBT: &str = "any;in-doubt";

/// Marks a reply whose page a webapp may replace by one of its own, and says what that page would say.
#[derive(Clone, Debug)]
pub(super) struct Plain(pub(super) String);

/// A page of our own (RFC 9110 section 15).
pub(super) fn page(status: StatusCode, what: &str) -> HttpResponse {
    let title = status.canonical_reason().unwrap_or("Error");
    let plain = Plain(what.to_owned());
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let mut response = head(status).body(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>body{{font:1.1rem/1.6 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1.5rem;\
         color-scheme:light dark}}h1{{font-size:1.6rem}}</style>\n<h1>{} {title}</h1>\n<p>{what}</p>\n",
        status.as_u16()
    ));
    response.extensions_mut().insert(plain);
    response
}

/// The head of a page of our own: it loads nothing, runs nothing, and is kept nowhere.
pub(super) fn head(status: StatusCode) -> HttpResponseBuilder {
    let mut head = HttpResponse::build(status);
    head.insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"));
    head
}

/// The reply to a request of this method that was not done. Its header, which never leaves our balancer, says that the
/// request may be sent again.
pub(super) fn not_done(why: &NotDone, method: &Method) -> HttpResponse {
    let mut response = match why {
        NotDone::AskNode(_) | NotDone::AskAnother | NotDone::Overtaken => {
            page(StatusCode::SERVICE_UNAVAILABLE, "Another node answers this request. Please try again.")
        }
        NotDone::Doubtful(_) | NotDone::TakenBack(_) => page(
            StatusCode::SERVICE_UNAVAILABLE,
            "This request was interrupted while it was being saved. It may have been done: please look before you repeat \
             it.",
        ),
        NotDone::TooFewCopies(_) => page(
            StatusCode::SERVICE_UNAVAILABLE,
            "This could not be saved: too few of the servers that keep copies can be reached. Nothing was changed. Please \
             try again later.",
        ),
        NotDone::NoTurn(why) => page(StatusCode::SERVICE_UNAVAILABLE, &format!("Please try again later: {why}.")),
        NotDone::Conflict(refused) => page(
            StatusCode::CONFLICT,
            &format!(
                "Another request of this session changed it at the same time, and both together are not possible: {refused}. \
                 Nothing was changed by this one."
            ),
        ),
        NotDone::Full => {
            page(StatusCode::SERVICE_UNAVAILABLE, "This server has as many sessions as it can keep. Please try later.")
        }
    };
    // It is about the cluster, and what our balancer reads.
    response.extensions_mut().remove::<Plain>();
    let retry = match why {
        NotDone::AskNode(route) => route.as_str(),
        NotDone::AskAnother | NotDone::Overtaken => "any",
        NotDone::TooFewCopies(Elsewhere::Perhaps) => ANY_NOT_DONE,
        NotDone::Doubtful(Some(owner)) if method.is_idempotent() => owner.as_str(),
        NotDone::Doubtful(None) | NotDone::TakenBack(Elsewhere::Perhaps) if method.is_idempotent() => ANY_IN_DOUBT,
        NotDone::Doubtful(_) | NotDone::TakenBack(_) | NotDone::TooFewCopies(Elsewhere::No) => "",
        NotDone::NoTurn(_) | NotDone::Conflict(_) | NotDone::Full => "",
    };
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    if let Ok(retry) = HeaderValue::from_str(retry)
        && !retry.is_empty()
    {
        headers.insert(RETRY, retry);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(why: &NotDone) -> Option<String> {
        retry_of(why, &Method::POST)
    }

    fn retry_of(why: &NotDone, method: &Method) -> Option<String> {
        not_done(why, method).headers().get(RETRY).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_a_request_that_another_node_should_do_is_sent_on() {
        assert_eq!(retry(&NotDone::AskNode("r2".parse().unwrap())).as_deref(), Some("r2"));
        assert_eq!(retry(&NotDone::AskAnother).as_deref(), Some("any"));
        assert_eq!(retry(&NotDone::Full), None);
        assert_eq!(not_done(&NotDone::Full, &Method::GET).status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_write_that_lacks_copies_is_tried_elsewhere_only_where_there_may_be_more_of_them() {
        let answer = not_done(&NotDone::TooFewCopies(Elsewhere::No), &Method::POST);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key(header::RETRY_AFTER) && !answer.headers().contains_key(RETRY));
        assert_eq!(retry(&NotDone::TooFewCopies(Elsewhere::Perhaps)).as_deref(), Some("any;not-done"));
        let taken_back = NotDone::TakenBack(Elsewhere::Perhaps);
        assert_eq!(retry_of(&taken_back, &Method::GET).as_deref(), Some("any;in-doubt"));
        assert_eq!(retry_of(&taken_back, &Method::POST), None);
        assert_eq!(retry_of(&NotDone::TakenBack(Elsewhere::No), &Method::GET), None);
    }

    #[test]
    fn what_may_have_been_done_is_repeated_only_where_that_does_no_harm() {
        let owner = NotDone::Doubtful("r2".parse().ok());
        assert_eq!(retry_of(&owner, &Method::GET).as_deref(), Some("r2"));
        assert_eq!(retry_of(&NotDone::Doubtful(None), &Method::PUT).as_deref(), Some("any;in-doubt"));
        assert_eq!(retry_of(&owner, &Method::POST), None);
        assert_eq!(retry_of(&owner, &Method::PATCH), None);
    }
}
