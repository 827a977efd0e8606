//! Two real Tomcats behind tasuki's balancer, as Debian packages them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{
    foreign::{door, users_stay},
    house::installed,
    story,
    support::{browser::Browser, cluster::Place, free_address, skipped, wait_for},
};

const HOME: &str = "/usr/share/tomcat10";

/// The settings that its JSP compiler comes from.
const WEB_XML: &str = "/etc/tomcat10/web.xml";

/// The page has the name that the other servers of these tests give it.
const APPLICATION: &str = r#"<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0"><servlet-mapping>
<servlet-name>jsp</servlet-name><url-pattern>/index.html</url-pattern>
</servlet-mapping></web-app>"#;

const PAGE: &str = r#"<%@ page contentType="text/plain" trimDirectiveWhitespaces="true" %><%
Integer count = (Integer) session.getAttribute("count");
count = count == null ? 1 : count + 1;
session.setAttribute("count", count);
String id = session.getId();
out.print("[" + id.substring(id.indexOf('.') + 1) + "]\n" + count + "\n");
%>"#;

/// A Tomcat in a folder of its own, ended with this value.
struct Tomcat {
    address: SocketAddr,
    child: Child,
}

/// Where Java is, if there is a Tomcat for it.
fn java() -> Option<PathBuf> {
    if !Path::new(HOME).join("bin/bootstrap.jar").is_file() || !Path::new(WEB_XML).is_file() {
        skipped("Tomcat is not installed (Debian: apt-get install tomcat10)");
        return None;
    }
    installed("java", "default-jre-headless")
}

impl Tomcat {
    fn start(java: &Path, base: PathBuf, route: &str) -> Self {
        let address = free_address();
        for folder in ["conf", "temp", "logs", "work", "webapps/ROOT/WEB-INF"] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        fs::write(base.join("conf/server.xml"), server_xml(address, route)).unwrap();
        fs::copy(WEB_XML, base.join("conf/web.xml")).unwrap();
        fs::write(base.join("webapps/ROOT/index.html"), PAGE).unwrap();
        fs::write(base.join("webapps/ROOT/WEB-INF/web.xml"), APPLICATION).unwrap();
        let said = fs::File::create(base.join("said")).unwrap();
        let child = Command::new(java)
            .args(["-Xmx128m", "-cp", &format!("{HOME}/bin/bootstrap.jar:{HOME}/bin/tomcat-juli.jar")])
            .arg(format!("-Dcatalina.home={HOME}"))
            .arg(format!("-Dcatalina.base={}", base.display()))
            .arg(format!("-Djava.io.tmpdir={}", base.join("temp").display()))
            .args(["org.apache.catalina.startup.Bootstrap", "start"])
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn();
        Self { address, child: child.unwrap() }
    }

    async fn answers(&self) {
        wait_for("the Tomcat answers", || async { Browser::new(self.address).count().await.ok() }).await;
    }
}

impl Drop for Tomcat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server_xml(address: SocketAddr, route: &str) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        r#"<Server port="-1"><Service name="Catalina">
        <Connector port="{port}" address="{ip}" protocol="HTTP/1.1"/>
        <Engine name="Catalina" defaultHost="localhost" jvmRoute="{route}">
        <Host name="localhost" appBase="webapps" autoDeploy="false"/>
        </Engine></Service></Server>"#
    )
}

#[test]
fn real_tomcats_keep_their_users_by_their_jvm_route_and_the_users_of_a_killed_one_go_to_the_other() {
    let Some(java) = java() else { return };
    story(async {
        let place = Place::new();
        let start = |route: &str| Tomcat::start(&java, place.path(route), route);
        let tomcats = [start("tomcat1"), start("tomcat2")];
        for tomcat in &tomcats {
            tomcat.answers().await;
        }
        let [one, two] = tomcats;
        let (_balancer, listen) = door(&place, &[("tomcat1", one.address), ("tomcat2", two.address)]).await;
        users_stay(listen).await;
        let mut browser = Browser::new(listen);
        let (home, _) = browser.count().await.unwrap();
        let (killed, other) = if home == "tomcat1" { (one, "tomcat2") } else { (two, "tomcat1") };
        drop(killed);
        assert_eq!(browser.count().await.unwrap(), (other.to_owned(), 1), "its sessions are its own");
        assert_eq!(browser.count().await.unwrap(), (other.to_owned(), 2));
    });
}
