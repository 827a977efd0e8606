//! Links that are turned away: the first one is told at once, of many that follow the number and the last reason.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use actix_web::rt;
use tokio::time::sleep;
use tracing::warn;

use crate::{limits, time::Moment, untold::Untold};

/// Links that are turned away for one kind of reason.
pub(super) struct Refusals {
    what: &'static str,
    untold: RefCell<Untold<String>>,
    /// Somebody waits to tell the rest.
    is_awaited: Cell<bool>,
}

impl Refusals {
    /// `what` they are, as the log has it.
    pub(super) fn of(what: &'static str) -> Rc<Self> {
        let (untold, is_awaited) = Default::default();
        Rc::new(Self { what, untold, is_awaited })
    }

    /// Links that either end closes, because what came over them is nothing that a member sends.
    pub(super) fn of_closed() -> Rc<Self> {
        Self::of("links closed for what came over them")
    }

    /// One more. There is a line for it now or, with others, within [`limits::UNSEALED_LINE`].
    pub(super) fn note(self: &Rc<Self>, why: String) {
        let now = Moment::now();
        self.untold.borrow_mut().note(why);
        let next = self.untold.borrow().next();
        if now >= next {
            return self.tell(now);
        }
        if !self.is_awaited.replace(true) {
            let (this, rest) = (self.clone(), next.since(now));
            rt::spawn(async move {
                sleep(rest).await;
                this.is_awaited.set(false);
                this.tell(Moment::now());
            });
        }
    }

    fn tell(&self, now: Moment) {
        if let Some((last, count)) = self.untold.borrow_mut().due(now, limits::UNSEALED_LINE) {
            warn!("{}: {count}; the last one: {last}", self.what);
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
        let last = |refusals: &Refusals| refusals.untold.borrow().last().cloned();
        assert_eq!((last(&refusals), refusals.is_awaited.get()), (None, false), "told at once");
        (0..1_000).for_each(|_| refusals.note("again".into()));
        assert_eq!(
            (last(&refusals), refusals.is_awaited.get()),
            (Some("again".into()), true),
            "one waits for all of them"
        );
        let next = refusals.untold.borrow().next();
        refusals.tell(next);
        assert_eq!(last(&refusals), None);
    }
}
