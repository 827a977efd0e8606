//! Clients on a thread of their own, each with one connection and one request at a time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
    task::LocalSet,
};

/// With what a browser sends, and a session of the one member.
pub(crate) const PAGE: &[u8] =
    b"GET /page HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
    Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\n\
    Cookie: JSESSIONID=00112233445566778899AABBCCDDEEFF.r1\r\n\r\n";

pub(crate) struct Load {
    connections: usize,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    /// Connections that have had an answer.
    warm: AtomicUsize,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, connections: usize, request: &[u8]) -> Self {
        let shared = Arc::<Shared>::default();
        let (clients, request) = (shared.clone(), Arc::<[u8]>::from(request));
        let thread = thread::spawn(move || {
            block_on(async {
                let client = |_| tokio::task::spawn_local(client(address, request.clone(), clients.clone()));
                for client in (0..connections).map(client).collect::<Vec<_>>() {
                    client.await.unwrap();
                }
            });
        });
        Self { connections, shared, thread }
    }

    pub(crate) fn wait_until_all_are_answered(self) -> Self {
        let begun = Instant::now();
        while self.shared.warm.load(Relaxed) < self.connections {
            assert!(begun.elapsed() < Duration::from_secs(30), "not all connections are answered");
            thread::sleep(Duration::from_millis(5));
        }
        self
    }

    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Relaxed)
    }

    /// # Panics
    /// When a request failed.
    pub(crate) fn finish(self) {
        self.shared.stop.store(true, Relaxed);
        self.thread.join().unwrap();
    }
}

/// So many connections, each of which has had an answer and waits.
pub(crate) fn idle(address: SocketAddr, connections: usize) -> Vec<std::net::TcpStream> {
    block_on(async {
        let mut idle = Vec::with_capacity(connections);
        let mut buffer = vec![0; 4 * 1024];
        for _ in 0..connections {
            let mut stream = TcpStream::connect(address).await.expect("a connection (see ulimit -n)");
            exchange(&mut stream, PAGE, &mut buffer).await;
            idle.push(stream.into_std().unwrap());
        }
        idle
    })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, work)
}

async fn client(address: SocketAddr, request: Arc<[u8]>, shared: Arc<Shared>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    exchange(&mut stream, &request, &mut buffer).await;
    shared.warm.fetch_add(1, Relaxed);
    while !shared.stop.load(Relaxed) {
        exchange(&mut stream, &request, &mut buffer).await;
        shared.answered.fetch_add(1, Relaxed);
    }
}

/// One request and the whole of its answer, whose body has a length or comes in chunks.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) {
    stream.write_all(request).await.unwrap();
    let mut filled = 0;
    let end = loop {
        filled += read(stream, &mut buffer[filled..]).await;
        if let Some(head) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
            break head + 4;
        }
    };
    assert!(buffer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&buffer[..end]));
    match length(&buffer[..end]) {
        Some(length) => {
            let mut left = length - (filled - end);
            while left > 0 {
                left -= read(stream, buffer).await;
            }
        }
        None => {
            while !buffer[..filled].ends_with(b"\r\n0\r\n\r\n") {
                filled += read(stream, &mut buffer[filled..]).await;
            }
        }
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> usize {
    let read = stream.read(buffer).await.unwrap();
    assert!(read > 0, "the server closed a connection, or its answer is too long");
    read
}

fn length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length: ";
    let at = head.windows(NAME.len()).position(|window| window.eq_ignore_ascii_case(NAME))? + NAME.len();
    let digits = head[at..].split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
