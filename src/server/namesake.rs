//! Another live node with this node's name: the balancer uses only one of them, and users of the other one lose their way.

use std::net::SocketAddr;

use crate::{limits, membership::Roster, names::Route, time::Moment};

/// Since when there has been one, and when the log said so last.
#[derive(Debug, Default)]
pub(super) struct Namesake {
    since: Option<Moment>,
    told: Option<Moment>,
}

impl Namesake {
    /// Where there is one, if it is time to say so. An earlier life of this node may be on the list for a moment.
    pub(super) fn look(&mut self, roster: &Roster, route: &Route, now: Moment) -> Option<SocketAddr> {
        let Some(other) = roster.nodes().find(|node| node.route == *route) else {
            *self = Self::default();
            return None;
        };
        let since = *self.since.get_or_insert(now);
        let is_due = |told: Moment| now.since(told) >= limits::NAMESAKE_LINE;
        let is_told = now.since(since) >= limits::NAMESAKE && self.told.is_none_or(is_due);
        is_told.then(|| {
            self.told = Some(now);
            other.http
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        membership::{Duty, Member, Role},
        names::NodeId,
    };

    #[test]
    fn one_that_stays_is_told_of_now_and_then_and_an_earlier_life_is_not() {
        let (mine, http): (Route, SocketAddr) = ("r1".parse().unwrap(), "10.0.0.2:18080".parse().unwrap());
        let role = Role::Node { route: mine.clone(), http, duty: Duty::Serving };
        let member = Member { id: NodeId(2), address: http, role };
        let (alone, two) = (Roster::default(), Roster { members: vec![member], discovered: true });
        let (mut namesake, start) = (Namesake::default(), Moment(1_000_000));
        assert_eq!(namesake.look(&two, &mine, start), None);
        assert_eq!(namesake.look(&alone, &mine, start + limits::NAMESAKE), None);
        let later = start + limits::NAMESAKE * 2;
        assert_eq!(namesake.look(&two, &mine, later), None, "it has just come");
        let told = later + limits::NAMESAKE;
        assert_eq!(namesake.look(&two, &mine, told), Some(http));
        assert_eq!(namesake.look(&two, &mine, told + limits::NAMESAKE), None);
        assert_eq!(namesake.look(&two, &mine, told + limits::NAMESAKE_LINE), Some(http));
        assert_eq!(namesake.look(&two, &"r2".parse().unwrap(), told + limits::NAMESAKE_LINE * 2), None);
    }
}
