//! A real browser, driven by chromedriver over WebDriver (w3.org/TR/webdriver2): only what the tests need of it.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1::handshake, header};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{
    cluster::{children, send},
    skipped, wait_for,
};

/// A window of Chromium with a profile of its own. Whatever happens, it does not outlive the test.
pub struct Chromium {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

/// Light or dark, as the user's system has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Light,
    Dark,
}

const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The key of the tabulator, as WebDriver writes it.
pub const TAB: &str = "\u{E004}";

impl Chromium {
    /// Starts one; none, after a line that says why, where chromium or chromedriver is not installed.
    pub async fn start() -> Option<Self> {
        let missing = ["chromium", "chromedriver"].into_iter().find(|program| !is_installed(program));
        if let Some(program) = missing {
            skipped(&format!("{program} is not installed (Debian: apt-get install chromium chromium-driver)"));
            return None;
        }
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().unwrap();
        let mut said = BufReader::new(driver.stdout.take().unwrap());
        let port = said.by_ref().lines().find_map(|line| {
            line.unwrap().split_once("started successfully on port ")?.1.trim_end_matches('.').parse().ok()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.expect("chromedriver says its port")));
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let profile = tempfile::tempdir().unwrap();
        let mut window = Self { driver, address, session: String::new(), _profile: profile };
        let profile = format!("--user-data-dir={}", window._profile.path().display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &profile,
        ];
        let wanted = json!({ "goog:chromeOptions": { "args": arguments }, "goog:loggingPrefs": { "browser": "ALL" } });
        let answer = window.ask(Method::POST, "/session", json!({ "capabilities": { "alwaysMatch": wanted } })).await;
        window.session = answer["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}")).to_owned();
        Some(window)
    }

    pub async fn open(&self, url: &str) {
        self.tell("/url", json!({ "url": url })).await;
    }

    /// The first element that a CSS selector finds, once there is one, is clicked as by a mouse.
    pub async fn click(&self, selector: &str) {
        let click = || async {
            let found = self.tell("/element", json!({ "using": "css selector", "value": selector })).await;
            let element = found[ELEMENT].as_str()?;
            let answer = self.tell(&format!("/element/{element}/click"), json!({})).await;
            // The page was loaded anew between the two: nothing was clicked.
            let is_stale = answer["error"] == "stale element reference";
            assert!(answer.is_null() || is_stale, "{selector} cannot be clicked: {answer}");
            answer.is_null().then_some(())
        };
        wait_for(selector, click).await;
    }

    /// Types into a field as a keyboard would, or names the file of a file field.
    pub async fn type_into(&self, selector: &str, text: &str) {
        let found = self.tell("/element", json!({ "using": "css selector", "value": selector })).await;
        let element = found[ELEMENT].as_str().unwrap_or_else(|| panic!("no {selector}: {found}"));
        let answer = self.tell(&format!("/element/{element}/value"), json!({ "text": text })).await;
        assert!(answer.is_null(), "{selector} takes no text: {answer}");
    }

    /// What an element says.
    pub async fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector('{selector}')?.textContent.trim() ?? ''");
        self.run(&script).await.as_str().unwrap_or_default().to_owned()
    }

    /// Presses one key where the focus is.
    pub async fn press(&self, key: &str) {
        let stroke = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        let keyboard = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": stroke }] });
        self.tell("/actions", keyboard).await;
    }

    /// What the body of a function gives.
    pub async fn run(&self, script: &str) -> Value {
        self.tell("/execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Waits until an expression is true.
    pub async fn until(&self, expression: &str) {
        let is_true = || async { (self.run(&format!("return {expression}")).await == true).then_some(()) };
        wait_for(expression, is_true).await;
    }

    /// The size of the window, and the colours its user prefers.
    pub async fn look_like(&self, width: u32, height: u32, scheme: Scheme) {
        let value = if scheme == Scheme::Dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// With or without scripts, from the next page on.
    pub async fn scripts(&self, are_run: bool) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": !are_run })).await;
    }

    /// A picture of the whole page, in the folder of the variable TASUKI_SCREENSHOTS, if it is set.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("TASUKI_SCREENSHOTS") else { return };
        let shot = self.devtools("Page.captureScreenshot", json!({ "captureBeyondViewport": true })).await;
        let png = base64(shot["data"].as_str().unwrap());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), png).unwrap();
    }

    /// What the page and the browser complained of.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.tell("/se/log", json!({ "type": "browser" })).await;
        log.as_array().unwrap().iter().map(|line| line["message"].to_string()).collect()
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.tell("/goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    async fn tell(&self, command: &str, body: Value) -> Value {
        self.ask(Method::POST, &format!("/session/{}{command}", self.session), body).await
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        let request = Request::builder().method(method).uri(path).header(header::HOST, self.address.to_string());
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let answer = sender.send_request(request.body(Full::<Bytes>::from(body.to_string())).unwrap()).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        serde_json::from_slice::<Value>(&body).unwrap()["value"].take()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let mut all = vec![self.driver.id()];
        let mut at = 0;
        while at < all.len() {
            all.extend(children(all[at]));
            at += 1;
        }
        all.into_iter().for_each(|pid| send(pid, Signal::KILL));
        let _ = self.driver.wait();
    }
}

fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Standard alphabet, as pictures come (RFC 4648 section 4).
fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let join = |four: &[u8]| {
        let bits = four.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(join).collect()
}
