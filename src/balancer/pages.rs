//! The balancer's own answers: refusals and the sorry page. Each stands alone, loads nothing, tells nothing of the
//! inside.

use actix_web::{HttpResponse, HttpResponseBuilder, http::StatusCode};
use bytes::Bytes;

/// Why a request gets no answer from a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 400: the head or the body is not what HTTP allows.
    BadRequest,
    /// 403: the manager is not for this client.
    Forbidden,
    /// 404: the path stays at the door.
    NotFound,
    /// 405: TRACE.
    MethodNotAllowed,
    /// 408: the client stopped sending.
    ClientTimeout,
    /// 413: more than `balancer.max_body_bytes`.
    BodyTooLarge,
    /// 414.
    TargetTooLong,
    /// 417: `Expect` asks for what nobody does.
    ExpectationFailed,
    /// 431.
    HeadersTooLarge,
    /// 501: CONNECT and methods nobody has defined.
    NotImplemented,
    /// 502: a member's answer was lost or broken; the request may have been executed.
    BadGateway,
    /// 503: nobody is there; no attempt may have executed the request.
    Unavailable,
    /// 503: the member has no room, and the queue is full or the wait was too long; no attempt may have executed the request.
    QueueFull,
    /// 504: no answer in time; the request may have been executed.
    GatewayTimeout,
}

/// The built-in sorry page.
pub(crate) const SORRY: &str = include_str!("sorry.html");

const REFUSED: &str = include_str!("refused.html");

/// Seconds after which a client may come again.
const RETRY_AFTER: &str = "5";

/// Own pages bring their styles with them and nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
                                       frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

impl Refusal {
    /// The status of the answer.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::Unavailable | Self::QueueFull => StatusCode::SERVICE_UNAVAILABLE,
            Self::GatewayTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::BadRequest => ("リクエストの形式が正しくありません。", "The request is not valid HTTP."),
            Self::Forbidden => ("この画面を開く権限がありません。", "This page is not open to you."),
            Self::NotFound => ("このパスは公開されていません。", "This path is not served here."),
            Self::MethodNotAllowed => ("このメソッドは使えません。", "This method is not allowed."),
            Self::ClientTimeout => ("データの受信が途中で止まりました。", "Your request stopped arriving."),
            Self::BodyTooLarge => ("送信されたデータが大きすぎます。", "What you sent is too large."),
            Self::TargetTooLong => ("URL が長すぎます。", "The address is too long."),
            Self::ExpectationFailed => {
                ("Expect ヘッダーの条件を満たせません。", "What the request expects is not done here.")
            }
            Self::HeadersTooLarge => ("ヘッダーが大きすぎます。", "The request headers are too large."),
            Self::NotImplemented => ("このメソッドには対応していません。", "This method is not supported."),
            Self::BadGateway => (
                "サーバーの応答が途中で失われました。処理は完了しているかもしれません。",
                "The answer was lost on its way. Your request may have been carried out: check before you repeat it.",
            ),
            Self::Unavailable => {
                ("ただいまメンテナンス中です。", "Down for maintenance. Your request was not carried out.")
            }
            Self::QueueFull => (
                "ただいま混み合っています。しばらくしてからもう一度お試しください。",
                "Too many requests at this moment. Yours was not carried out: please try again.",
            ),
            Self::GatewayTimeout => (
                "サーバーが時間内に応答しませんでした。処理は完了しているかもしれません。",
                "No answer came in time. Your request may have been carried out: check before you repeat it.",
            ),
        }
    }

    /// The answer. `sorry` is the page for 503.
    pub(crate) fn response(self, sorry: &Bytes) -> HttpResponse {
        let status = self.status();
        match self {
            Self::Unavailable => sorry_page(status, sorry),
            _ => {
                let (ja, en) = self.texts();
                let reason = status.canonical_reason().unwrap_or_default();
                let page = REFUSED
                    .replace("{{code}}", status.as_str())
                    .replace("{{reason}}", reason)
                    .replace("{{ja}}", ja)
                    .replace("{{en}}", en);
                let mut response = own(status);
                if self == Self::MethodNotAllowed {
                    response.insert_header(("allow", "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"));
                }
                if self == Self::QueueFull {
                    response.insert_header(("retry-after", RETRY_AFTER));
                }
                response.body(page)
            }
        }
    }
}

/// The sorry page: 503 where a page was expected, 200 at its own address.
pub(crate) fn sorry_page(status: StatusCode, sorry: &Bytes) -> HttpResponse {
    let mut response = own(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.insert_header(("retry-after", RETRY_AFTER));
    }
    response.body(sorry.clone())
}

/// An HTML answer of the balancer's own: never stored, never framed, nothing loaded.
fn own(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response
        .insert_header(("content-type", "text/html; charset=utf-8"))
        .insert_header(("content-security-policy", CONTENT_SECURITY_POLICY));
    harden(&mut response);
    response
}

/// What every answer of the balancer's own carries.
pub(crate) fn harden(response: &mut HttpResponseBuilder) {
    response
        .insert_header(("cache-control", "no-store"))
        .insert_header(("x-content-type-options", "nosniff"))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("x-frame-options", "DENY"));
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;

    use super::*;

    #[actix_web::test]
    async fn the_sorry_page_says_when_to_come_again_and_loads_nothing() {
        let response = Refusal::Unavailable.response(&Bytes::from_static(SORRY.as_bytes()));
        assert_eq!(response.status().as_u16(), 503);
        let header = |name: &str| response.headers().get(name).unwrap().to_str().unwrap().to_string();
        assert_eq!(header("retry-after"), "5");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        assert!(header("content-security-policy").starts_with("default-src 'none'"));
        let page = String::from_utf8(to_bytes(response.into_body()).await.unwrap().to_vec()).unwrap();
        assert!(page.contains("ただいまメンテナンス中です"));
        assert!(page.contains("http-equiv=\"refresh\" content=\"5\""));
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="), "external resource");
    }

    #[actix_web::test]
    async fn every_refusal_has_its_status_and_a_filled_page() {
        let all = [
            (Refusal::BadRequest, 400),
            (Refusal::Forbidden, 403),
            (Refusal::NotFound, 404),
            (Refusal::MethodNotAllowed, 405),
            (Refusal::ClientTimeout, 408),
            (Refusal::BodyTooLarge, 413),
            (Refusal::TargetTooLong, 414),
            (Refusal::ExpectationFailed, 417),
            (Refusal::HeadersTooLarge, 431),
            (Refusal::NotImplemented, 501),
            (Refusal::BadGateway, 502),
            (Refusal::GatewayTimeout, 504),
        ];
        for (refusal, status) in all {
            let response = refusal.response(&Bytes::new());
            assert_eq!(response.status().as_u16(), status);
            let page = String::from_utf8(to_bytes(response.into_body()).await.unwrap().to_vec()).unwrap();
            assert!(page.contains(&status.to_string()) && !page.contains("{{"), "{page}");
        }
    }
}
