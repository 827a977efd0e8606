//! The file of what an administrator has set, read and written where a disk that hangs stops nobody else: on a thread for
//! what blocks, one thing at a time, in the order in which it was asked for.

use std::{io, sync::Arc};

use actix_web::rt::task::spawn_blocking;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::timeout,
};

use super::{
    kept::{Kept, Look, Unreadable},
    orders::Orders,
};
use crate::limits;

/// The file of this process.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) kept: Kept,
    /// The file, as it was read or written last. Whoever has it may use the file.
    seen: Arc<Mutex<Option<Look>>>,
}

/// The right to use the file. A disk that hangs keeps it.
pub(super) struct Turn {
    kept: Kept,
    seen: OwnedMutexGuard<Option<Look>>,
}

/// What another process has written, if anything; and the turn, if the disk has given it back.
pub(super) struct Read {
    pub(super) turn: Option<Turn>,
    pub(super) news: Option<Result<Orders, Unreadable>>,
}

impl Keeper {
    pub(super) fn new(kept: Kept) -> Self {
        Self { kept, seen: Arc::default() }
    }

    /// None while somebody else uses the file.
    pub(super) fn turn_at_once(&self) -> Option<Turn> {
        let seen = self.seen.clone().try_lock_owned().ok()?;
        Some(Turn { kept: self.kept.clone(), seen })
    }

    /// After everybody who came before. None when the disk does not answer them in time.
    pub(super) async fn turn(&self) -> Option<Turn> {
        let seen = timeout(limits::DISK_TIMEOUT, self.seen.clone().lock_owned()).await.ok()?;
        Some(Turn { kept: self.kept.clone(), seen })
    }
}

impl Turn {
    /// Reads the file if it looks otherwise than it did. One that is gone says nothing: whoever has removed it has not set
    /// anything.
    pub(super) async fn read(self) -> Read {
        let read = self.on_a_thread(|turn| {
            let look = turn.kept.look()?;
            (Some(look) != *turn.seen).then(|| (look, turn.kept.read()))
        });
        let Some((mut turn, found)) = read.await else { return Read { turn: None, news: None } };
        let news = found.map(|(look, orders)| {
            *turn.seen = Some(look);
            orders
        });
        Read { turn: Some(turn), news }
    }

    /// Writes what is set.
    ///
    /// # Errors
    /// What the file system says, and `TimedOut`: then it may still be written.
    pub(super) async fn write(self, orders: Orders) -> io::Result<()> {
        let written = self.on_a_thread(move |turn| {
            turn.kept.write(&orders)?;
            *turn.seen = turn.kept.look();
            Ok(())
        });
        written.await.map_or_else(|| Err(io::ErrorKind::TimedOut.into()), |(_, written)| written)
    }

    /// None when it takes too long. It goes on then, and nobody else has a turn before it ends.
    async fn on_a_thread<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut Self) -> T + Send + 'static,
    ) -> Option<(Self, T)> {
        let done = spawn_blocking(move || {
            let result = work(&mut self);
            (self, result)
        });
        timeout(limits::DISK_TIMEOUT, done).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, process::Command};

    use super::{super::orders::Set, *};
    use crate::observe::Admin;

    fn orders(weight: u8) -> Orders {
        let set = Set { duty: Some(Admin::Enabled), weight: Some(weight), standby: None };
        Orders::from([("r1".parse().unwrap(), set)])
    }

    #[actix_web::test]
    async fn what_was_written_here_is_no_news_and_what_another_process_writes_is() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(Kept::of(folder.path()));
        let news = async || keeper.turn_at_once().unwrap().read().await.news.map(|news| news.ok());
        assert_eq!(news().await, None, "there is no file");
        keeper.turn().await.unwrap().write(orders(1)).await.unwrap();
        assert_eq!(news().await, None);
        Kept::of(folder.path()).write(&orders(2)).unwrap();
        assert_eq!((news().await, news().await), (Some(Some(orders(2))), None));
    }

    #[actix_web::test]
    async fn who_uses_the_file_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(Kept::of(folder.path()));
        let first = keeper.turn().await.unwrap();
        assert!(keeper.turn_at_once().is_none());
        let second = async { keeper.turn().await.unwrap().write(orders(2)).await.unwrap() };
        let first = async { first.write(orders(1)).await.unwrap() };
        tokio::join!(second, first);
        assert_eq!(Kept::of(folder.path()).read().unwrap(), orders(2));
    }

    /// A pipe without a writer: to open it hangs, as a disk may.
    #[actix_web::test]
    async fn a_disk_that_hangs_keeps_the_turn_and_gives_it_back_later() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(Kept::of(folder.path()));
        let pipe = keeper.kept.path();
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let Read { turn, news } = keeper.turn().await.unwrap().read().await;
        assert!(turn.is_none() && news.is_none() && keeper.turn_at_once().is_none());
        assert!(keeper.turn().await.is_none(), "not twice at a time");
        drop(OpenOptions::new().write(true).open(&pipe).unwrap());
        assert!(keeper.turn().await.is_some());
    }
}
