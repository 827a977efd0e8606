//! A network that a test holds in its hand: machines are network namespaces of this one, and everything between them
//! passes through here, byte by byte, and can be delayed, stopped or lost.
//!
//! ```text
//!   namespace r1                     this process                     namespace r2
//!   r1 ── 127.0.0.1:4001 ──► listener ──► delay, gate ──► connection ──► 127.0.0.1:4001 ── r2
//! ```
//!
//! In each namespace the addresses of all others are listened on, so nobody notices that there is a relay: members
//! announce their own addresses and are reached there. What is under way when a machine is lost is lost with it, as in a
//! power cut. A plain kill -9 proves less: the kernel still delivers what the process has written.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    rc::Rc,
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::{AbortHandle, spawn_local},
    time::{Instant, sleep_until},
};

use super::cluster::run_by;

/// The name of a machine.
pub type Name = &'static str;

/// Chunks of one direction of one connection that are under way; then the sender is held back.
const CHUNKS: usize = 64;
const CHUNK_BYTES: usize = 16 * 1024;

/// Machines and everything between them. A handle.
#[derive(Clone)]
pub struct Network(Rc<Inner>);

struct Inner {
    spaces: BTreeMap<Name, Space>,
    /// On which machine an address is at home.
    homes: RefCell<BTreeMap<SocketAddr, Name>>,
    ways: RefCell<BTreeMap<(Name, Name), Rc<Way>>>,
    /// The datagram sockets that stand for others, by the machine they are on.
    doors: RefCell<BTreeMap<(Name, SocketAddr), Rc<tokio::net::UdpSocket>>>,
    connections: RefCell<Vec<(Name, Name, AbortHandle)>>,
}

/// One direction between two machines.
struct Way {
    /// For connections.
    open: watch::Sender<bool>,
    /// Of a hundred datagrams.
    lost_datagrams: Cell<u32>,
    /// Of connections, in milliseconds. Datagrams are not delayed.
    delay: RefCell<Range<u32>>,
    /// Datagrams and chunks that went through.
    passed: Cell<u64>,
}

