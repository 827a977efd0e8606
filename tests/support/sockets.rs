//! What lies in the kernel's sockets, by proc(5): what a process has not read shows nowhere else.

use std::fs;

/// One end of an open connection between two ports.
struct End {
    here: u16,
    there: u16,
    /// Bytes that the other machine has not acknowledged.
    under_way: u32,
    /// Bytes that this process has not read.
    unread: u32,
}

/// Whether all that was written on the connection from one port to the other one has been read.
pub fn is_read(from: u16, to: u16) -> bool {
    let ends = ends();
    let of = |here, there| ends.iter().find(|end| (end.here, end.there) == (here, there));
    // In this order: what is acknowledged has come.
    of(from, to).is_some_and(|end| end.under_way == 0) && of(to, from).is_some_and(|end| end.unread == 0)
}

/// Connections to a port on which something waits to be read.
pub fn unread(port: u16) -> usize {
    ends().iter().filter(|end| end.here == port && end.unread > 0).count()
}

fn ends() -> Vec<End> {
    fs::read_to_string("/proc/net/tcp").unwrap().lines().filter_map(end).collect()
}

/// None for the title, and for what is not ESTABLISHED.
fn end(line: &str) -> Option<End> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, here, there, "01", queues, ..] = fields[..] else { return None };
    let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
    let (under_way, unread) = queues.split_once(':')?;
    let bytes = |number| u32::from_str_radix(number, 16).ok();
    Some(End { here: port(here)?, there: port(there)?, under_way: bytes(under_way)?, unread: bytes(unread)? })
}

#[test]
fn what_was_read_is_not_unread() {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let from = client.local_addr().unwrap().port();
    client.write_all(b"hello").unwrap();
    assert!(!is_read(from, port));
    let mut server = listener.accept().unwrap().0;
    server.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(unread(port), 0);
    let begun = std::time::Instant::now();
    while !is_read(from, port) {
        assert!(begun.elapsed() < super::DEADLINE, "never acknowledged");
    }
}
