//! Whether a snapshot may come back: how long ago it was written, and what happened meanwhile.
//!
//! Pure. The danger is a session that a user has ended elsewhere since, and that everybody has forgotten: a copy from
//! the disk would bring it back. Ends are remembered for [`limits::TOMBSTONE`] at least, so a copy is harmless beside nodes that
//! remember everything that has happened since it was written.

use std::time::Duration;

use super::{Clock, Header, Part};
use crate::{limits, names::NodeId};

/// Another node that serves already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// This life of it.
    pub id: NodeId,
    /// When its process started, in milliseconds since 1970 by its own clock.
    pub started_unix_ms: u64,
}

/// Why sessions of the cluster stay in the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// Nobody wants them any more, or a clock is wrong.
    #[error("it was written {} h ago, by this machine's clock", .0.as_secs() / 3_600)]
    TooOld(Duration),
    /// They were used and ended meanwhile, without this node.
    #[error("the cluster lived on for {} s without this node", .0.as_secs())]
    LivedOn(Duration),
    /// It belongs to somebody else.
    #[error("it is of the cluster {0:?}")]
    OtherCluster(String),
}

/// A neighbour remembers everything that has ended in so long.
const REMEMBERED: Duration = Duration::from_secs(limits::TOMBSTONE.as_secs() / 2);

/// The time from one moment to a later one.
///
/// Within one boot of the machine it is exact, whatever its clock was set to. Across boots only the clock knows, and
/// the time since the boot is the least it can be.
pub fn between(then: &Clock, now: &Clock) -> Duration {
    if !now.boot.is_empty() && then.boot == now.boot && then.up_ms <= now.up_ms {
        return Duration::from_millis(now.up_ms - then.up_ms);
    }
    Duration::from_millis(now.unix_ms.saturating_sub(then.unix_ms).max(now.up_ms))
}

