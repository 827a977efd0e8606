//! The webapps that come with the server, used as a person would.

use std::{path::Path, sync::Arc};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{
    Body, Catalogue, Content, Deployer, Follows, Found, MemberInfo, NodeInfo, Page, Rendered, Request, Resource,
    SessionTimeout, Sources, Upload, parameters,
};
use crate::{
    membership::Duty,
    names::{NodeId, SessionId},
    observe::SessionCounts,
    session::{draft::Draft, draft::Fate, value::Value},
};

/// A browser with one session cookie, and the node's side of the session.
struct Browser {
    catalogue: Catalogue,
    language: &'static str,
    route: &'static str,
    id: u8,
    session: Option<Kept>,
}

/// A session between two requests.
type Kept = (SessionId, Vec<(Arc<str>, Value)>);

impl Browser {
    fn open() -> Self {
        let webapps = Path::new(env!("CARGO_MANIFEST_DIR")).join("webapps");
        let catalogue = Deployer::open(Sources::new(&webapps, &webapps.join(".work"))).unwrap().catalogue();
        Self { catalogue, language: "en", route: "r1", id: 0, session: None }
    }

    fn get(&mut self, target: &str) -> Rendered {
        self.ask("GET", target, None)
    }

    /// Sends a form with the token of the session, as the page's hidden field would.
    fn post(&mut self, target: &str, form: &str) -> Rendered {
        let token: Option<String> = self.draft().get_as("_csrf");
        self.ask("POST", target, Some(&format!("{form}&_csrf={}", token.unwrap_or_default())))
    }

    /// Sends a file, and expects to be led to a page.
    fn attach(&mut self, target: &str, file: Upload) -> String {
        let token: Option<String> = self.draft().get_as("_csrf");
        let form = vec![("_csrf".to_owned(), token.unwrap_or_default()), ("go".to_owned(), "next".to_owned())];
        let body = Body { form: Some(form), files: vec![file.into()], ..Body::default() };
        location(&self.ask_with("POST", target, body))
    }

    /// Sends a form, and expects to be led to a page.
    fn submit(&mut self, target: &str, form: &str) -> String {
        location(&self.post(target, form))
    }

    fn page(&self, target: &str) -> (Arc<Page>, String, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let catalog = self.catalogue.load();
        let Found::Webapp { app, path, .. } = catalog.find(path) else { panic!("{target} is in a webapp") };
        let Resource::Page(page) = app.resolve(&path) else { panic!("{target} is a page") };
        (page, path.into_owned(), query.to_owned())
    }

    fn draft(&self) -> Draft {
        match &self.session {
            Some((id, attributes)) => Draft::of(Some(*id), attributes.clone()),
            None => Draft::blank(),
        }
    }

    fn ask(&mut self, method: &str, target: &str, form: Option<&str>) -> Rendered {
        let body = Body { form: form.map(|form| parameters(form).unwrap()), ..Body::default() };
        self.ask_with(method, target, body)
    }

    fn ask_with(&mut self, method: &str, target: &str, body: Body) -> Rendered {
        let (page, path, query) = self.page(target);
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("accept-language"), HeaderValue::from_static(self.language));
        let request = Request {
            method: method.into(),
            path,
            query,
            body,
            headers,
            remote_addr: "127.0.0.1".into(),
            scheme: "http".into(),
            host: "localhost:12121".into(),
            error: None,
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        let member = |(route, duty): (&str, Duty)| {
            let me = route == self.route;
            let follows = (!me).then_some(Follows { in_sync: duty == Duty::Serving, lag_ms: 3 });
            MemberInfo { route: route.parse().unwrap(), duty, me, life: NodeId(1), follows }
        };
        let members = [("r1", Duty::Serving), ("r2", Duty::Serving), ("r3", Duty::Draining)].map(member);
        let node = Arc::new(NodeInfo::new(&self.route.parse().unwrap(), &members, SessionCounts { owned: 2, held: 5 }));
        let rendered = page.render(request, self.draft(), &node).unwrap_or_else(|error| panic!("{error}"));
        self.commit(&rendered.draft);
        rendered
    }

    /// What a node does with a draft, as far as one session can tell.
    fn commit(&mut self, draft: &Draft) {
        let keeps_id = draft.fate() == Fate::Continues && self.session.is_some();
        let attributes: Vec<_> = draft.attributes().map(|(name, value)| (name.into(), value.clone())).collect();
        if draft.fate() == Fate::Ends || attributes.is_empty() && self.session.is_none() {
            self.session = None;
            return;
        }
        if !keeps_id {
            self.id += 1;
        }
        self.session = Some((SessionId([self.id; 16]), attributes));
    }
}

