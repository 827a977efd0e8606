//! What is kept of static files in memory: of the whole process, since its memory is what is bounded.

use std::{
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{
    coding::{self, Coding},
    disk::Content,
    representation::Representation,
};
use crate::limits;

/// One file of one version of one webapp. What is kept of it goes with this value.
#[derive(Debug)]
pub(super) struct Ticket(u64);

type Key = (u64, Coding);

#[derive(Clone, Debug)]
struct Bytes;

/// What a kept thing costs beside its content: keys, headers, tags.
const OVERHEAD_BYTES: u64 = 512;

static SHELF: LazyLock<Cache<Key, Arc<Representation>, Bytes>> = LazyLock::new(|| {
    let options = OptionsBuilder::new()
        .weight_capacity(limits::ASSETS_KEPT_BYTES)
        .estimated_items_capacity((limits::ASSETS_KEPT_BYTES / (16 * 1024)) as usize)
        // By default there are four to a core, and 3 % of each for what is new: there the largest file would find no room.
        .shards(limits::ASSET_SHELVES as usize)
        .hot_allocation(1.0 - 1.0 / limits::ASSET_NEW_SHARE as f64)
        .build()
        .expect("every option that has no default is set");
    Cache::with_options(options, Bytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
});

impl Ticket {
    /// A new one.
    pub(super) fn draw() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }

    /// What is kept in a coding; made when it is not there. Who asks meanwhile waits for the same making.
    ///
    /// # Errors
    /// What the making gave. Nothing is kept then.
    pub(super) async fn get(
        &self,
        coding: Coding,
        make: impl Future<Output = io::Result<Representation>>,
    ) -> io::Result<Arc<Representation>> {
        SHELF.get_or_insert_async(&(self.0, coding), async { make.await.map(Arc::new) }).await
    }

    /// Nothing is kept in that coding any more.
    pub(super) fn forget(&self, coding: Coding) {
        SHELF.remove(&(self.0, coding));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        coding::ALL.into_iter().for_each(|coding| self.forget(coding));
    }
}

impl Weighter<Key, Arc<Representation>> for Bytes {
    fn weight(&self, _: &Key, representation: &Arc<Representation>) -> u64 {
        let content = match representation.content() {
            Content::Kept(bytes) => bytes.len() as u64,
            Content::OnDisk(_) => 0,
        };
        content + OVERHEAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn keep(ticket: &Ticket, bytes: u64) -> io::Result<Arc<Representation>> {
        ticket.get(Coding::Identity, async { Ok(Representation::of_bytes(vec![b' '; bytes as usize])) }).await
    }

    async fn is_kept(ticket: &Ticket) -> bool {
        let gone = async { Err(io::ErrorKind::NotFound.into()) };
        ticket.get(Coding::Identity, gone).await.is_ok()
    }

    #[actix_web::test]
    async fn the_memory_is_bounded_and_the_largest_file_still_fits() {
        let count = limits::ASSETS_KEPT_BYTES / limits::ASSET_KEPT_BYTES * 2;
        let mut tickets = Vec::new();
        for _ in 0..count {
            let ticket = Ticket::draw();
            keep(&ticket, limits::ASSET_KEPT_BYTES).await.unwrap();
            assert!(is_kept(&ticket).await, "the one that was asked for last");
            assert!(SHELF.weight() <= limits::ASSETS_KEPT_BYTES, "{} bytes", SHELF.weight());
            tickets.push(ticket);
        }
    }

    #[actix_web::test]
    async fn what_is_kept_goes_with_its_version() {
        let ticket = Ticket::draw();
        keep(&ticket, 10).await.unwrap();
        let key = (ticket.0, Coding::Identity);
        assert!(SHELF.get(&key).is_some());
        drop(ticket);
        assert!(SHELF.get(&key).is_none());
    }

    #[actix_web::test]
    async fn a_making_that_fails_is_tried_again() {
        let ticket = Ticket::draw();
        let failed = ticket.get(Coding::Gzip, async { Err(io::Error::other("no")) }).await;
        assert!(failed.is_err());
        let made = ticket.get(Coding::Gzip, async { Ok(Representation::of_bytes(vec![1])) }).await;
        assert!(made.is_ok());
    }
}
