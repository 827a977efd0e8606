//! Links that are turned away: the first one is told at once, of many that follow the number and the last reason.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use actix_web::rt;
use tokio::time::sleep;
use tracing::warn;

use crate::{limits, time::Moment};

/// Links that are turned away for one kind of reason.
pub(super) struct Refusals {
    what: &'static str,
    untold: Cell<u64>,
    last: RefCell<String>,
    next_line: Cell<Moment>,
    /// Somebody waits to tell the rest.
    is_awaited: Cell<bool>,
}

impl Refusals {
    /// `what` they are, as the log has it.
    pub(super) fn of(what: &'static str) -> Rc<Self> {
        let (untold, last, next_line, is_awaited) = Default::default();
        Rc::new(Self { what, untold, last, next_line, is_awaited })
    }

    /// One more. There is a line for it now or, with others, within [`limits::UNSEALED_LINE`].
    pub(super) fn note(self: &Rc<Self>, why: String) {
        let now = Moment::now();
        self.untold.set(self.untold.get() + 1);
        self.last.replace(why);
        if now >= self.next_line.get() {
            return self.tell(now);
        }
        if !self.is_awaited.replace(true) {
            let (this, rest) = (self.clone(), self.next_line.get().since(now));
            rt::spawn(async move {
                sleep(rest).await;
                this.is_awaited.set(false);
                this.tell(Moment::now());
            });
        }
    }

    fn tell(&self, now: Moment) {
        let count = self.untold.replace(0);
        if count > 0 {
            warn!("{}: {count}; the last one: {}", self.what, self.last.borrow());
            self.next_line.set(now + limits::UNSEALED_LINE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn every_refusal_is_told_of_and_few_lines_are_written() {
        let refusals = Refusals::of("links refused");
        refusals.note("first".into());
        assert_eq!((refusals.untold.get(), refusals.is_awaited.get()), (0, false), "told at once");
        (0..1_000).for_each(|_| refusals.note("again".into()));
        assert_eq!((refusals.untold.get(), refusals.is_awaited.get()), (1_000, true), "one waits for all of them");
        refusals.tell(refusals.next_line.get());
        assert_eq!(refusals.untold.get(), 0);
    }
}