/// What of a snapshot may come back, beside the nodes that serve already. Nodes that start at the same time do not
/// count: they bring copies of their own, and the newest wins.
///
/// # Errors
/// Why the sessions of the cluster may not; those of this node alone may, unless the file is too old or of another
/// cluster.
pub fn judge(header: &Header, cluster: &str, serving: &[Neighbour], now: &Clock) -> Result<Part, Stale> {
    let down = between(&header.written, now);
    if header.cluster != cluster {
        return Err(Stale::OtherCluster(header.cluster.clone()));
    }
    if down > limits::SNAPSHOT_AGE {
        return Err(Stale::TooOld(down));
    }
    let remembers_all = |neighbour: &Neighbour| {
        let later = neighbour.started_unix_ms > header.written.unix_ms && !header.nodes.contains(&neighbour.id);
        let age = Duration::from_millis(now.unix_ms.saturating_sub(neighbour.started_unix_ms));
        later && age <= REMEMBERED
    };
    // A machine without a clock of its own, before it has asked for the time: the time it was down is not known.
    let is_clock_wrong = header.written.boot != now.boot && now.unix_ms < header.written.unix_ms;
    let nothing_is_forgotten = || down <= REMEMBERED || serving.iter().all(remembers_all);
    if header.part == Part::Local || serving.is_empty() || !is_clock_wrong && nothing_is_forgotten() {
        return Ok(header.part);
    }
    Err(Stale::LivedOn(down))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn clock(unix_ms: u64, boot: &str, up_ms: u64) -> Clock {
        Clock { unix_ms, boot: boot.into(), up_ms }
    }

    fn header(written: Clock) -> Header {
        Header {
            route: "r1".into(),
            cluster: "tasuki".into(),
            part: Part::Everything,
            written,
            nodes: vec![NodeId(2)],
            routes: Vec::new(),
            by: "tasuki".into(),
        }
    }

    fn neighbour(id: u64, started_unix_ms: u64) -> Neighbour {
        Neighbour { id: NodeId(id), started_unix_ms }
    }

    #[test]
    fn within_one_boot_a_clock_that_was_set_changes_nothing() {
        let then = clock(9 * HOUR, "a", 1_000);
        for unix_ms in [0, 9 * HOUR, 90 * HOUR] {
            assert_eq!(between(&then, &clock(unix_ms, "a", 6_000)), Duration::from_secs(5));
        }
    }

    #[test]
    fn across_boots_the_clock_counts_and_the_time_since_the_boot_is_the_least() {
        let then = clock(9 * HOUR, "a", 1_000);
        assert_eq!(between(&then, &clock(10 * HOUR, "b", 6_000)), Duration::from_secs(3_600));
        assert_eq!(between(&then, &clock(0, "b", 6_000)), Duration::from_secs(6), "a clock that was set back");
        assert_eq!(between(&clock(0, "", 1_000), &clock(0, "", 6_000)), Duration::from_secs(6), "no boot is known");
    }

    #[test]
    fn a_lone_node_takes_back_what_it_wrote() {
        let (written, later) = (clock(HOUR, "a", 0), clock(20 * HOUR, "a", 19 * HOUR));
        assert_eq!(judge(&header(written), "tasuki", &[], &later), Ok(Part::Everything));
    }

    #[test]
    fn nothing_comes_back_after_a_week_or_into_another_cluster() {
        let (written, later) = (clock(0, "a", 0), clock(0, "a", 200 * HOUR));
        assert!(matches!(judge(&header(written.clone()), "tasuki", &[], &later), Err(Stale::TooOld(_))));
        assert!(matches!(judge(&header(written.clone()), "other", &[], &written), Err(Stale::OtherCluster(_))));
    }

    #[test]
    fn a_clock_that_went_back_over_a_boot_proves_nothing() {
        let (written, now) = (clock(9 * HOUR, "a", HOUR), clock(HOUR, "b", 1_000));
        let beside = |serving: &[Neighbour]| judge(&header(written.clone()), "tasuki", serving, &now);
        assert!(matches!(beside(&[neighbour(3, 900 * HOUR)]), Err(Stale::LivedOn(_))));
        assert_eq!(beside(&[]), Ok(Part::Everything), "nobody could have ended anything");
    }

    #[test]
    fn beside_a_cluster_that_lived_on_only_the_nodes_own_sessions_come_back() {
        let (written, now) = (clock(HOUR, "a", 0), clock(3 * HOUR, "a", 2 * HOUR));
        let lived_on = |serving: &[Neighbour]| judge(&header(written.clone()), "tasuki", serving, &now);
        assert!(matches!(lived_on(&[neighbour(3, 0)]), Err(Stale::LivedOn(_))), "it was there before");
        assert!(matches!(lived_on(&[neighbour(3, 2 * HOUR)]), Err(Stale::LivedOn(_))), "it has forgotten ends");
        let just_now = now.unix_ms - 60_000;
        assert!(matches!(lived_on(&[neighbour(2, just_now)]), Err(Stale::LivedOn(_))), "this life was known then");
        assert!(matches!(lived_on(&[neighbour(3, just_now), neighbour(4, 0)]), Err(Stale::LivedOn(_))));
        let local = Header { part: Part::Local, ..header(written.clone()) };
        assert_eq!(judge(&local, "tasuki", &[neighbour(3, 0)], &now), Ok(Part::Local));
    }

    #[test]
    fn beside_nodes_that_remember_all_that_happened_since_everything_comes_back() {
        let written = clock(HOUR, "a", 0);
        let soon = clock(HOUR + 60_000, "a", 60_000);
        assert_eq!(judge(&header(written.clone()), "tasuki", &[neighbour(2, 0)], &soon), Ok(Part::Everything));
        let late = clock(9 * HOUR, "a", 8 * HOUR);
        let began_anew = [neighbour(3, late.unix_ms - 60_000), neighbour(4, late.unix_ms + 2_000)];
        assert_eq!(judge(&header(written), "tasuki", &began_anew, &late), Ok(Part::Everything));
    }
}
