//! Takes a node's sessions from the disk when it starts, and puts there when it stops what nobody else holds.
//!
//! Neither may keep a node from starting or stopping: what goes wrong is said in one line, with what is lost by it.

use std::{
    cell::Cell,
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix::Addr;
use actix_web::rt;
use tracing::{error, info, warn};

use crate::{
    membership::{self, Duty, MemberState, Membership, Role},
    names::{NodeId, Route},
    observe::SessionCounts,
    session::{
        Slots, Table,
        replica::Slot,
        snapshot::{
            self, Clock, Header, Part, Restored,
            codec::{Counts, Put, Unreadable},
            file::{Aside, SnapshotFile},
            verdict::{self, Neighbour, Stale},
        },
    },
    settings::{Settings, absolute},
    time::Moment,
};

/// The snapshots of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Snapshots {
    file: SnapshotFile,
    route: Arc<str>,
    cluster: Arc<str>,
    wanted: bool,
    max_sessions: usize,
    /// Who stopped when this node did, as the file says that was loaded.
    others: Arc<Mutex<Vec<Route>>>,
    /// Locked while files are read or written, so that a stop waits until a load is over.
    stage: Arc<Mutex<Stage>>,
}

/// Whether the file is still that of the last stop, and for this node to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It may be: nothing replaces it.
    Unread,
    /// It was taken or set aside, or there was none, or it is left to the next start.
    Read,
}

/// The other nodes, as a node that stops knew them.
#[derive(Debug)]
pub(super) struct Others {
    /// All that it remembers.
    pub(super) known: Vec<NodeId>,
    /// Those that were live when it began to stop.
    pub(super) live: Vec<Route>,
}

/// What came of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Loaded {
    back: usize,
    over: usize,
    left_out: usize,
}

/// Why a snapshot is not loaded.
#[derive(Debug, thiserror::Error)]
enum NotLoaded {
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    #[error("{0}")]
    Stale(Stale),
    #[error("it cannot be taken away, and would be loaded again later: {0}")]
    Stays(io::Error),
}

impl NotLoaded {
    fn aside(&self) -> Aside {
        match self {
            Self::Stale(_) => Aside::Stale,
            Self::Unreadable(Unreadable::Io(_)) | Self::Stays(_) => Aside::Unreadable,
            Self::Unreadable(_) => Aside::Damaged,
        }
    }
}

