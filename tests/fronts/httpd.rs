//! Apache httpd with mod_proxy_balancer, set up as the seeds have it, over HTTP instead of AJP.

use std::{
    fmt::Write,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use hyper::StatusCode;

use crate::{
    house::{Front, House, a_session_outlives_its_node, by_path, installed},
    story,
    support::{skipped, wait_for},
};

const MODULES: &str = "/usr/lib/apache2/modules";
const NEEDED: [&str; 10] = [
    "mpm_event",
    "authz_core",
    "authz_host",
    "headers",
    "proxy",
    "proxy_http",
    "proxy_balancer",
    "lbmethod_byrequests",
    "slotmem_shm",
    "mime",
];

/// Where the program is, with all its modules.
fn httpd() -> Option<PathBuf> {
    let program = installed("apache2", "apache2-bin")?;
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !module(name).is_file()).collect();
    if missing.is_empty() {
        return Some(program);
    }
    skipped(&format!("this apache2 lacks the modules {missing:?} in {MODULES}"));
    None
}

fn module(name: &str) -> PathBuf {
    Path::new(MODULES).join(format!("mod_{name}.so"))
}

/// The virtual host of the seeds, with its numbers; `http` for `ajp`, and the manager's access in the words of 2.4.
fn settings(folder: &Path, listen: SocketAddr, nodes: [SocketAddr; 2]) -> String {
    let (folder, [r1, r2]) = (folder.display(), nodes);
    let mut text = String::new();
    for name in NEEDED {
        writeln!(text, "LoadModule {name}_module {}", module(name).display()).unwrap();
    }
    write!(
        text,
        r#"
ServerRoot "{folder}"
DefaultRuntimeDir "{folder}"
PidFile "{folder}/pid"
ErrorLog "{folder}/error.log"
TypesConfig /dev/null
User www-data
Group www-data
ServerName localhost
DocumentRoot "{folder}/htdocs"
Listen {listen}
<VirtualHost {listen}>
    ProxyPass /balancer-manager !
    <Location /balancer-manager>
        SetHandler balancer-manager
        Require ip 127.0.0.0/8
    </Location>
    ProxyPass /sorry.html !
    ErrorDocument 503 /sorry.html
    ProxyRequests off
    RequestHeader set X-Forwarded-Proto "http"
    ProxyPass / balancer://tomcat/ stickysession=JSESSIONID|jsessionid nofailover=Off timeout=2 maxattempts=1
    <Proxy balancer://tomcat/>
        BalancerMember http://{r1} keepalive=On retry=2 route=r1 loadfactor=50
        BalancerMember http://{r2} keepalive=On retry=2 route=r2 loadfactor=50
    </Proxy>
</VirtualHost>
"#
    )
    .unwrap();
    fs::create_dir(Path::new(&folder.to_string()).join("htdocs")).unwrap();
    fs::write(Path::new(&folder.to_string()).join("htdocs/sorry.html"), "under maintenance").unwrap();
    text
}

async fn start(program: PathBuf, house: &House) -> Front {
    let nodes = [house.nodes[0].http, house.nodes[1].http];
    let settings = |folder: &Path, listen| settings(folder, listen, nodes);
    Front::start("error.log", settings, |file| {
        let mut command = Command::new(program);
        command.arg("-f").arg(file).arg("-DFOREGROUND");
        command
    })
    .await
}

#[test]
fn behind_httpd_a_session_outlives_its_node() {
    let Some(program) = httpd() else { return };
    story(async {
        let mut house = House::open().await;
        let front = start(program, &house).await;
        a_session_outlives_its_node(&mut house, &front).await;
    });
}

#[test]
fn behind_httpd_the_session_may_be_in_the_path_and_the_sorry_page_is_httpds() {
    let Some(program) = httpd() else { return };
    story(async {
        let mut house = House::open().await;
        let front = start(program, &house).await;
        let mut browser = front.browser();
        let (node, count) = browser.count().await.unwrap();
        let session = browser.cookies["JSESSIONID"].clone();
        for more in 1..=4 {
            let answer = by_path(front.listen, &session).await;
            assert_eq!(answer.plain(), Some((node.clone(), count + more)), "sticky by the path: {answer:?}");
        }
        for route in ["r1", "r2"] {
            house.kill(route).await;
        }
        let answer = wait_for("httpd gives up", || async {
            front.browser().get("/?plain").await.ok().filter(|answer| answer.body == "under maintenance")
        })
        .await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        for index in [0, 1] {
            house.start(index);
        }
        house.settled().await;
        wait_for("httpd tries again", || async { front.browser().count().await.ok() }).await;
    });
}
