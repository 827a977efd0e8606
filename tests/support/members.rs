//! Members that are processes of their own and keep a record of what they have executed, users whose requests each have a
//! number, and the question whether any number was executed twice.
//!
//! A member writes a request into its record when it executes it, before it answers: what it did is known whatever becomes
//! of it afterwards, and a stopped one does it late. The answer to a POST that the user got is held against the record too.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    rc::Rc,
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    task::{JoinHandle, LocalSet, spawn_local},
    time::sleep,
};

use super::{browser::Browser, cluster, free_address, wait_for};

/// Makes this program a member: where it listens, and the file of its record.
const ADDRESS: &str = "TASUKI_TEST_MEMBER";
const RECORD: &str = "TASUKI_TEST_RECORD";

/// A member and its process, which ends with this value.
pub struct Member {
    pub route: String,
    pub address: SocketAddr,
    folder: PathBuf,
    /// Arguments with which this program comes to [`serve_if_asked`].
    arguments: Vec<String>,
    process: Child,
}

/// Users who read and order in turn.
pub struct Users {
    stop: Rc<Cell<bool>>,
    told: Rc<RefCell<Told>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What users were told.
#[derive(Debug, Default)]
pub struct Told {
    pub answered: u64,
    /// GETs without a good answer, and the first of them.
    pub failed_gets: u64,
    pub first_failure: Option<String>,
    /// The status of each POST by its number; 0 where the connection broke.
    pub posts: HashMap<u64, u16>,
}

/// What the records say of POSTs, held against what users were told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub executed: u64,
    /// Executed more than once.
    pub doubled: Vec<u64>,
    /// Answered with 200 and not executed.
    pub invented: Vec<u64>,
    /// Answered with 503, which says that it was not executed, and executed.
    pub denied: Vec<u64>,
    /// Answered with anything but 200: the user does not know.
    pub unclear: u64,
}

impl Member {
    /// Starts one at a free address. `arguments` lead this program to [`serve_if_asked`].
    pub async fn start(route: &str, folder: &Path, arguments: &[&str]) -> Self {
        let (address, folder) = (free_address(), folder.to_owned());
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let process = spawn(route, address, &folder, &arguments);
        let member = Self { route: route.to_owned(), address, folder, arguments, process };
        member.answers().await;
        member
    }

    /// The lines of a settings file.
    pub fn settings(&self) -> String {
        format!("[[balancer.member]]\nurl = \"http://{}\"\nroute = \"{}\"\n", self.address, self.route)
    }

    pub fn signal(&self, signal: Signal) {
        cluster::send(self.process.id(), signal);
    }

    /// SIGSTOP; it has stopped when this ends.
    pub async fn stop(&self) {
        cluster::stop(self.process.id()).await;
    }

    /// Waits until the process has ended, and starts another one at the same address.
    pub async fn again(&mut self) {
        let process = &mut self.process;
        wait_for("the member ends", || std::future::ready(process.try_wait().unwrap())).await;
        self.process = spawn(&self.route, self.address, &self.folder, &self.arguments);
        self.answers().await;
    }

    /// From now on every page takes so long.
    pub fn slow_down(&self, time: Duration) {
        fs::write(slowness(&record(&self.folder, &self.route)), time.as_millis().to_string()).unwrap();
    }

    async fn answers(&self) {
        let asked = || async { Browser::new(self.address).get("/ready").await.ok() };
        wait_for("the member answers", asked).await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.process.wait();
    }
}

fn spawn(route: &str, address: SocketAddr, folder: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments).env(ADDRESS, address.to_string()).env(RECORD, record(folder, route));
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

fn record(folder: &Path, route: &str) -> PathBuf {
    folder.join(format!("{route}.record"))
}

fn slowness(record: &Path) -> PathBuf {
    record.with_extension("slow")
}

/// A member's process: serves until SIGTERM, and does not come back. Does nothing in any other process.
pub fn serve_if_asked() {
    let (Ok(address), Some(record)) = (std::env::var(ADDRESS), std::env::var_os(RECORD)) else { return };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, serve(address.parse().unwrap(), record.into()));
    std::process::exit(0);
}

async fn serve(address: SocketAddr, record: PathBuf) {
    let listener = TcpListener::bind(address).await.unwrap();
    let file = Rc::new(OpenOptions::new().create(true).append(true).open(&record).unwrap());
    let (record, mut term) = (Rc::new(record), signal(SignalKind::terminate()).unwrap());
    let mut connections = Vec::new();
    let (leave, leaving) = tokio::sync::watch::channel(());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            _ = term.recv() => break,
        };
        stream.set_nodelay(true).unwrap();
        let (file, record, mut leaving) = (file.clone(), record.clone(), leaving.clone());
        connections.retain(|connection: &JoinHandle<()>| !connection.is_finished());
        connections.push(spawn_local(async move {
            let page = service_fn(move |request| page(file.clone(), record.clone(), request));
            let mut connection = std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), page));
            tokio::select! {
                _ = connection.as_mut() => {}
                _ = leaving.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        }));
    }
    drop((listener, leave));
    for connection in connections {
        let _ = connection.await;
    }
}

