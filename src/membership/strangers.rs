//! Those who are not listened to, as the log has them: for each reason a line at once, and of those that follow their
//! number and the last address, at a bounded rate.
//!
//! A line for each address would not do: probes leave from a port of their own each, and addresses are easily forged.

use std::{
    fmt,
    mem::{Discriminant, discriminant},
    net::SocketAddr,
    time::Duration,
};

use super::datagram::{Refused, VERSION};
use crate::{limits, time::Moment, untold::Untold};

/// Datagrams that were dropped for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    /// The reason, of the last one.
    pub(super) why: Refused,
    /// How many there were since the last line.
    pub(super) count: u64,
    /// Where the last one came from.
    pub(super) address: SocketAddr,
}

/// Everything that was dropped and is to be told, or was a while ago.
#[derive(Default)]
pub(super) struct Strangers {
    /// One for each reason.
    kinds: Vec<Kind>,
}

struct Kind {
    reason: Discriminant<Refused>,
    untold: Untold<(Refused, SocketAddr)>,
}

impl Strangers {
    /// One more was dropped.
    pub(super) fn note(&mut self, why: Refused, address: SocketAddr) {
        if pause(why).is_none() {
            return;
        }
        let reason = discriminant(&why);
        let known = self.kinds.iter().position(|kind| kind.reason == reason);
        let at = known.unwrap_or_else(|| {
            self.kinds.push(Kind { reason, untold: Untold::default() });
            self.kinds.len() - 1
        });
        self.kinds[at].untold.note((why, address));
    }

    /// What to say now. SWIM's timers see to it that somebody asks.
    pub(super) fn due(&mut self, now: Moment) -> Vec<Dropped> {
        self.kinds.iter_mut().filter_map(|kind| kind.due(now)).collect()
    }
}

impl Kind {
    fn due(&mut self, now: Moment) -> Option<Dropped> {
        let &(why, _) = self.untold.last()?;
        let ((why, address), count) = self.untold.due(now, pause(why)?)?;
        Some(Dropped { why, count, address })
    }
}

/// The time between two lines; none for what is only counted.
fn pause(why: Refused) -> Option<Duration> {
    match why {
        Refused::Unsealed => Some(limits::UNSEALED_LINE),
        Refused::OtherCluster => Some(limits::OTHER_CLUSTER_LINE),
        Refused::FromNetwork | Refused::Version(_) | Refused::Sealed | Refused::Forged { .. } => {
            Some(limits::STRANGER_LINE)
        }
        Refused::Malformed | Refused::Replayed | Refused::Flood => None,
    }
}

impl Dropped {
    /// Somebody has to do something about it. Two clusters may well share a network.
    pub(super) fn is_a_warning(&self) -> bool {
        self.why != Refused::OtherCluster
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { why, count, address } = self;
        match why {
            Refused::FromNetwork => write!(
                f,
                "ignoring what came over the network from {address}: without a secret only this machine is heard; if \
                 that is a member, make one with \"tasuki secret\" and name it in cluster.secret_file on both"
            ),
            Refused::OtherCluster => write!(f, "ignoring a member of another cluster at {address}"),
            Refused::Version(version) => write!(
                f,
                "ignoring a member at {address} that speaks version {version} of membership, not {VERSION}: run the \
                 same release everywhere"
            ),
            Refused::Sealed => {
                write!(f, "ignoring a member at {address} that has a secret: name it in cluster.secret_file here, too")
            }
            Refused::Forged { claimed } => write!(
                f,
                "ignoring a member that says it is at {claimed}, because its datagrams come from {address}: set its \
                 cluster.bind to the address that the others see, and let nothing between members change addresses"
            ),
            Refused::Unsealed => {
                return write!(
                    f,
                    "datagrams dropped because they are not sealed with this cluster's secret: {count}, the last one \
                     from {address}; if that is a member, give it the same secret and cluster name"
                );
            }
            Refused::Malformed | Refused::Replayed | Refused::Flood => write!(f, "ignoring datagrams from {address}"),
        }?;
        if *count > 1 { write!(f, " ({count} datagrams since the last such line)") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn each_reason_has_its_own_line_and_rate_and_nothing_is_left_out_of_the_count() {
        let mut strangers = Strangers::default();
        for port in 1..=1_000 {
            strangers.note(Refused::OtherCluster, at(port));
            strangers.note(Refused::Version(7), at(port));
            strangers.note(Refused::Malformed, at(port));
        }
        let counts = |told: Vec<Dropped>| told.iter().map(|told| (told.why, told.count)).collect::<Vec<_>>();
        let both = [(Refused::OtherCluster, 1_000), (Refused::Version(7), 1_000)];
        assert_eq!(counts(strangers.due(Moment(5))), both);
        strangers.note(Refused::Version(8), at(1));
        strangers.note(Refused::OtherCluster, at(1));
        strangers.note(Refused::Sealed, at(1));
        assert_eq!(counts(strangers.due(Moment(6))), [(Refused::Sealed, 1)]);
        let later = Moment(5) + limits::STRANGER_LINE;
        assert_eq!(counts(strangers.due(later)), [(Refused::Version(8), 1)]);
        assert_eq!(counts(strangers.due(Moment(5) + limits::OTHER_CLUSTER_LINE)), [(Refused::OtherCluster, 1)]);
        assert_eq!(strangers.kinds.len(), 3, "the memory is bounded by the reasons");
    }

    #[test]
    fn a_line_names_what_was_seen_and_how_often() {
        let why = Refused::Forged { claimed: at(4_000) };
        let line = Dropped { why, count: 3, address: at(1) }.to_string();
        for part in ["127.0.0.1:4000", "127.0.0.1:1:", "cluster.bind", "(3 datagrams since"] {
            assert!(line.contains(part), "{part} is in {line}");
        }
        assert!(!Dropped { why, count: 1, address: at(1) }.to_string().contains("since the last"));
    }
}