fn location(rendered: &Rendered) -> String {
    assert_eq!(rendered.status, 303, "{}", rendered.text());
    let (_, to) = rendered.headers.iter().find(|(name, _)| name == "location").expect("a redirect names its target");
    to.to_str().unwrap().to_owned()
}

#[test]
fn the_counter_counts_from_one_node_to_the_next() {
    let mut browser = Browser::open();
    assert_eq!(browser.get("/?plain").text(), "[r1]\n1\n");
    let page = browser.get("/");
    assert!(page.text().contains(">2</p>") && page.text().contains("<html lang=\"en\""), "{}", page.text());
    browser.route = "r2";
    let plain = browser.get("/?plain");
    assert_eq!((plain.text(), plain.content_type.to_str().unwrap()), ("[r2]\n3\n", "text/plain; charset=utf-8"));
    assert!(browser.get("/").text().contains("<p class=\"route\">r2</p>"));
}

#[test]
fn the_counter_speaks_the_browsers_language_until_another_is_chosen() {
    let mut browser = Browser { language: "ja,en;q=0.8", ..Browser::open() };
    assert!(browser.get("/").text().contains("<html lang=\"ja\""));
    assert!(browser.get("/?lang=en").text().contains("<html lang=\"en\""));
    assert!(browser.get("/").text().contains("<html lang=\"en\""));
    assert!(browser.get("/?lang=xx").text().contains("<html lang=\"en\""));
}

#[test]
fn the_descriptors_are_as_in_the_seeds() {
    let catalog = Browser::open().catalogue.load();
    let apps: Vec<_> = catalog.webapps().collect();
    assert_eq!(apps.len(), 3);
    for app in apps {
        assert!(app.descriptor().distributable, "{}", app.name());
        let timeout = SessionTimeout::After(std::time::Duration::from_secs(30 * 60));
        assert_eq!(app.descriptor().session_timeout, timeout);
    }
}

#[test]
fn static_files_are_there_and_templates_are_not() {
    let catalog = Browser::open().catalogue.load();
    let resolve = |path: &str| match catalog.find(path) {
        Found::Webapp { app, path, .. } => app.resolve(&path),
        _ => Resource::NotFound,
    };
    for asset in [
        "/favicon.ico",
        "/favicon.svg",
        "/style.css",
        "/request/style.css",
        "/request/favicon.svg",
        "/cluster/cluster.js",
    ] {
        assert!(matches!(resolve(asset), Resource::Asset(_)), "{asset}");
    }
    for hidden in
        ["/index.html.j2", "/request/WEB-INF/templates/base.html.j2", "/request/base.html", "/WEB-INF/web.xml"]
    {
        assert!(matches!(resolve(hidden), Resource::NotFound), "{hidden}");
    }
}