/// `GET /page?7`, `POST /order?7`: written down, then answered.
async fn page(file: Rc<File>, record: Rc<PathBuf>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let Some(number) = request.uri().query().map(str::to_owned) else { return Ok(Response::default()) };
    let method = request.method().clone();
    request.into_body().collect().await.map_err(io::Error::other)?;
    if let Ok(millis) = fs::read_to_string(slowness(&record)) {
        sleep(Duration::from_millis(millis.parse().unwrap_or_default())).await;
    }
    // One write(2), which is appended whole; a killed process has written it or not.
    (&*file).write_all(format!("{method} {number}\n").as_bytes())?;
    Ok(Response::new(Full::from(number)))
}

impl Users {
    /// Each with connections and numbers of its own. `insist` makes them send a POST again that was not answered well, as
    /// a balancer does that does not know better: a control, which has to be found out.
    pub fn start(address: SocketAddr, count: u64, insist: bool) -> Self {
        let (stop, told) = (Rc::<Cell<bool>>::default(), Rc::<RefCell<Told>>::default());
        let user = |first| spawn_local(user(address, first << 32, insist, stop.clone(), told.clone()));
        let tasks = (1..=count).map(user).collect();
        Self { stop, told, tasks }
    }

    /// Waits until so many more requests are answered well.
    pub async fn progress(&self, answers: u64) {
        let goal = self.told.borrow().answered + answers;
        wait_for("users are answered", || async { (self.told.borrow().answered >= goal).then_some(()) }).await;
    }

    /// Lets the users finish what they do, and tells what they were told.
    pub async fn finish(self) -> Told {
        self.stop.set(true);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.told.take()
    }
}

async fn user(address: SocketAddr, first: u64, insist: bool, stop: Rc<Cell<bool>>, told: Rc<RefCell<Told>>) {
    let mut browser = Browser::new(address);
    for number in first.. {
        if stop.get() {
            return;
        }
        let read = browser.get(&format!("/page?{number}")).await;
        let good = matches!(&read, Ok(answer) if answer.status == 200 && answer.body == number.to_string());
        told.borrow_mut().got(good, || format!("{read:?}"));
        let mut status = order(&mut browser, number).await;
        if insist && status != 200 {
            status = order(&mut browser, number).await;
        }
        told.borrow_mut().ordered(number, status);
    }
}

async fn order(browser: &mut Browser, number: u64) -> u16 {
    browser.post(&format!("/order?{number}"), "one").await.map_or(0, |answer| answer.status.as_u16())
}

impl Told {
    fn got(&mut self, good: bool, what: impl Fn() -> String) {
        if good {
            self.answered += 1;
        } else {
            self.failed_gets += 1;
            self.first_failure.get_or_insert_with(what);
        }
    }

    fn ordered(&mut self, number: u64, status: u16) {
        self.answered += u64::from(status == 200);
        self.posts.insert(number, status);
    }
}

impl Verdict {
    /// Reads the records of all members, as they are now.
    pub fn of(told: &Told, members: &[Member]) -> Self {
        let mut text = String::new();
        for member in members {
            File::open(record(&member.folder, &member.route)).unwrap().read_to_string(&mut text).unwrap();
        }
        Self::read(told, &text)
    }

    /// Holds records, one after the other, against what users were told.
    pub fn read(told: &Told, records: &str) -> Self {
        let mut times = HashMap::<u64, u64>::new();
        for number in records.lines().filter_map(|line| line.strip_prefix("POST ")) {
            *times.entry(number.parse().expect("a number")).or_default() += 1;
        }
        let mut verdict = Self { executed: times.values().sum(), ..Self::default() };
        verdict.doubled = times.iter().filter(|(_, times)| **times > 1).map(|(number, _)| *number).collect();
        for (number, status) in &told.posts {
            let executed = times.contains_key(number);
            match status {
                200 if !executed => verdict.invented.push(*number),
                200 => {}
                503 if executed => verdict.denied.push(*number),
                _ => verdict.unclear += 1,
            }
        }
        verdict
    }

    /// No POST was executed twice, and what was told of each is true.
    pub fn assert_once(&self) {
        let Self { executed, doubled, invented, denied, .. } = self;
        assert!(*executed > 0, "a load that orders nothing proves nothing");
        assert!(doubled.is_empty(), "executed twice: {doubled:?}");
        assert!(invented.is_empty(), "answered and never executed: {invented:?}");
        assert!(denied.is_empty(), "said to be not executed, and executed: {denied:?}");
    }
}
