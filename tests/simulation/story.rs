//! Tells the story of one session, to understand a violation: `TASUKI_STORY=5CF0 TASUKI_SEED=67 cargo test --test
//! simulation no_promise`, with the first digits of the session's id.

use std::{cell::Cell, fmt::Debug, sync::LazyLock};

use tasuki::{
    names::{NodeId, SessionId},
    session::replica::Slot,
};

static WANTED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("TASUKI_STORY").ok());

thread_local! {
    static NOW_US: Cell<u64> = const { Cell::new(0) };
}

/// Time has moved.
pub(crate) fn now(now_us: u64) {
    NOW_US.set(now_us);
}

/// Whether anybody listens.
pub(crate) fn is_told() -> bool {
    WANTED.is_some()
}

/// Something happened to a session on a node.
pub(crate) fn tell(session: SessionId, node: NodeId, what: impl FnOnce() -> String) {
    if let Some(wanted) = &*WANTED
        && session.to_string().starts_with(wanted.as_str())
    {
        println!("{:>10} us  {node:?} (machine {}): {}", NOW_US.get() % 1_000_000_000, node.0 & 0xFF, what());
    }
}

/// Something happened that concerns everyone.
pub(crate) fn tell_all(what: impl Debug) {
    if WANTED.is_some() {
        println!("{:>10} us  {what:?}", NOW_US.get() % 1_000_000_000);
    }
}

/// A slot in a few words.
pub(crate) fn brief(slot: &Option<Slot>) -> String {
    match slot {
        None => "nothing".into(),
        Some(Slot::Sought(sought)) => format!("{sought:?}"),
        Some(Slot::Ended(tombstone)) => format!("ended {:?}", tombstone.ending),
        Some(Slot::Live(record)) => {
            format!("{:?} promised {:?} {:?}", record.stamp(), record.promised(), record.tenure())
        }
    }
}
