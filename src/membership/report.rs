//! How membership is, for the manager page, metrics and tests.

use serde::Serialize;

use super::{Member, Way};

/// Answer to [`super::Observe`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every member that is remembered, this process left out, in the order of their addresses.
    pub members: Vec<MemberReport>,
    /// Discovery is complete (see [`super::Roster::discovered`]).
    pub discovered: bool,
    /// Datagrams since the start.
    pub datagrams: Datagrams,
}

/// One other member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberReport {
    /// What it announced last.
    pub member: Member,
    /// When its process started, in milliseconds since 1970 by its own clock. Later than it did if another process of its
    /// address seemed to have started after it.
    pub started_unix_ms: u64,
    /// Whether it is live.
    pub state: MemberState,
    /// How it was found; unknown for one that was never seen live.
    pub found: Option<Way>,
}

/// Whether a member is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer a probe, and may still object. It is on the roster.
    Suspect,
    /// It left, was silent, or its link broke. It is not on the roster.
    Down,
}

/// Counts of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Datagrams {
    /// Those that came in, refused ones included.
    pub received: u64,
    /// Those handed to the operating system.
    pub sent: u64,
    /// Those that came in and were dropped: malformed, of another version or cluster, unsealed, replayed, forged, too
    /// many, or from another machine while there is no secret.
    pub refused: u64,
    /// Of the refused ones, those of clusters with another name.
    pub other_cluster: u64,
    /// Of the refused ones, those that are not sealed with this cluster's secret.
    pub unsealed: u64,
    /// Of the refused ones, those that were taken before.
    pub replayed: u64,
}
