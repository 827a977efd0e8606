//! How a balancer goes that has been replaced: it accepts no more, and its clients leave one by one, each with an answer.
//! An HTTP/2 client is told at once (GOAWAY), and opens its next stream elsewhere.
//!
//! An idle connection is not closed at once, for its client may be sending the next request at this very moment. That is
//! answered, with `Connection: close`; who sends none is closed when its keep-alive time is over, as always.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use actix_web::HttpResponse;
use tokio::{sync::Notify, time::sleep};

use crate::limits;

/// Shared by the workers and the one who runs the balancer.
#[derive(Debug, Default)]
pub(crate) struct Departure {
    leaving: AtomicBool,
    left: Notify,
    clients: AtomicUsize,
    restart: Notify,
    /// Why the last restart that was asked for did not come about.
    refused: Mutex<Option<String>>,
}

/// An open connection of a client; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Present(Arc<Departure>);

/// Nobody, seen twice: the server says that it accepts no more before it has stopped, and who comes last is counted a moment
/// later.
#[derive(Debug, Default)]
struct Looks {
    was_empty: bool,
}

impl Looks {
    fn are_over(&mut self, clients: usize) -> bool {
        std::mem::replace(&mut self.was_empty, clients == 0) && clients == 0
    }
}

impl Departure {
    /// Counts a client.
    pub(crate) fn present(self: &Arc<Self>) -> Present {
        self.clients.fetch_add(1, Relaxed);
        Present(self.clone())
    }

    /// Open connections of clients.
    pub(crate) fn clients(&self) -> usize {
        self.clients.load(Relaxed)
    }

    /// The manager wants another process in place of this one.
    pub(crate) fn ask_for_restart(&self) {
        *self.refused() = None;
        self.restart.notify_one();
    }

    /// There is no other process.
    pub(crate) fn refuse_restart(&self, why: &str) {
        *self.refused() = Some(why.to_owned());
    }

    /// Why the last restart that was asked for did not come about, if it did not.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refused().clone()
    }

    fn refused(&self) -> MutexGuard<'_, Option<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends at the next [`Departure::ask_for_restart`], or at once if there was one already.
    pub(crate) async fn restart_asked(&self) {
        self.restart.notified().await;
    }

    /// From now on every answer is its connection's last.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Relaxed);
        self.left.notify_waiters();
    }

    /// Ends when [`Departure::leave`] is called, or was.
    pub(crate) async fn is_left(&self) {
        let mut left = pin!(self.left.notified());
        left.as_mut().enable();
        if !self.leaving.load(Relaxed) {
            left.await;
        }
    }

    /// Ends when no client is here any more.
    pub(crate) async fn is_empty(&self) {
        let mut looks = Looks::default();
        while !looks.are_over(self.clients()) {
            sleep(limits::CLIENTS_CHECK).await;
        }
    }

    /// Makes an answer its connection's last, if this process leaves. A tunnel has no next request.
    pub(crate) fn mark(&self, response: &mut HttpResponse) {
        if self.leaving.load(Relaxed) && !response.head().upgrade() {
            response.head_mut().set_connection_type(actix_http::ConnectionType::Close);
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_last(departure: &Departure, mut response: HttpResponse) -> bool {
        departure.mark(&mut response);
        response.head().connection_type() == actix_http::ConnectionType::Close
    }

    #[test]
    fn answers_are_the_last_ones_once_the_balancer_leaves_but_a_tunnel_stays() {
        let departure = Departure::default();
        assert!(!is_last(&departure, HttpResponse::Ok().finish()));
        departure.leave();
        assert!(is_last(&departure, HttpResponse::Ok().finish()));
        assert!(!is_last(&departure, HttpResponse::SwitchingProtocols().upgrade("websocket").finish()));
    }

    #[actix_web::test]
    async fn whoever_asks_is_told_of_the_departure_before_it_and_after() {
        let departure = Arc::new(Departure::default());
        let waiting = actix_web::rt::spawn({
            let departure = departure.clone();
            async move { departure.is_left().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        departure.leave();
        waiting.await.unwrap();
        departure.is_left().await;
    }

    #[test]
    fn one_look_without_a_client_is_not_enough() {
        let mut looks = Looks::default();
        assert_eq!([0, 1, 0, 0].map(|clients| looks.are_over(clients)), [false, false, false, true]);
    }

    #[test]
    fn clients_are_counted_until_they_are_gone() {
        let departure = Arc::new(Departure::default());
        let (one, other) = (departure.present(), departure.present());
        assert_eq!(departure.clients(), 2);
        drop((one, other));
        assert_eq!(departure.clients(), 0);
    }
}
