//! What a web.xml says is what a browser sees.

use hyper::StatusCode;

use crate::{
    story,
    support::{cluster::Cluster, webapps::Webapps},
};

const SHOP: &str = "<web-app>
  <distributable/>
  <session-config>
    <cookie-config>
      <name>SHOPID</name><path>/</path><max-age>600</max-age>
      <attribute><attribute-name>SameSite</attribute-name><attribute-value>Strict</attribute-value></attribute>
    </cookie-config>
  </session-config>
  <error-page><error-code>404</error-code><location>/gone.html</location></error-page>
  <error-page><error-code>405</error-code><location>/no.txt</location></error-page>
  <error-page><location>/error.html</location></error-page>
  <mime-mapping><extension>shop</extension><mime-type>application/x-shop</mime-type></mime-mapping>
  <context-param>
    <param-name>response.header.X-Frame-Options</param-name><param-value>DENY</param-value>
  </context-param>
</web-app>";

const PAGES: [(&str, &str); 9] = [
    ("WEB-INF/web.xml", SHOP),
    ("index.html.j2", "{{ session.add('n') }}"),
    ("own.html.j2", "{{ response.header('X-Frame-Options', 'SAMEORIGIN') }}{{ response.status(404) }}mine"),
    ("fails.html.j2", "{{ nobody.knows.this }}"),
    ("gone.html.j2", "gone: {{ request.error.code }} {{ request.error.path }} {{ session.add('n') }}"),
    ("error.html.j2", "{{ request.error.message }}{% if request.query.again %}{{ nobody.knows.this }}{% endif %}"),
    ("no.txt", "not like this"),
    ("a.shop", "goods"),
    ("b.shop.j2", "made goods"),
];

#[test]
fn error_pages_content_types_and_headers_are_those_of_the_descriptor() {
    story(async {
        let (webapps, place) = Webapps::new();
        webapps.put("shop.war", &PAGES);
        let cluster = Cluster::up_in(place, 1).await;
        cluster.webapp("shop", |it| it.version.is_some()).await;
        let mut browser = cluster.browser();
        for (path, status, body, content_type) in [
            ("/shop/nothing.html", 404, "gone: 404 &#x2f;nothing.html 1", "text/html; charset=utf-8"),
            ("/shop/own.html", 404, "mine", "text/html; charset=utf-8"),
            ("/shop/a.shop", 200, "goods", "application/x-shop"),
            ("/shop/b.shop", 200, "made goods", "application/x-shop"),
        ] {
            let answer = browser.get(path).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.body.as_str()), (status, body), "{path}");
            assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
            let frames = if path.ends_with("own.html") { "SAMEORIGIN" } else { "DENY" };
            assert_eq!(answer.header("x-frame-options"), Some(frames), "{path}");
        }
        let redirect = browser.get("/shop").await.unwrap();
        assert_eq!((redirect.status, redirect.header("x-frame-options")), (StatusCode::FOUND, Some("DENY")));
        let refused = browser.post("/shop/a.shop", "a=b").await.unwrap();
        assert_eq!((refused.status, refused.body.as_str()), (StatusCode::METHOD_NOT_ALLOWED, "not like this"));
        assert!(browser.cookies.is_empty(), "an error page begins no session");

        let failed = browser.get("/shop/fails.html").await.unwrap();
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(failed.body.starts_with("This page failed.") && !failed.body.contains('<'), "{}", failed.body);
        let twice = browser.get("/shop/fails.html?again=1").await.unwrap();
        assert_eq!(twice.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(twice.body.contains("<h1>500"), "a failing error page falls back to the plain one: {}", twice.body);
        let elsewhere = browser.get("/other/").await.unwrap();
        assert!(elsewhere.body.contains("<h1>404") && elsewhere.header("x-frame-options").is_none());
    });
}

#[test]
fn a_session_cookie_of_another_name_is_sticky_too() {
    story(async {
        let (webapps, place) = Webapps::new();
        webapps.put("shop.war", &PAGES);
        let cluster = Cluster::up_in(place, 2).await;
        cluster.webapp("shop", |it| it.version.is_some()).await;
        for _ in 0..4 {
            let mut browser = cluster.browser();
            let first = browser.get("/shop/").await.unwrap();
            let cookie = first.header("set-cookie").unwrap();
            assert!(cookie.starts_with("SHOPID=") && cookie.contains("Path=/;"), "{cookie}");
            assert!(cookie.contains("SameSite=Strict") && cookie.contains("Max-Age=600"), "{cookie}");
            let node = first.header("tasuki-node").unwrap().to_owned();
            for n in 2..8 {
                let answer = browser.get("/shop/").await.unwrap();
                assert_eq!((answer.body.as_str(), answer.header("tasuki-node")), (&*n.to_string(), Some(&*node)));
                assert_eq!(answer.header("set-cookie"), None, "the session has not moved");
            }
        }
    });
}
