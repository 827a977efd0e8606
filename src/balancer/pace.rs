//! When the next request of a client's connection must have come: actix-web times the first head, and not the later ones.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::Waker,
    time::Duration,
};

use actix_web::HttpRequest;

use crate::{limits, time::Moment};

/// Of one connection, shared with its requests.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Requests that are being answered.
    pub(super) running: Cell<usize>,
    /// The next head has begun to arrive.
    pub(super) begun: Cell<bool>,
    /// None while a request runs, and before the first, which actix-web times itself.
    pub(super) due: Cell<Option<Moment>>,
    /// Requests whose answer has ended.
    pub(super) ended: Cell<usize>,
    /// Waits for the next one.
    pub(super) waiting: RefCell<Option<Waker>>,
}

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub(crate) struct Running(Option<Rc<Pace>>);

impl Running {
    /// From now on a request of this connection is being answered.
    pub(crate) fn begin(request: &HttpRequest) -> Self {
        let pace = request.conn_data::<Rc<Pace>>().cloned();
        if let Some(pace) = &pace {
            pace.begin();
        }
        Self(pace)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pace) = &self.0 {
            pace.end(Moment::now());
        }
    }
}

impl Pace {
    const IDLE: Duration = limits::CLIENT_REST;

    pub(super) fn begin(&self) {
        self.running.set(self.running.get() + 1);
        self.begun.set(false);
        self.due.set(None);
    }

    pub(super) fn end(&self, now: Moment) {
        self.running.set(self.running.get().saturating_sub(1));
        if self.running.get() == 0 {
            self.due.set(Some(now + Self::IDLE));
            self.ended.set(self.ended.get() + 1);
            if let Some(waiting) = self.waiting.take() {
                waiting.wake();
            }
        }
    }

    /// Bytes came: between two requests they are the next head, which then has its own time.
    pub(super) fn read(&self, now: Moment) {
        if self.due.get().is_some() && !self.begun.replace(true) {
            self.due.set(Some(now + limits::HEAD_TIMEOUT));
        }
    }

    /// Bytes went: the last of an answer that a slow client takes while its body has ended here.
    pub(super) fn wrote(&self, now: Moment) {
        if self.due.get().is_some() && !self.begun.get() {
            self.due.set(Some(now + Self::IDLE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_head_and_a_running_request_are_not_timed_here() {
        let pace = Pace::default();
        pace.read(NOW);
        assert_eq!(pace.due.get(), None);
        pace.begin();
        pace.read(NOW);
        pace.wrote(NOW);
        assert_eq!(pace.due.get(), None);
    }

    #[test]
    fn the_next_head_has_its_time_from_its_first_byte() {
        let pace = Pace::default();
        pace.begin();
        pace.end(NOW);
        assert_eq!(pace.due.get(), Some(NOW + Pace::IDLE));
        pace.read(NOW + SECOND);
        let due = Some(NOW + SECOND + limits::HEAD_TIMEOUT);
        assert_eq!(pace.due.get(), due);
        pace.read(NOW + SECOND * 9);
        pace.wrote(NOW + SECOND * 9);
        assert_eq!(pace.due.get(), due, "more bytes are no more time");
        pace.begin();
        assert_eq!(pace.due.get(), None);
    }

    #[test]
    fn a_client_that_takes_its_answer_slowly_is_waited_for() {
        let pace = Pace::default();
        pace.begin();
        pace.begin();
        pace.end(NOW);
        assert_eq!(pace.due.get(), None, "the body of the answer still runs");
        pace.end(NOW);
        pace.wrote(NOW + SECOND);
        assert_eq!(pace.due.get(), Some(NOW + SECOND + Pace::IDLE));
    }
}
