//! The manager's page and its forms. It works without scripts; with one it reads the report and moves.

use std::sync::LazyLock;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY},
    },
    web::{Payload, Query},
};
use minijinja::{Environment, context, value::Serde};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        client::Scheme,
        guard::{self, Strange},
        pages,
        worker::Worker,
    },
    Order, Outcome, answered, carry_out, failure,
    report::{Report, everything},
};
use crate::{limits, names::Route};

/// The page without its members, compiled once.
static PAGE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut pages = Environment::new();
    pages.add_template(TEMPLATE, include_str!("../manager.html")).expect("our own page is a template");
    pages
});

/// Its ending has the page's values escaped.
const TEMPLATE: &str = "manager.html";

/// A form of the page, as it is sent.
#[derive(Deserialize)]
struct Form {
    nonce: String,
    route: String,
    /// As in the paths of the API: `drain`, `standby/on`.
    order: String,
    /// Of the order `weight`.
    weight: Option<String>,
}

/// What the page says of the last form.
#[derive(Default, Serialize)]
pub(super) struct Note {
    text: String,
    is_bad: bool,
}

/// Carries out what a form asks for. Its own script reads JSON; without one the page is shown again, and a reload of that
/// sends nothing twice.
pub(super) async fn form(worker: &Worker, request: &HttpRequest, payload: Payload) -> HttpResponse {
    let scheme = Scheme::of(request);
    let wants_json = request.headers().get(ACCEPT).is_some_and(|accept| accept == "application/json");
    let refuse = async |status: StatusCode, why: &str| match wants_json {
        true => failure(status, why),
        false => shown(worker, scheme, status, Note { text: why.to_owned(), is_bad: true }).await,
    };
    let body = payload.to_bytes_limited(limits::CONTROL_BYTES).await;
    let text = body.ok().and_then(Result::ok).and_then(|body| String::from_utf8(body.to_vec()).ok());
    let form = text.and_then(|text| Some(Query::<Form>::from_query(&text).ok()?.into_inner()));
    let Some(Form { nonce, route, order, weight }) = form else {
        return refuse(StatusCode::BAD_REQUEST, "this form cannot be read").await;
    };
    let admitted = guard::keys().ok_or(Strange::OutOfDate).and_then(|keys| keys.admit(request, &nonce));
    if let Err(strange) = admitted {
        return refuse(StatusCode::FORBIDDEN, &strange.to_string()).await;
    }
    let value = weight.filter(|_| order == "weight");
    let (word, value) = match &value {
        Some(weight) => (&order[..], Some(weight.trim())),
        None => order.split_once('/').map_or((&order[..], None), |(word, value)| (word, Some(value))),
    };
    let order = match Order::read(word, value) {
        Ok(Some(order)) => order,
        Ok(None) => return refuse(StatusCode::BAD_REQUEST, "there is no such order").await,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, why).await,
    };
    let outcome = carry_out(worker, &route, order).await;
    if wants_json {
        return answered(worker, &route, outcome);
    }
    match outcome {
        Outcome::Done { warning: None } | Outcome::Asked(_) => {
            let path = worker.rules.manager.path.trim_end_matches('/');
            let place = format!("{path}/?done={word}&route={route}");
            let mut response = HttpResponse::SeeOther();
            pages::harden(&mut response);
            response.insert_header((LOCATION, place)).finish()
        }
        Outcome::Done { warning: Some(warning) } => {
            shown(worker, scheme, StatusCode::OK, Note { text: format!("{route}: {warning}"), is_bad: true }).await
        }
        Outcome::NoMember => refuse(StatusCode::NOT_FOUND, "there is no such member any more").await,
        Outcome::Refused(why) => refuse(StatusCode::BAD_GATEWAY, &why).await,
    }
}

/// What the page says after a form, by the address it was sent on to. Anybody may have made that address, so it says
/// only that a known order was accepted for something that is a route.
pub(super) fn note(query: &str) -> Note {
    #[derive(Deserialize)]
    struct Of {
        done: String,
        route: Route,
    }
    let Ok(of) = Query::<Of>::from_query(query) else { return Note::default() };
    let Of { done, route } = of.into_inner();
    let what = match &done[..] {
        "drain" => "drains",
        "disable" => "is disabled",
        "resume" => "serves again",
        "reset" => "is as the file says",
        "restart" => "restarts",
        "weight" => "has another weight",
        "standby" => "has another standby state",
        _ => return Note::default(),
    };
    Note { text: format!("{route} {what}"), is_bad: false }
}

/// The page, with a fresh nonce for its style and its script.
pub(super) async fn shown(worker: &Worker, scheme: Scheme, status: StatusCode, note: Note) -> HttpResponse {
    rendered(&worker.rules.manager.path, scheme, status, &note, &everything(worker).await)
}