#[test]
fn a_request_is_filled_in_step_by_step_while_nodes_change() {
    let mut browser = Browser::open();
    assert_eq!(location(&browser.get("/request/")), "/request/login.html");
    assert!(browser.get("/request/login.html").text().contains("<code>tasuki</code>"));
    assert_eq!(browser.submit("/request/login.html", "name=&password=x"), "/request/login.html");
    let again = browser.get("/request/login.html").text().to_owned();
    assert!(again.contains("Please fill this in.") && again.contains("The password does not match."), "{again}");
    assert!(!browser.get("/request/login.html").text().contains("class=\"problem\""), "it is told once");
    let before = browser.session.as_ref().unwrap().0;
    assert_eq!(browser.submit("/request/login.html", "name=Sat%C5%8D+%3Cb%3E&password=tasuki"), "/request/");
    assert_ne!(browser.session.as_ref().unwrap().0, before, "a login renews the id");
    assert!(browser.get("/request/").text().contains("Satō &lt;b&gt;"));

    browser.route = "r2";
    assert!(browser.get("/request/who.html").text().contains("value=\"Satō &lt;b&gt;\""));
    assert_eq!(location(&browser.get("/request/details.html")), "/request/who.html");
    assert_eq!(browser.submit("/request/who.html", "name=Sat%C5%8D&kind=boat"), "/request/who.html");
    let who = browser.get("/request/who.html").text().to_owned();
    assert!(who.contains("id=\"department-problem\"") && who.contains("id=\"kind-problem\""), "{who}");
    assert!(who.contains("value=\"Satō\"") && !who.contains("name-problem"), "what was typed is kept");
    assert_eq!(
        browser.submit("/request/who.html", "name=Sat%C5%8D&department=R%26D&kind=leave"),
        "/request/details.html"
    );

    browser.route = "r1";
    browser.get("/request/details.html");
    assert_eq!(location(&browser.get("/request/review.html")), "/request/details.html", "a step cannot be left out");
    let typed = "from=2028-02-29&to=2028-02-28&reason=%3Cfamily%3E";
    assert_eq!(browser.submit("/request/details.html", &format!("{typed}&go=next")), "/request/details.html");
    let details = browser.get("/request/details.html").text().to_owned();
    assert!(
        details.contains("The last day is before the first day.") && details.contains("&lt;family&gt;"),
        "{details}"
    );
    assert_eq!(browser.submit("/request/details.html", "from=2028-02-29&to=&reason=x&go=back"), "/request/who.html");
    let who = browser.get("/request/who.html").text().to_owned();
    assert!(who.contains("value=\"R&amp;D\"") && who.contains("value=\"leave\" checked"), "{who}");
    assert_eq!(browser.submit("/request/who.html", "name=S&department=R%26D&kind=leave"), "/request/details.html");
    assert!(
        browser.get("/request/details.html").text().contains("value=\"2028-02-29\""),
        "back and forth loses nothing"
    );
    assert_eq!(
        browser.submit("/request/details.html", "from=2028-02-29&to=2028-03-01&reason=x&go=next"),
        "/request/attachment.html"
    );
    assert_eq!(browser.submit("/request/attachment.html", "go=back"), "/request/details.html");
    assert_eq!(browser.submit("/request/attachment.html", "go=next"), "/request/review.html", "it may be left out");

    browser.route = "r2";
    assert!(browser.get("/request/review.html").text().contains("2028-03-01"));
    assert_eq!(browser.submit("/request/review.html", ""), "/request/done.html");
    assert!(browser.get("/request/done.html").text().contains("L-020202-001"));
    assert_eq!(browser.submit("/request/review.html", ""), "/request/", "a second click sends nothing");
    assert_eq!(browser.get("/request/").text().matches("<article").count(), 1);
    assert_eq!(browser.submit("/request/logout.html", ""), "/request/login.html?bye");
    assert!(browser.session.is_none());
    assert!(browser.get("/request/login.html?bye").text().contains("You are signed out."));
    assert_eq!(location(&browser.get("/request/done.html")), "/request/login.html");
}

/// A form of `multipart/form-data` with one file.
fn with_file(name: &str, content_type: &str, bytes: &[u8]) -> Upload {
    let content = Content::Memory(bytes.to_vec());
    Upload { field: "attachment".into(), name: name.into(), content_type: content_type.into(), content }
}

#[test]
fn a_file_is_attached_looked_at_refused_and_taken_away() {
    let mut browser = Browser::open();
    browser.get("/request/login.html");
    browser.submit("/request/login.html", "name=a&password=tasuki");
    browser.get("/request/who.html");
    browser.submit("/request/who.html", "name=a&department=b&kind=leave");
    assert_eq!(location(&browser.get("/request/attachment.html")), "/request/details.html", "a step is not left out");
    browser.submit("/request/details.html", "from=2028-02-29&to=2028-03-01&reason=&go=next");
    for (file, message) in [
        (with_file("a.txt", "text/plain", &[b'a'; 200 * 1024 + 1]), "larger than 200 KiB"),
        (with_file("a.txt", "text/plain", b""), "This file is empty."),
        (with_file("a.html", "text/html", b"<script>"), "Please choose a PDF"),
    ] {
        assert_eq!(browser.attach("/request/attachment.html", file), "/request/attachment.html");
        assert!(browser.get("/request/attachment.html").text().contains(message), "{message}");
        assert_eq!(location(&browser.get("/request/file.html")), "/request/attachment.html");
    }
    let bytes: Vec<u8> = (0..=255).collect();
    let file = with_file("診断書 <1>.pdf", "application/pdf", &bytes);
    assert_eq!(browser.attach("/request/attachment.html", file), "/request/review.html");
    browser.route = "r2";
    assert!(browser.get("/request/review.html").text().contains("診断書 &lt;1&gt;.pdf"));
    let shown = browser.get("/request/file.html");
    assert_eq!((&shown.body[..], shown.content_type.to_str().unwrap()), (&bytes[..], "application/pdf"));
    let largest = with_file("b.png", "image/png", &[1; 200 * 1024]);
    assert_eq!(browser.attach("/request/attachment.html", largest), "/request/review.html", "just small enough");
    assert_eq!(browser.submit("/request/attachment.html", "go=remove"), "/request/attachment.html");
    assert_eq!(location(&browser.get("/request/file.html")), "/request/attachment.html");
    assert!(browser.get("/request/review.html").text().contains("<dd>none</dd>"));
}