/// A namespace, and a thread that lives in it: a socket belongs to where it was made.
struct Space {
    holder: Child,
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Network {
    /// Makes the machines, each with nothing but its loopback.
    ///
    /// # Errors
    /// Why that cannot be done here: it takes root, or at least `CAP_SYS_ADMIN`, and util-linux and iproute2.
    pub fn new(machines: &[Name]) -> Result<Self, String> {
        let mut spaces = BTreeMap::new();
        for name in machines {
            spaces.insert(*name, Space::open().map_err(|error| format!("no network namespaces here: {error}"))?);
        }
        Ok(Self(Rc::new(Inner {
            spaces,
            homes: RefCell::default(),
            ways: RefCell::default(),
            doors: RefCell::default(),
            connections: RefCell::default(),
        })))
    }

    /// The command, on a machine.
    pub fn on(&self, machine: Name, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.arg(format!("--net=/proc/{}/ns/net", self.0.spaces[machine].holder.id())).arg("--");
        run_by(entered, command)
    }

    /// Lets all other machines connect to an address of this one.
    pub fn connect(&self, home: Name, address: SocketAddr) {
        for machine in self.others(home) {
            let listener = self.0.spaces[machine].within(move || TcpListener::bind(address)).unwrap();
            self.accept(machine, listener, home, address);
        }
    }

    /// Lets all other machines send datagrams to an address of this one.
    pub fn datagrams(&self, home: Name, address: SocketAddr) {
        self.0.homes.borrow_mut().insert(address, home);
        for machine in self.others(home) {
            self.door(machine, address).unwrap();
        }
    }

    /// An address of this process that leads to one of a machine.
    pub fn door_to(&self, home: Name, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = listener.local_addr().unwrap();
        self.accept("outside", listener, home, address);
        door
    }

    /// Delays connections between two machines, each chunk by so many milliseconds, in order.
    pub fn delay(&self, a: Name, b: Name, millis: Range<u32>) {
        for (from, to) in [(a, b), (b, a)] {
            *self.way(from, to).delay.borrow_mut() = millis.clone();
        }
    }

    /// Nothing gets from one machine to another any more. What is under way waits; datagrams are lost.
    pub fn stop(&self, from: Name, to: Name) {
        self.clog(from, to);
        self.lose_datagrams(from, to, 100);
    }

    /// How many of a hundred datagrams are lost; connections go on.
    pub fn lose_datagrams(&self, from: Name, to: Name, percent: u32) {
        self.way(from, to).lost_datagrams.set(percent);
    }

    /// The same of connections only: for the sender the other machine takes bytes and reads none of them.
    pub fn clog(&self, from: Name, to: Name) {
        self.way(from, to).open.send_replace(false);
    }

    /// It does again, in order, as TCP would repeat it.
    pub fn go(&self, from: Name, to: Name) {
        self.way(from, to).open.send_replace(true);
        self.lose_datagrams(from, to, 0);
    }

    /// Ends every connection between two machines, and loses what was under way.
    pub fn lose(&self, a: Name, b: Name) {
        self.0.connections.borrow_mut().retain(|(from, to, task)| {
            let between = (*from, *to) == (a, b) || (*from, *to) == (b, a);
            if between {
                task.abort();
            }
            !between && !task.is_finished()
        });
    }

    /// Chunks and datagrams that got from one machine to another.
    pub fn passed(&self, from: Name, to: Name) -> u64 {
        self.way(from, to).passed.get()
    }

    fn others(&self, home: Name) -> Vec<Name> {
        self.0.spaces.keys().copied().filter(|name| *name != home).collect()
    }

    fn way(&self, from: Name, to: Name) -> Rc<Way> {
        let new = || {
            let (lost_datagrams, passed) = (Cell::new(0), Cell::new(0));
            Rc::new(Way { open: watch::Sender::new(true), lost_datagrams, delay: RefCell::new(0..0), passed })
        };
        self.0.ways.borrow_mut().entry((from, to)).or_insert_with(new).clone()
    }

    // --- connections ---

    fn accept(&self, from: Name, listener: TcpListener, home: Name, address: SocketAddr) {
        listener.set_nonblocking(true).unwrap();
        let (network, listener) = (self.clone(), tokio::net::TcpListener::from_std(listener).unwrap());
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let relay = network.clone().relay(from, stream, home, address);
                let task = spawn_local(relay).abort_handle();
                let mut connections = network.0.connections.borrow_mut();
                connections.retain(|(_, _, task)| !task.is_finished());
                connections.push((from, home, task));
            }
        });
    }

    async fn relay(self, from: Name, stream: tokio::net::TcpStream, home: Name, address: SocketAddr) {
        let (there, back) = (self.way(from, home), self.way(home, from));
        there.is_open().await;
        let connected = self.0.spaces[home].within(move || {
            let stream = TcpStream::connect(address)?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(stream)
        });
        let Ok(other) = connected.and_then(tokio::net::TcpStream::from_std) else { return };
        let _ = stream.set_nodelay(true);
        let ((mut read, mut write), (mut other_read, mut other_write)) = (stream.into_split(), other.into_split());
        let forth = there.carry(&mut read, &mut other_write);
        let back = back.carry(&mut other_read, &mut write);
        // When one side has ended the other one may still have something to say.
        tokio::join!(forth, back);
    }

    // --- datagrams ---

    /// The socket on a machine that stands for an address elsewhere.
    fn door(&self, machine: Name, address: SocketAddr) -> io::Result<Rc<tokio::net::UdpSocket>> {
        if let Some(door) = self.0.doors.borrow().get(&(machine, address)) {
            return Ok(door.clone());
        }
        let socket = self.0.spaces[machine].within(move || {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        })?;
        let socket = Rc::new(tokio::net::UdpSocket::from_std(socket)?);
        self.0.doors.borrow_mut().insert((machine, address), socket.clone());
        let (network, door) = (self.clone(), socket.clone());
        spawn_local(async move {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                // An error is that of an earlier datagram, which nobody took.
                if let Ok((length, from)) = door.recv_from(&mut buffer).await {
                    network.pass(machine, from, address, &buffer[..length]).await;
                }
            }
        });
        Ok(socket)
    }

    async fn pass(&self, machine: Name, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        self.0.homes.borrow_mut().entry(from).or_insert(machine);
        let Some(home) = self.0.homes.borrow().get(&to).copied() else { return };
        let way = self.way(machine, home);
        // A port that somebody there uses already cannot be stood for: the datagram is lost.
        if getrandom::u32().unwrap() % 100 >= way.lost_datagrams.get()
            && let Ok(door) = self.door(home, from)
        {
            way.passed.set(way.passed.get() + 1);
            let _ = door.send_to(datagram, to).await;
        }
    }
}

impl Way {
    async fn is_open(&self) {
        // The sender is this way's own.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// Carries bytes until their end, later and in order.
    async fn carry(&self, from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin)) {
        let (sent, mut arrived) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
        let reader = async move {
            let (mut chunk, mut due) = (vec![0; CHUNK_BYTES], Instant::now());
            while let Ok(length @ 1..) = from.read(&mut chunk).await {
                due = due.max(Instant::now() + self.draw());
                if sent.send((due, chunk[..length].to_vec())).await.is_err() {
                    break;
                }
            }
        };
        let writer = async {
            while let Some((due, chunk)) = arrived.recv().await {
                sleep_until(due).await;
                self.is_open().await;
                if to.write_all(&chunk).await.is_err() {
                    break;
                }
                self.passed.set(self.passed.get() + 1);
            }
            let _ = to.shutdown().await;
            arrived.close();
        };
        tokio::join!(reader, writer);
    }

    fn draw(&self) -> Duration {
        let Range { start, end } = self.delay.borrow().clone();
        let span = end.saturating_sub(start).max(1);
        Duration::from_millis(u64::from(start + getrandom::u32().unwrap() % span))
    }
}

impl Space {
    fn open() -> io::Result<Self> {
        // It ends with its standard input, that is, with this process.
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat"]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said)?;
        let (jobs, taken) = mpsc::channel::<Job>();
        let space = Self { holder, jobs };
        if said.trim() != "up" {
            return Err(io::Error::other("unshare --net is refused"));
        }
        let place = File::open(format!("/proc/{}/ns/net", space.holder.id()))?;
        let (entered, result) = mpsc::channel();
        thread::spawn(move || {
            let entering = move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network));
            let is_in = entering.is_ok();
            let _ = entered.send(entering);
            while let (true, Ok(job)) = (is_in, taken.recv()) {
                job();
            }
        });
        result.recv().map_err(io::Error::other)??;
        Ok(space)
    }

    /// Does something on that machine.
    fn within<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(done.send(act())))).unwrap();
        result.recv().unwrap()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