impl Snapshots {
    /// As the settings say.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            file: SnapshotFile::of(&settings.node.run, &settings.node.route),
            route: settings.node.route.as_str().into(),
            cluster: settings.cluster.name.as_str().into(),
            wanted: settings.node.snapshot,
            max_sessions: settings.session.max_sessions.get(),
            others: Arc::default(),
            stage: Arc::new(Mutex::new(Stage::Unread)),
        }
    }

    /// Whether there is something to load. What an earlier stop has left half is removed.
    pub(super) fn is_there(&self) -> bool {
        match self.file.remove_unfinished() {
            Ok(false) => {}
            Ok(true) => warn!(
                "sessions are lost: the last stop was cut short while it wrote {}; whoever stops a node must give it the time",
                self.shown().display()
            ),
            Err(error) => warn!("an unfinished snapshot in {} stays: {error}", self.shown().display()),
        }
        // A file that cannot be looked at is looked at again when it is opened.
        let is_there = self.file.exists().unwrap_or(true);
        if !is_there {
            *self.stage() = Stage::Read;
        }
        is_there
    }

    /// Loads the snapshot into an empty table that nobody else uses yet, beside these nodes that serve already.
    ///
    /// It is gone afterwards, before the first request: a file that was there after a crash would take sessions back in
    /// time.
    pub(super) async fn load(&self, table: &Table, serving: Vec<Neighbour>) {
        let (this, into) = (self.clone(), table.clone());
        // It reads and writes files, so it has a thread of its own.
        if rt::task::spawn_blocking(move || this.load_now(&into, &serving)).await.is_err() {
            // Half a snapshot is none. Where there is no file any more, that has been said.
            forget_all(table);
            let _ = self.set_aside(Aside::Damaged, "reading it panicked: a fault of tasuki");
        }
    }

    /// Writes this part of the table, which does not change any more. A file that was not read yet stays as it is: this
    /// node has taken no request.
    pub(super) async fn save(&self, table: &Table, part: Part, others: Others) {
        let (this, table) = (self.clone(), table.clone());
        if rt::task::spawn_blocking(move || this.save_now(&table, part, others)).await.is_err() {
            error!("sessions are lost: saving them in {} panicked: a fault of tasuki", self.shown().display());
        }
    }

    /// The nodes that stopped together with this one: each has saved what it held, and perhaps the newest copy of what is here.
    pub(super) fn others(&self) -> Vec<Route> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn load_now(&self, table: &Table, serving: &[Neighbour]) {
        let mut stage = self.stage();
        if mem::replace(&mut *stage, Stage::Read) == Stage::Read {
            // The node stops already, and has left the file to the next start.
            return;
        }
        let shown = self.shown();
        if !self.wanted {
            // Nothing is loaded, whether it stays or not.
            let _ = self.set_aside(Aside::Stale, "node.snapshot is false");
            return;
        }
        match self.try_load(table, serving) {
            Ok(None) => {}
            Ok(Some((loaded, down))) => {
                let Loaded { back, over, .. } = loaded;
                info!(sessions = back, over, down_s = down.as_secs(), "loaded {}", shown.display());
            }
            Err(why) => {
                if self.set_aside(why.aside(), &why.to_string()).is_err() {
                    // It would take what is loaded back in time after a crash.
                    forget_all(table);
                }
            }
        }
    }

    fn try_load(&self, table: &Table, serving: &[Neighbour]) -> Result<Option<(Loaded, Duration)>, NotLoaded> {
        // All of it is read before the first session is taken: half a snapshot is none.
        let Some(mut check) = self.file.open()? else { return Ok(None) };
        while check.entry()?.is_some() {}
        let (header, now) = (check.header().clone(), Clock::now());
        let down = verdict::between(&header.written, &now);
        let (part, stale) = match verdict::judge(&header, &self.cluster, serving, &now) {
            Ok(part) => (part, None),
            Err(stale @ Stale::LivedOn(_)) => (Part::Local, Some(stale)),
            Err(stale) => return Err(NotLoaded::Stale(stale)),
        };
        let loaded = self.pour(table, part, down)?;
        if part == Part::Everything && header.part == Part::Everything {
            let others = header.routes.iter().filter_map(|route| route.parse().ok()).collect();
            *self.others.lock().unwrap_or_else(PoisonError::into_inner) = others;
        }
        if let Some(stale) = stale {
            info!(sessions = loaded.back, "sessions of this node alone loaded from {}", self.shown().display());
            return Err(NotLoaded::Stale(stale));
        }
        if let Err(error) = self.file.remove() {
            forget_all(table);
            return Err(NotLoaded::Stays(error));
        }
        Ok(Some((loaded, down)))
    }

    fn pour(&self, table: &Table, part: Part, down: Duration) -> Result<Loaded, Unreadable> {
        let mut loaded = Loaded::default();
        let Some(mut reader) = self.file.open()? else { return Ok(loaded) };
        while let Some(saved) = reader.entry().inspect_err(|_| forget_all(table))? {
            if saved.is_session_of(part) && self.is_full(table) {
                loaded.left_out += 1;
                continue;
            }
            match snapshot::restore(table, saved, part, down, Moment::now()) {
                Restored::Back => loaded.back += 1,
                Restored::Over => loaded.over += 1,
                Restored::Ended | Restored::LeftOut => {}
            }
        }
        if let Loaded { left_out: left_out @ 1.., .. } = loaded {
            let max = self.max_sessions;
            warn!(
                left_out,
                "sessions are lost: there is room for {max} only, and more were saved (session.max_sessions)"
            );
        }
        Ok(loaded)
    }

    /// Ends do not count: a session that comes back because its end had no room is worse than one that does not.
    fn is_full(&self, table: &Table) -> bool {
        let SessionCounts { owned, held } = table.counts();
        owned + held >= self.max_sessions
    }

    /// Says why, what has become of the file, and what can be done.
    fn set_aside(&self, aside: Aside, why: &str) -> io::Result<()> {
        let shown = self.shown();
        let place = self.file.set_aside(aside).inspect_err(|error| {
            error!("the sessions of {} are not loaded: {why}; it cannot be set aside: {error}", shown.display());
        })?;
        let (kept, wanted) = (name(&place), name(&shown));
        let advice = match aside {
            Aside::Unreadable => {
                format!("; when this user can read it, move it back to {wanted} while the node is stopped")
            }
            Aside::Damaged | Aside::Stale => String::new(),
        };
        warn!("the sessions of {} are not loaded: {why}; kept as {kept}{advice}", shown.display());
        Ok(())
    }

    fn save_now(&self, table: &Table, part: Part, others: Others) {
        let mut stage = self.stage();
        if mem::replace(&mut *stage, Stage::Read) == Stage::Unread {
            return;
        }
        let sessions = Cell::new(0);
        let is_kept = |slot: &Slot| {
            let is_kept = snapshot::is_kept(slot, part);
            sessions.set(sessions.get() + usize::from(is_kept && matches!(slot, Slot::Live(_))));
            is_kept
        };
        let (ids, sessions) = (table.ids(is_kept), sessions.get());
        if ids.is_empty() || !self.wanted {
            return self.end_without(sessions);
        }
        let header = Header {
            route: self.route.to_string(),
            cluster: self.cluster.to_string(),
            part,
            written: Clock::now(),
            nodes: others.known,
            routes: others.live.iter().map(Route::to_string).collect(),
            by: concat!("tasuki ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        info!(sessions, "saving what no other node holds, and what has ended, in {}", self.shown().display());
        let (now, mut too_large) = (Moment::now(), 0);
        let written = self.file.write(&header, |writer| {
            for id in &ids {
                if let Some(saved) = table.peek(*id, |slot| snapshot::saved(slot, *id, part, now)) {
                    too_large += usize::from(writer.put(&saved)? == Put::TooLarge);
                }
            }
            Ok(())
        });
        let shown = self.shown();
        match written {
            Ok(Counts { sessions, ended }) => {
                info!(sessions, ended, too_large, "saved for the next start in {}", shown.display());
            }
            Err(error) => {
                error!(sessions, "sessions are lost: {} (node.run) cannot be written: {error}", shown.display());
            }
        }
    }

    /// A file of an earlier stop must not be taken for this one's.
    fn end_without(&self, sessions: usize) {
        if sessions > 0 {
            info!(sessions, "sessions end with this node: node.snapshot is false");
        }
        if let Err(error) = self.file.remove() {
            warn!("{} is out of date and cannot be removed: {error}", self.shown().display());
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> PathBuf {
        absolute(&self.file.path())
    }
}

/// The other nodes that membership remembers, and those of them that serve.
pub(super) async fn nodes(membership: &Addr<Membership>) -> (Vec<NodeId>, Vec<Neighbour>) {
    // Membership has died: then nobody is known.
    let Ok(report) = membership.send(membership::Observe).await else { return Default::default() };
    let is_node = |report: &&membership::MemberReport| matches!(report.member.role, Role::Node { .. });
    let serves = |report: &&membership::MemberReport| {
        let duty = matches!(report.member.role, Role::Node { duty: Duty::Serving | Duty::Draining, .. });
        duty && report.state != MemberState::Down
    };
    let nodes = report.members.iter().filter(is_node);
    let neighbour =
        |report: &membership::MemberReport| Neighbour { id: report.member.id, started_unix_ms: report.started_unix_ms };
    (nodes.clone().map(|report| report.member.id).collect(), nodes.filter(serves).map(neighbour).collect())
}

/// Takes back what was loaded, while nobody has seen it.
fn forget_all(table: &Table) {
    for id in table.ids(|_| true) {
        table.with(id, |slot| *slot = None);
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        names::{ContextPath, SessionId},
        session::{
            delta::{End, Ending, Finality, Update, Whole},
            replica,
            stamp::{Epoch, Stamp},
        },
    };

    fn snapshots(run: &Path, max_sessions: usize) -> Snapshots {
        let mut settings = Settings::default();
        settings.node.run = run.to_owned();
        settings.session.max_sessions = max_sessions.try_into().unwrap();
        Snapshots::new(&settings)
    }

    fn nobody() -> Others {
        Others { known: Vec::new(), live: Vec::new() }
    }

    fn id(n: u8) -> SessionId {
        SessionId([n; 16])
    }

    /// So many sessions and as many ends.
    fn table_of(count: u8) -> Table {
        let table = Table::new(NodeId(1));
        let (owner, now) = (Epoch { counter: 1, node: NodeId(2) }, Moment::now());
        let stamp = Stamp { epoch: owner, version: 1 };
        for n in 0..count {
            let session = Whole {
                id: id(n),
                context: ContextPath::root(),
                owner,
                stamp,
                timeout: None,
                idle: Duration::ZERO,
                behind: false,
                attributes: Vec::new(),
            };
            table.with(session.id, |slot| replica::apply(slot, Update::Whole(session), now));
            let end = End { id: id(count + n), ending: Ending { finality: Finality::Final, stamp } };
            table.with(end.id, |slot| replica::apply(slot, Update::End(end), now));
        }
        table
    }

    #[test]
    fn sessions_without_room_are_counted_and_every_end_is_remembered() {
        let run = tempfile::tempdir().unwrap();
        let saves = snapshots(run.path(), 100);
        assert!(!saves.is_there());
        saves.save_now(&table_of(8), Part::Everything, nobody());
        let (table, loads) = (Table::new(NodeId(3)), snapshots(run.path(), 3));
        let (loaded, _) = loads.try_load(&table, &[]).unwrap().unwrap();
        assert_eq!(loaded, Loaded { back: 3, over: 0, left_out: 5 });
        assert_eq!(table.remembered(), 8);
    }

    #[test]
    fn a_restart_beside_others_does_not_forget_what_has_ended() {
        let run = tempfile::tempdir().unwrap();
        let saves = snapshots(run.path(), 100);
        assert!(!saves.is_there());
        saves.save_now(&table_of(8), Part::Local, nobody());
        let table = Table::new(NodeId(3));
        snapshots(run.path(), 100).load_now(&table, &[Neighbour { id: NodeId(2), started_unix_ms: 0 }]);
        assert_eq!((table.slots(), table.remembered()), (8, 8));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_called_damaged() {
        let run = tempfile::tempdir().unwrap();
        // Nobody can read it, not even root, who may read every file.
        fs::create_dir(run.path().join("r1.sessions")).unwrap();
        let snapshots = snapshots(run.path(), 100);
        assert!(snapshots.is_there());
        snapshots.load_now(&Table::new(NodeId(1)), &[]);
        assert!(run.path().join("r1.sessions.unreadable-1").exists());
    }

    #[test]
    fn a_stop_before_the_load_leaves_the_file_to_the_next_start() {
        let run = tempfile::tempdir().unwrap();
        let saves = snapshots(run.path(), 100);
        assert!(!saves.is_there());
        saves.save_now(&table_of(1), Part::Everything, nobody());
        let (table, next) = (Table::new(NodeId(3)), snapshots(run.path(), 100));
        assert!(next.is_there());
        next.save_now(&table, Part::Everything, nobody());
        next.load_now(&table, &[]);
        assert_eq!((next.is_there(), table.slots()), (true, 0));
    }
}
