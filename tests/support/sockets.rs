//! What lies in the kernel's sockets, by proc(5): what a process has not read shows nowhere else.

use std::fs;

/// Open connections to a port of this machine on which something waits to be read.
pub fn unread(port: u16) -> usize {
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().filter(|line| has_unread(line, port) == Some(true)).count()
}

/// None for the title, and for what is not ESTABLISHED.
fn has_unread(line: &str, port: u16) -> Option<bool> {
    let mut fields = line.split_whitespace().skip(1);
    let (here, _there, state, queues) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let (_unsent, unread) = queues.split_once(':')?;
    let is_here = u16::from_str_radix(here.split_once(':')?.1, 16) == Ok(port);
    (state == "01").then_some(is_here && unread.bytes().any(|digit| digit != b'0'))
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
    assert_eq!(unread(port), 0);
    client.write_all(b"hello").unwrap();
    let mut server = listener.accept().unwrap().0;
    server.peek(&mut [0; 5]).unwrap();
    assert_eq!(unread(port), 1);
    server.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(unread(port), 0);
}
