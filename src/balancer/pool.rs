//! Connections to members that wait for a request: one pool on each worker, nothing shared between workers.
//!
//! Last in, first out, so that few connections stay warm and the others grow old. Before one carries a request that could
//! not be repeated, the kernel is asked whether the member has closed it meanwhile: tokio learns that only when it looks at
//! its sockets next, and a POST written in between could not be sent again. Any other request is sent again where that
//! happens (`retry`), which is cheaper than to ask each time. A connection is also asked about when its last answer had no
//! body, for a member that sent one all the same (RFC 9112 section 9.2).

use std::{cell::RefCell, collections::HashMap};

use super::connection::Connection;
use crate::{limits, time::Moment};

/// Idle connections of one worker, by the life of the member.
#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<u64, Vec<Idle>>>,
}

/// What would follow if the member had closed the connection at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stakes {
    /// The request goes out again on a fresh connection.
    Repeatable,
    /// It would be lost.
    Once,
}

struct Idle {
    connection: Connection,
    since: Moment,
}

impl Pool {
    /// The connection to this life of a member that was used last, if one is still good.
    pub(crate) fn take(&self, serial: u64, stakes: Stakes, now: Moment) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let stack = idle.get_mut(&serial)?;
        while let Some(Idle { connection, since }) = stack.pop() {
            let is_good = stakes == Stakes::Repeatable && !connection.is_suspect() || connection.is_open();
            if now.since(since) < limits::POOL_IDLE && is_good {
                return Some(connection);
            }
        }
        None
    }

    /// Gives a connection back after its answer was read whole. Above [`limits::POOL_CONNECTIONS`] it is closed.
    pub(crate) fn put(&self, serial: u64, mut connection: Connection, now: Moment) {
        if !connection.is_reusable() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let stack = idle.entry(serial).or_default();
        if stack.len() < limits::POOL_CONNECTIONS {
            stack.push(Idle { connection, since: now });
        }
    }

    /// Closes what grew old, what members have closed, and what belongs to members that are not `kept`.
    pub(crate) fn sweep(&self, now: Moment, kept: impl Fn(u64) -> bool) {
        self.idle.borrow_mut().retain(|serial, stack| {
            stack.retain_mut(|idle| now.since(idle.since) < limits::POOL_IDLE && idle.connection.is_reusable());
            kept(*serial) && !stack.is_empty()
        });
    }

    #[cfg(test)]
    pub(crate) fn idle(&self) -> usize {
        self.idle.borrow().values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

    use super::{
        super::connection::tests::{pair, used},
        Stakes::*,
        *,
    };

    async fn kept(pool: &Pool, serial: u64, now: Moment) -> TcpStream {
        let (mut connection, mut server) = pair().await;
        used(&mut connection, &mut server).await;
        pool.put(serial, connection, now);
        server
    }

    #[actix_web::test]
    async fn the_connection_used_last_is_used_next() {
        let (pool, now) = (Pool::default(), Moment(5));
        let servers = [kept(&pool, 1, now).await, kept(&pool, 1, now).await];
        assert!(pool.take(2, Repeatable, now).is_none(), "another member's connections are not taken");
        for server in servers.iter().rev() {
            let taken = pool.take(1, Once, now).unwrap();
            assert_eq!(taken.local_addr(), server.peer_addr().unwrap());
        }
        assert!(pool.take(1, Repeatable, now).is_none());
    }

    #[actix_web::test]
    async fn a_connection_that_the_member_has_closed_carries_nothing_that_would_be_lost() {
        let (pool, now) = (Pool::default(), Moment(5));
        for (stakes, is_taken) in [(Once, false), (Repeatable, true)] {
            let server = kept(&pool, 1, now).await;
            // No await between the close and the take: tokio has no chance to see it.
            drop(server.into_std().unwrap());
            assert_eq!(pool.take(1, stakes, now).is_some(), is_taken, "{stakes:?}");
        }
    }

    #[actix_web::test]
    async fn bytes_behind_an_answer_without_a_body_are_no_answer() {
        let (pool, now) = (Pool::default(), Moment(5));
        for (is_suspect, is_taken) in [(true, false), (false, true)] {
            let (mut connection, mut server) = pair().await;
            used(&mut connection, &mut server).await;
            if is_suspect {
                connection.suspect();
            }
            pool.put(1, connection, now);
            // No await before the take, as above.
            io::Write::write_all(&mut server.into_std().unwrap(), b"HTTP/1.1 200 OK\r\n").unwrap();
            assert_eq!(pool.take(1, Repeatable, now).is_some(), is_taken, "{is_suspect}");
        }
    }

    #[actix_web::test]
    async fn old_connections_closed_ones_and_those_of_other_lives_are_swept() {
        let (pool, now) = (Pool::default(), Moment(5));
        let mut servers = [kept(&pool, 1, now).await, kept(&pool, 2, now).await, kept(&pool, 2, now).await];
        pool.sweep(now, |serial| serial == 2);
        assert_eq!(pool.idle(), 2);
        servers[1].shutdown().await.unwrap();
        let swept = async {
            while pool.idle() > 1 {
                tokio::task::yield_now().await;
                pool.sweep(now, |_| true);
            }
        };
        timeout(Duration::from_secs(5), swept).await.expect("a closed connection is kept");
        pool.sweep(now + limits::POOL_IDLE, |_| true);
        assert_eq!(pool.idle(), 0);
        let _server = kept(&pool, 2, now).await;
        assert!(pool.take(2, Repeatable, now + limits::POOL_IDLE).is_none(), "too old to be trusted");
    }
}