#[test]
fn equipment_is_asked_for_in_japanese() {
    let mut browser = Browser { language: "ja", ..Browser::open() };
    browser.get("/request/login.html");
    browser.submit("/request/login.html", "name=%E4%BD%90%E8%97%A4&password=tasuki");
    browser.get("/request/who.html");
    browser.submit("/request/who.html", "name=a&department=b&kind=equipment");
    for (quantity, date) in [("0", "2027-02-29"), ("100", "2027-13-01"), ("1x", "27-01-01"), ("-1", "2027/01/01")] {
        let typed = format!("item=&quantity={quantity}&needed_by={date}&go=next");
        assert_eq!(browser.submit("/request/details.html", &typed), "/request/details.html");
        let page = browser.get("/request/details.html").text().to_owned();
        for message in ["入力してください。", "1 から 99 までの整数を入力してください。", "日付を入力してください"]
        {
            assert!(page.contains(message), "{typed}: {message} {page}");
        }
    }
    let typed = "item=%E6%A4%85%E5%AD%90&quantity=12&needed_by=2027-02-28&go=next";
    assert_eq!(browser.submit("/request/details.html", typed), "/request/attachment.html");
    assert!(browser.get("/request/review.html").text().contains("椅子"));
    browser.submit("/request/who.html", "name=a&department=b&kind=leave");
    let review = location(&browser.get("/request/review.html"));
    assert_eq!(review, "/request/details.html", "another kind has other details");
    assert_eq!(browser.submit("/request/", ""), "/request/", "a draft can be discarded");
    assert!(browser.get("/request/").text().contains("下書きを破棄しました。"), "it is said once");
    assert!(!browser.get("/request/").text().contains("下書きを破棄しました。"));
    assert!(browser.get("/request/").text().contains("まだ申請はありません。"));
}

#[test]
fn nothing_is_sent_without_the_token() {
    let mut browser = Browser::open();
    for target in ["/request/login.html", "/request/who.html", "/request/review.html", "/request/logout.html", "/"] {
        browser.get("/request/login.html");
        assert_eq!(browser.ask("POST", target, Some("name=a&password=tasuki")).status, 403, "{target}");
    }
    assert_eq!(location(&browser.get("/request/")), "/request/login.html", "nobody is logged in");
}

#[test]
fn the_live_page_shows_every_node_also_one_that_is_gone() {
    let mut browser = Browser::open();
    let page = browser.get("/cluster/");
    let page = page.text();
    for part in
        ["data-route=\"r1\" class=\"serving me\"", "data-route=\"r3\" class=\"draining\"", "http-equiv=\"refresh\""]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    let Some((id, mut attributes)) = browser.session.take() else { panic!("who was seen is kept in the session") };
    for (name, value) in &mut attributes {
        if &**name == "seen" {
            *value = Value::encode(&["r1", "r2", "r3", "r4"]).unwrap();
        }
    }
    browser.session = Some((id, attributes));
    browser.route = "r2";
    let rendered = browser.get("/cluster/cluster.json");
    assert_eq!(rendered.content_type, "application/json; charset=utf-8");
    let view: serde_json::Value = serde_json::from_slice(&rendered.body).unwrap();
    let states: Vec<_> = view["nodes"].as_array().unwrap().iter().map(|it| (&it["route"], &it["state"])).collect();
    let expected = [("r1", "serving"), ("r2", "serving"), ("r3", "draining"), ("r4", "gone")];
    assert!(
        states
            .iter()
            .zip(expected)
            .all(|((route, state), it)| (route.as_str(), state.as_str()) == (Some(it.0), Some(it.1))),
        "{states:?}"
    );
    assert_eq!(
        (&view["node"], &view["owned"], &view["held"], &view["copies"]),
        (&"r2".into(), &2.into(), &5.into(), &2.into())
    );
    assert_eq!(browser.submit("/cluster/", ""), "/cluster/");
    let view: serde_json::Value = serde_json::from_slice(&browser.get("/cluster/cluster.json").body).unwrap();
    assert_eq!(view["writes"], 1);
}

#[test]
fn a_script_without_a_session_begins_none() {
    let mut browser = Browser::open();
    browser.get("/cluster/cluster.json");
    assert!(browser.session.is_none(), "asking every second must not make a session every second");
}
