//! An address where a member may be: when it is asked, and how far the search there got.

use std::{net::SocketAddr, time::Duration};

use super::discovery::Ask;
use crate::time::Moment;

/// The first pause between two asks of an absent member.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(200);

/// The last one.
pub(super) const PAUSE_LAST: Duration = Duration::from_secs(5);

/// When something that is repeated for ever, and ever more rarely, is done next.
#[derive(Clone, Copy)]
pub(super) struct Repeat {
    next: Moment,
    pause: Duration,
}

/// What is known of one address.
#[derive(Clone, Copy)]
pub(super) struct Seed {
    standing: Standing,
    asks: Repeat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Unknown,
    Answered,
    /// Nobody was there.
    Refused,
}

impl Repeat {
    /// First at this moment, and then after [`PAUSE_FIRST`].
    pub(super) fn from(first: Moment) -> Self {
        Self { next: first, pause: PAUSE_FIRST }
    }

    /// When it is to be done next.
    pub(super) fn next(&self) -> Moment {
        self.next
    }

    /// Whether it is to be done now; if so, it is not until the pause is over.
    pub(super) fn is_due(&mut self, now: Moment) -> bool {
        let due = self.next <= now;
        if due {
            (self.next, self.pause) = (now + self.pause, (self.pause * 2).min(PAUSE_LAST));
        }
        due
    }
}

impl Seed {
    /// To be asked at once.
    pub(super) fn new(now: Moment) -> Self {
        Self { standing: Standing::Unknown, asks: Repeat::from(now) }
    }

    /// When [`Seed::ask`] is to be called next.
    pub(super) fn next(&self) -> Moment {
        self.asks.next()
    }

    /// What is to be asked now at this address. `live` are the addresses of the live members, `complete` says whether
    /// discovery is.
    pub(super) fn ask(&mut self, address: SocketAddr, now: Moment, live: &[SocketAddr], complete: bool) -> Vec<Ask> {
        let mut asks = Vec::new();
        if self.asks.is_due(now) {
            let waited_for = !complete && self.is_open();
            asks.extend((waited_for || !live.contains(&address)).then_some(Ask::Announce(address)));
            asks.extend(waited_for.then_some(Ask::Probe(address)));
        }
        asks
    }

    /// The live member there has told all it knows.
    pub(super) fn told(&mut self) {
        self.standing = Standing::Answered;
    }

    /// Nobody is there now.
    pub(super) fn refused(&mut self) {
        if self.is_open() {
            self.standing = Standing::Refused;
        }
    }

    /// The member there is gone: it is asked soon.
    pub(super) fn lost(&mut self, now: Moment) {
        self.asks = Repeat::from(now + PAUSE_FIRST);
    }

    /// Whoever may be there has neither answered nor refused.
    pub(super) fn is_open(&self) -> bool {
        self.standing == Standing::Unknown
    }
}
