//! How a balancer is replaced by a new process: the listening sockets are inherited, and the two talk through the one that
//! started them.
//!
//! ```text
//! old process            starter (`up`, or the old process)          new process
//!     │ ── restart ────────────► │ ── starts it, with the sockets ──────► │
//!     │ accepts                  │ ◄─────────────────────────── ready ─── │ accepts too
//!     │ ◄──────── replaced ───── │                                        │
//!     │ accepts no more, finishes what it has, ends                       │
//! ```
//!
//! The line is the standard input of the process, one end of a pair of sockets; words are single bytes. The listening
//! sockets come as in systemd's socket activation (`LISTEN_FDS`), the one for TLS second and the manager's under its key as its
//! name (`LISTEN_FDNAMES`), so systemd may be the starter too. The same sockets for both processes, not others with SO_REUSEPORT: there the connections that wait at the old ones
//! would be reset when they close.

use std::{
    fs::File,
    future::Future,
    io::{self, Read, Write},
    net::TcpListener,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::net::UnixStream as Pair,
    process::{ExitStatus, Stdio},
    sync::Arc,
    thread,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
    sync::{Mutex, mpsc, oneshot},
    time::timeout,
};

use crate::{balancer::Sockets, limits};

/// What is said on the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// To the starter: start a process that takes this one's place.
    Restart,
    /// To the starter: this process accepts connections.
    Ready,
    /// To the old process: the new one accepts connections.
    Replaced,
    /// To the old process: there is no new one; go on.
    Kept,
}

/// A process and the line to it.
pub(super) struct Started {
    pub(super) child: Child,
    line: UnixStream,
}

/// The line to the process that started this one.
#[derive(Clone)]
pub struct Parent {
    answers: Arc<Mutex<mpsc::Receiver<Word>>>,
}

impl Word {
    const ALL: [Self; 4] = [Self::Restart, Self::Ready, Self::Replaced, Self::Kept];

    const fn byte(self) -> u8 {
        match self {
            Self::Restart => b'R',
            Self::Ready => b'A',
            Self::Replaced => b'N',
            Self::Kept => b'K',
        }
    }

    /// Bytes that are no word are passed over: a later release may know more of them.
    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|word| word.byte() == byte)
    }
}

