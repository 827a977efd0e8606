use actix_web::cookie::SameSite;

use super::*;

fn parsed(source: &str) -> Result<(Descriptor, Vec<Remark>), Malformed> {
    parse(source, &"/shop".parse().unwrap())
}

/// A descriptor with this inside of its root, on its second line.
fn with(inside: &str) -> Result<(Descriptor, Vec<Remark>), Malformed> {
    parsed(&format!("<web-app>\n{inside}</web-app>"))
}

fn cookie(config: &str) -> Result<CookieRules, Malformed> {
    let source = format!("<session-config>\n<cookie-config>{config}</cookie-config></session-config>");
    with(&source).map(|(descriptor, _)| descriptor.cookie)
}

#[test]
fn the_seeds_descriptor_is_distributable() {
    let source = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<web-app xmlns=\"http://xmlns.jcp.org/xml/ns/javaee\" \
                  version=\"3.1\">\n<distributable/>\n</web-app>\n";
    let (descriptor, remarks) = parsed(source).unwrap();
    assert_eq!(descriptor, Descriptor { distributable: true, ..Descriptor::default() });
    assert_eq!(remarks, []);
}

#[test]
fn everything_that_is_used_is_read() {
    let source = "<!-- ours --><j:web-app xmlns:j='x'><display-name>R&amp;D <![CDATA[<shop>]]> &#x7533;</display-name>\
        <session-config><session-timeout> 5 </session-timeout></session-config><distributable></distributable>\
        <welcome-file-list><welcome-file>start.html</welcome-file><welcome-file>index.html</welcome-file>\
        </welcome-file-list><context-param><param-name>a</param-name><param-value>1</param-value></context-param>\
        <context-param><param-value/><param-name>b</param-name></context-param></j:web-app>";
    let (descriptor, remarks) = parsed(source).unwrap();
    assert_eq!(remarks, []);
    assert_eq!(descriptor.display_name.as_deref(), Some("R&D <shop> 申"));
    assert_eq!(descriptor.session_timeout, SessionTimeout::After(Duration::from_secs(300)));
    assert_eq!(descriptor.welcome_files, ["start.html", "index.html"]);
    assert_eq!(descriptor.parameters, [("a".into(), "1".into()), ("b".into(), "".into())]);
    assert!(descriptor.distributable);
}

#[test]
fn a_timeout_of_zero_or_less_never_ends() {
    for (text, timeout) in [("0", SessionTimeout::Never), ("-1", SessionTimeout::Never)] {
        let source =
            format!("<web-app><session-config><session-timeout>{text}</session-timeout></session-config></web-app>");
        assert_eq!(parsed(&source).unwrap().0.session_timeout, timeout);
    }
}

#[test]
fn unknown_elements_are_skipped_whole_and_named_with_their_line() {
    let source = "<web-app>\n<servlet>\n<distributable/><x>a</x>\n</servlet>\n\
                  <session-config>\n<cookies/></session-config></web-app>";
    let (descriptor, remarks) = parsed(source).unwrap();
    assert!(!descriptor.distributable);
    assert_eq!(remarks.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 6]);
    assert!(remarks[0].what.contains("<servlet>") && remarks[1].what.contains("<cookies>"));
}

#[test]
fn a_malformed_file_is_refused_with_line_and_column() {
    for (source, line, what) in [
        ("<web-app>\n  <distributable>\n</web-app>", 3, "distributable"),
        ("<web-app>\n<display-name>x", 2, "display-name"),
        ("<!DOCTYPE web-app [<!ENTITY a 'b'>]>\n<web-app/>", 1, "DOCTYPE"),
        ("<web-app>\n\n<display-name>&a;</display-name></web-app>", 3, "&a;"),
        ("<web-app/>\n<web-app/>", 2, "root"),
        ("<html/>", 1, "<html>"),
        ("", 1, "<web-app>"),
        ("<web-app/>\ntext", 2, "text"),
        ("<web-app><session-config>\n<session-timeout>soon</session-timeout></session-config></web-app>", 2, "soon"),
        ("<web-app>\n<context-param><param-name>a</param-name></context-param></web-app>", 2, "param-value"),
        ("<web-app a=b", 1, ""),
    ] {
        let fault = parsed(source).expect_err(source);
        assert_eq!(fault.line, line, "{source}: {fault:?}");
        assert!(fault.what.contains(what) && fault.column > 0, "{source}: {fault:?}");
    }
}

#[test]
fn many_unknown_elements_leave_a_bounded_number_of_remarks() {
    let source = format!("<web-app>{}</web-app>", "<x/>".repeat(10_000));
    assert_eq!(parsed(&source).unwrap().1.len(), limits::WEBAPP_REMARKS);
}

#[test]
fn deep_and_endless_files_are_refused() {
    let deep = "<a>".repeat(limits::DESCRIPTOR_DEPTH + 1);
    assert!(with(&deep).unwrap_err().what.contains("nested deeper"));
    let endless = "<x/>".repeat(limits::DESCRIPTOR_ELEMENTS + 1);
    assert!(with(&endless).unwrap_err().what.contains("elements"));
}

#[test]
fn the_session_cookie_is_as_the_file_says() {
    assert_eq!(cookie("").unwrap(), CookieRules::default());
    let config = "<name>SHOPID</name><domain>.example.com</domain><path>/</path><comment>ours</comment>\
                  <http-only>true</http-only><secure>true</secure><max-age>600</max-age><attribute>\
                  <attribute-name>samesite</attribute-name><attribute-value>None</attribute-value></attribute>";
    let rules = CookieRules {
        name: Some("SHOPID".into()),
        path: Some("/".into()),
        domain: Some("example.com".into()),
        http_only: true,
        secure: Secure::Always,
        same_site: SameSite::None,
        max_age: Some(Duration::from_secs(600)),
    };
    assert_eq!(cookie(config).unwrap(), rules);
    for path in ["/", "/shop", "/shop/"] {
        assert_eq!(cookie(&format!("<path>{path}</path>")).unwrap().path.as_deref(), Some(path));
    }
    assert_eq!(cookie("<max-age>-1</max-age>").unwrap().max_age, None);
    assert!(cookie("<name>__Host-s</name><secure>true</secure><path>/</path>").is_ok());
}