fn rendered(path: &str, scheme: Scheme, status: StatusCode, note: &Note, report: &Report) -> HttpResponse {
    let (Some(keys), Some(nonce)) = (guard::keys(), guard::draw()) else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "the operating system gives no random bytes");
    };
    let base = path.trim_end_matches('/');
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    );
    let (note, report) = (Serde(note), Serde(report));
    let context = context! { nonce, base, form_nonce => keys.nonce.clone(), note, report };
    let page = match PAGE.get_template(TEMPLATE).and_then(|page| page.render(context)) {
        Ok(page) => page,
        Err(error) => {
            tracing::error!("the manager's page: {error:#}");
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be made: this is a fault of tasuki");
        }
    };
    let mut response = HttpResponse::build(status);
    pages::harden(&mut response);
    response
        .insert_header((CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((CONTENT_SECURITY_POLICY, policy))
        // Without a referrer a browser would send its forms with `Origin: null`.
        .insert_header((REFERRER_POLICY, "same-origin"))
        .cookie(keys.cookie(path, scheme))
        .body(page)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actix_web::body::to_bytes;

    use super::{
        super::{
            super::{
                orders::{Change, InFile, Set},
                view::{Member, View, tests::usable},
            },
            report::ReportedMember,
        },
        *,
    };
    use crate::{
        observe::{BalancerReport, NodeState, SessionCounts},
        time::Moment,
    };

    #[test]
    fn an_address_that_somebody_made_says_nothing_of_its_own() {
        assert_eq!(note("done=drain&route=r1").text, "r1 drains");
        for made in ["done=drain&route=%3Cb%3E", "done=explode&route=r1", "done=drain", "json", ""] {
            assert_eq!(note(made).text, "", "{made}");
        }
    }

    fn of_members(members: Vec<Member>) -> Report {
        let reported = |member: Member| {
            let counted = View { members: vec![Arc::new(member)], left: Vec::new() }.report(Moment(0)).remove(0);
            let (state, sessions) = (NodeState::Ready, Some(SessionCounts { owned: 7, held: 9 }));
            ReportedMember { counted, state, pid: Some(4711), sessions, staying: 0, peers: vec![], lag_ms: 0 }
        };
        let refusals = crate::observe::RefusalCounts::default();
        let warnings = vec!["the certificate ends in <3> days".to_owned()];
        let balancer = BalancerReport { listen: ([127, 0, 0, 1], 12_121).into(), pid: 1, refusals, warnings };
        Report { balancer, at_ms: 0, members: members.into_iter().map(reported).collect() }
    }

    #[actix_web::test]
    async fn every_style_and_script_of_the_page_has_the_nonce() {
        let page = rendered(
            "/balancer-manager",
            Scheme::Http,
            StatusCode::OK,
            &Note::default(),
            &of_members(vec![usable(1, "r1")]),
        );
        let header = |name: &str| page.headers().get(name).unwrap().to_str().unwrap().to_owned();
        let (policy, referrer) = (header("content-security-policy"), header("referrer-policy"));
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
        assert_eq!(referrer, "same-origin", "or forms are sent with Origin: null");
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        let text = String::from_utf8(to_bytes(page.into_body()).await.unwrap().to_vec()).unwrap();
        for tag in ["style", "script"] {
            let (all, with) = (format!("<{tag}"), format!("<{tag} nonce=\"{nonce}\""));
            assert!(text.matches(&all).count() == text.matches(&with).count() && text.contains(&all), "{tag}");
        }
        assert!(!text.contains("https://") && !text.contains("src=") && !text.contains("url("), "external resource");
        assert!(!text.contains(" style=") && !text.contains("innerHTML"), "blocked by the policy, or unsafe");
    }

    #[actix_web::test]
    async fn the_page_says_it_all_without_a_script() {
        let set = Set::default().with(Change::Weight(7), InFile { weight: 50, standby: false });
        let differs = set.terms(InFile { weight: 50, standby: false }).differs;
        let members = vec![Member { weight: 7, differs, ..usable(1, "r1") }];
        let note = Note { text: "<b>r9</b>".into(), is_bad: true };
        let page = rendered("/balancer-manager", Scheme::Http, StatusCode::OK, &note, &of_members(members));
        let text = String::from_utf8(to_bytes(page.into_body()).await.unwrap().to_vec()).unwrap();
        for part in [
            "127.0.0.1:12121",
            "r1",
            "4711",
            "weight 7 (file: 50)",
            "&lt;b&gt;r9",
            "ends in &lt;3&gt; days",
            "value=\"7\"",
        ] {
            assert!(text.contains(part), "{part} is in {text}");
        }
        assert_eq!(text.matches("<form").count(), text.matches("name=\"nonce\" value=\"").count());
    }
}