impl Started {
    /// Runs the command with a line as its standard input, and with the listening sockets.
    ///
    /// The sockets are inherited by this child alone, as long as no other thread starts a process at this moment; nobody
    /// does in a supervisor, which has one thread, nor in a balancer, which starts no other processes.
    pub(super) fn start(mut command: Command, door: &Sockets) -> io::Result<Self> {
        let (ours, theirs) = Pair::pair()?;
        ours.set_nonblocking(true)?;
        // Copies that a child inherits, closed here as soon as it has its own.
        let (names, sockets): (Vec<_>, Vec<_>) = door.all().unzip();
        let inherited = copies(&sockets)?;
        command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .env("LISTEN_FDS", inherited.len().to_string())
            .env("LISTEN_FDS_FIRST_FD", inherited[0].as_raw_fd().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env_remove("LISTEN_PID"); // the child's own, which nobody knows yet; without it the socket is for anyone
        Ok(Self { child: command.spawn()?, line: UnixStream::from_std(ours)? })
    }

    /// Says a word, if the child still listens.
    pub(super) async fn say(&mut self, word: Word) {
        let _ = self.line.write_u8(word.byte()).await;
    }

    /// Ends when the child accepts connections.
    ///
    /// # Errors
    /// It has ended instead.
    pub(super) async fn becomes_ready(&mut self) -> Result<(), String> {
        let ready = async { while hear(&mut self.line).await != Word::Ready {} };
        tokio::select! {
            () = ready => Ok(()),
            status = self.child.wait() => Err(match status {
                Ok(status) => format!("the new process ended, {status}; it has said why"),
                Err(error) => format!("the new process cannot be watched: {error}"),
            }),
        }
    }

    /// Ends with the next word of the child, or with the child.
    pub(super) async fn next(&mut self) -> Result<Word, io::Result<ExitStatus>> {
        tokio::select! {
            word = hear(&mut self.line) => Ok(word),
            status = self.child.wait() => Err(status),
        }
    }

    /// Hangs up, which tells the child to stop, and gives the child.
    pub(super) fn hang_up(self) -> Child {
        self.child
    }
}

/// Copies of at least one socket, whose numbers follow one another as `LISTEN_FDS` wants it.
fn copies(sockets: &[&TcpListener]) -> io::Result<Vec<OwnedFd>> {
    // The system gives the least number that is free, so each one that is kept makes the next one larger.
    let mut kept = Vec::new();
    let mut copies: Vec<OwnedFd> = Vec::new();
    while copies.len() < sockets.len() {
        let copy = rustix::io::dup(sockets[copies.len()])?;
        let follows = copies.last().is_none_or(|last| last.as_raw_fd() + 1 == copy.as_raw_fd());
        if follows {
            copies.push(copy);
        } else {
            kept.append(&mut copies);
            kept.push(copy);
        }
    }
    Ok(copies)
}

/// The next word. Never ends when the other end is closed: that a child has ended is seen elsewhere.
async fn hear(line: &mut UnixStream) -> Word {
    loop {
        match line.read_u8().await.map(Word::of) {
            Ok(Some(word)) => return word,
            Ok(None) => {}
            Err(_) => std::future::pending().await,
        }
    }
}

/// Starts reading what the starter says, on a thread of its own, which lives as long as the process. The future ends when
/// the starter has hung up: it is gone, or wants this process to stop.
pub fn parent() -> (Parent, impl Future<Output = ()> + Send + 'static) {
    let (gone, wait) = oneshot::channel::<()>();
    let (words, answers) = mpsc::channel(Word::ALL.len());
    let reader = move || {
        let mut bytes = [0; 64];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut bytes) {
                Ok(read) if read > 0 => {
                    for word in bytes[..read].iter().filter_map(|byte| Word::of(*byte)) {
                        let _ = words.try_send(word); // more than was asked for is not understood
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        drop(gone);
    };
    let started = thread::Builder::new().name("parent".to_owned()).spawn(reader);
    let gone = async move {
        match started {
            Ok(_) => drop(wait.await),
            // Better an orphan than a node that stops for want of a thread: the supervisor's kill still ends it.
            Err(_) => std::future::pending().await,
        }
    };
    (Parent { answers: Arc::new(Mutex::new(answers)) }, gone)
}

/// The listening sockets that this process was given: by a supervisor, by the process before it, or by systemd. To be
/// asked for once, before there are threads.
///
/// # Errors
/// What was given is not up to three TCP sockets that listen.
pub fn inherited_sockets() -> io::Result<Option<Sockets>> {
    let mut given = listenfd::ListenFd::from_env();
    let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let places = match places(given.len(), &names) {
        Ok(Some(places)) => places,
        Ok(None) => return Ok(None),
        Err(what) => return wrong(what),
    };
    let mut take = |place: Option<usize>| place.map_or(Ok(None), |place| given.take_tcp_listener(place));
    let Some(plain) = take(Some(places.plain))? else { return Ok(None) };
    let sockets = Sockets { plain, tls: take(places.tls)?, manager: take(places.manager)? };
    for (_, socket) in sockets.all() {
        if !SockRef::from(socket).is_listener()? {
            return wrong("a socket was given that does not listen");
        }
    }
    Ok(Some(sockets))
}

/// Which of the sockets that were given is which.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    plain: usize,
    tls: Option<usize>,
    manager: Option<usize>,
}

/// The manager's has a name; of the others the first is the plain one. None when nothing was given.
fn places(given: usize, names: &str) -> Result<Option<Places>, &'static str> {
    if given == 0 {
        return Ok(None);
    }
    let manager = names.split(':').position(|name| name == Sockets::MANAGER).filter(|place| *place < given);
    let mut others = (0..given).filter(|place| Some(*place) != manager);
    match (others.next(), others.next(), others.next()) {
        (Some(plain), tls, None) => Ok(Some(Places { plain, tls, manager })),
        (None, ..) => Err("only the manager's socket was given; the balancer listens on one for users"),
        _ => Err("too many sockets were given; the balancer listens on one for HTTP and one for TLS, and on one for \
                  its manager, which is named balancer.manager.listen"),
    }
}

/// Tells the starter that this process accepts connections. Nothing, if nobody listens there.
pub fn tell_ready() {
    let _ = say(Word::Ready);
}

fn say(word: Word) -> io::Result<()> {
    File::from(io::stdin().as_fd().try_clone_to_owned()?).write_all(&[word.byte()])
}

impl Parent {
    /// Asks the supervisor for a process in place of this one; ends when that accepts connections.
    ///
    /// # Errors
    /// Why there is none. This process is still the one.
    pub async fn replace(self) -> Result<(), String> {
        let mut answers = self.answers.lock().await;
        while answers.try_recv().is_ok() {} // an answer that came too late
        say(Word::Restart).map_err(|error| format!("the supervisor cannot be asked: {error}"))?;
        match timeout(limits::RESTART_TIMEOUT + limits::KILL_GRACE, answers.recv()).await {
            Ok(Some(Word::Replaced)) => Ok(()),
            Ok(Some(_)) => Err("the new process did not become ready; the log says why".to_owned()),
            Ok(None) => Err("the supervisor is gone".to_owned()),
            Err(_) => Err("the supervisor does not answer".to_owned()),
        }
    }
}

/// Starts a process in place of this one, where there is no supervisor; ends with its number when it accepts connections.
///
/// # Errors
/// Why there is none; what was started has been killed. This process is still the one.
pub async fn start_successor(mut command: Command, door: Sockets) -> Result<Option<u32>, String> {
    // Who stops this process meanwhile wants no other one in its place.
    command.kill_on_drop(true);
    let mut started = Started::start(command, &door).map_err(|error| format!("it cannot be started: {error}"))?;
    let pid = started.child.id();
    match timeout(limits::RESTART_TIMEOUT, started.becomes_ready()).await {
        Ok(Ok(())) => {
            std::mem::forget(started.child);
            return Ok(pid);
        }
        Ok(Err(why)) => return Err(why),
        Err(_) => {}
    }
    let _ = started.child.start_kill(); // an error means that it has ended by itself
    let _ = started.child.wait().await;
    Err(format!("the new process was not ready within {} s", limits::RESTART_TIMEOUT.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_managers_socket_is_known_by_its_name_and_the_others_by_their_order() {
        let places = |given, names: &str| places(given, names);
        let of = |plain, tls, manager| Ok(Some(Places { plain, tls, manager }));
        assert_eq!(places(0, ""), Ok(None));
        assert_eq!(places(1, ""), of(0, None, None));
        assert_eq!(places(2, "tasuki.socket:tasuki.socket"), of(0, Some(1), None));
        assert_eq!(places(2, "balancer.listen:balancer.manager.listen"), of(0, None, Some(1)));
        assert_eq!(places(3, "balancer.manager.listen:a:b"), of(1, Some(2), Some(0)));
        for (given, names) in [(3, ""), (1, Sockets::MANAGER), (4, "a:b:c:balancer.manager.listen")] {
            assert!(places(given, names).is_err(), "{given} {names}");
        }
    }
}