#[test]
fn a_cookie_that_browsers_would_throw_away_is_refused() {
    let none =
        "<attribute><attribute-name>SameSite</attribute-name><attribute-value>None</attribute-value></attribute>";
    let odd = none.replace("None", "Sometimes");
    for (config, what) in [
        (none, "<secure>true</secure>"),
        (odd.as_str(), "Sometimes"),
        ("<path>/cart</path>", "does not cover"),
        ("<path>/sho</path>", "does not cover"),
        ("<path>/shop/cart</path>", "does not cover"),
        ("<path>shop</path>", "does not cover"),
        ("<path>/;x</path>", "does not cover"),
        ("<name>__Host-s</name>", "__Host-"),
        ("<name>__Host-s</name><secure>true</secure>", "<path>/</path>"),
        ("<name>__host-s</name><secure>true</secure><path>/</path><domain>a.b</domain>", "no <domain>"),
        ("<name>__Secure-s</name>", "__Secure-"),
        ("<name>a b</name>", "a b"),
        ("<name/>", "name"),
        ("<domain>a..b</domain>", "a..b"),
        ("<http-only>yes</http-only>", "yes"),
        ("<max-age>0</max-age>", "above 0"),
        ("<max-age>1h</max-age>", "1h"),
    ] {
        let fault = cookie(config).expect_err(config);
        assert!(fault.what.contains(what) && fault.line == 3, "{config}: {fault:?}");
    }
}

#[test]
fn what_weakens_a_cookie_and_other_ways_to_track_are_remarked() {
    let (descriptor, remarks) = with(
        "<session-config><cookie-config>\n<http-only>false</http-only></cookie-config>\n\
         <tracking-mode>COOKIE</tracking-mode>\n<tracking-mode>URL</tracking-mode></session-config>",
    )
    .unwrap();
    assert!(!descriptor.cookie.http_only);
    assert_eq!(remarks.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 5]);
    assert!(remarks[0].what.contains("scripts") && remarks[1].what.contains("URL"));
}

#[test]
fn error_pages_are_found_by_status() {
    let (descriptor, remarks) = with(
        "<error-page><error-code>404</error-code><location>/404.html</location></error-page>\n\
         <error-page><location>/error.html</location></error-page>\n\
         <error-page><exception-type>java.lang.Throwable</exception-type><location>/x.html</location></error-page>",
    )
    .unwrap();
    let pages = descriptor.error_pages;
    assert_eq!((pages.of(404), pages.of(500)), (Some("/404.html"), Some("/error.html")));
    assert_eq!(pages.all().map(|page| page.line).collect::<Vec<_>>(), [2, 3]);
    assert!(remarks.len() == 1 && remarks[0].what.contains("exception-type"));
    assert_eq!(ErrorPages::default().of(404), None);
    for bad in [
        "<error-page><error-code>404</error-code></error-page>",
        "<error-page><error-code>200</error-code><location>/a</location></error-page>",
        "<error-page><error-code>all</error-code><location>/a</location></error-page>",
        "<error-page><location>a.html</location></error-page>",
        "<error-page><location>/a?b</location></error-page>",
    ] {
        assert_eq!(with(bad).expect_err(bad).line, 2);
    }
}

#[test]
fn content_types_are_found_by_the_end_of_a_name() {
    let mapping = |end: &str, mime: &str| {
        with(&format!("<mime-mapping><extension>{end}</extension><mime-type>{mime}</mime-type></mime-mapping>"))
    };
    let (descriptor, _) = mapping("GeoJSON", "application/geo+json").unwrap();
    assert_eq!(descriptor.content_type("/maps/a.b.geojson"), Some("application/geo+json"));
    assert_eq!((descriptor.content_type("geojson"), descriptor.content_type("a.json")), (None, None));
    for (end, mime) in [("", "text/plain"), (".x", "text/plain"), ("x", ""), ("x", "text"), ("x", "text/pl\u{e9}in")] {
        assert!(mapping(end, mime).is_err(), "{end:?} {mime:?}");
    }
}

#[test]
fn headers_and_concurrency_are_context_parameters() {
    let parameter = |name: &str, value: &str| {
        with(&format!(
            "<context-param><param-name>{name}</param-name><param-value>{value}</param-value></context-param>"
        ))
    };
    let (descriptor, _) = parameter("response.header.Content-Security-Policy", "default-src 'self'").unwrap();
    let (name, value) = &descriptor.headers[0];
    assert_eq!((name.as_str(), value.to_str().unwrap()), ("content-security-policy", "default-src 'self'"));
    assert_eq!(descriptor.parameters.len(), 1, "pages see it too");
    assert_eq!(parameter("session.concurrency", "parallel").unwrap().0.concurrency, Concurrency::Parallel);
    for (name, value) in [
        ("response.header.", "x"),
        ("response.header.a b", "x"),
        ("response.header.Set-Cookie", "a=b"),
        ("response.header.Content-Length", "1"),
        ("response.header.Connection", "close"),
        ("response.header.Transfer-Encoding", "chunked"),
        ("response.header.Tasuki-Retry", "any"),
        ("response.header.X", "a\nb"),
        ("session.concurrency", "both"),
    ] {
        assert_eq!(parameter(name, value).expect_err(name).line, 2, "{name}");
    }
}
