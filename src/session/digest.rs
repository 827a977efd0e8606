//! What two nodes compare to learn whether they hold the same sessions, without telling each other what these are.
//!
//! The sessions fall into buckets by their id, and each bucket has one number: the XOR of the fingerprints of all
//! sessions in it. The numbers of two nodes are equal if they hold the same, but for one chance in 2^64 a bucket.

use super::{
    replica::{Reach, Slot},
    stamp::Stamp,
};
use crate::names::SessionId;

/// Buckets of a digest: few enough to be sent at once (32 KiB), so many that a bucket of a million sessions has 244.
pub const BUCKETS: usize = 4_096;

/// The sessions of a node, as far as two nodes ought both to have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    sums: Box<[u64]>,
    counts: Box<[u32]>,
}

impl Default for Digest {
    fn default() -> Self {
        Self { sums: vec![0; BUCKETS].into(), counts: vec![0; BUCKETS].into() }
    }
}

impl Digest {
    /// Adds a session.
    pub fn add(&mut self, id: SessionId, fingerprint: u64) {
        let bucket = bucket(id);
        self.sums[bucket] ^= fingerprint;
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
    }

    /// For each bucket the XOR of the fingerprints in it.
    pub fn sums(&self) -> &[u64] {
        &self.sums
    }

    /// For each bucket how many sessions are in it.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }
}

/// The bucket of a session. Ids are drawn at random, so their first bits spread them evenly.
pub fn bucket(id: SessionId) -> usize {
    usize::from(id.0[0]) << 4 | usize::from(id.0[1] >> 4)
}

/// Stands for what a node holds of a session: the stamps of what is in it, or of its end. Who owns it and when it was used
/// are left out; a session that never leaves its node has none.
///
/// The same on all nodes and in all releases of one protocol version.
pub fn fingerprint(id: SessionId, slot: &Slot) -> Option<u64> {
    let id = hash(SEED, &id.0);
    match slot {
        Slot::Ended(_) => Some(mix(id ^ 1)),
        Slot::Sought(_) => None,
        Slot::Live(record) if record.reach() == Reach::Node => None,
        Slot::Live(record) => {
            let attributes = record.stamps().map(|(name, stamp)| stamped(hash(id, name.as_bytes()), stamp));
            Some(attributes.fold(stamped(id, record.stamp()), |sum, attribute| sum ^ attribute))
        }
    }
}

fn stamped(seed: u64, stamp: Stamp) -> u64 {
    let epoch = mix(seed ^ u64::from(stamp.epoch.counter) << 32 ^ u64::from(stamp.version));
    mix(epoch ^ stamp.epoch.node.0)
}

const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let hashed = words.iter().chain([&last]).fold(seed, |hash, word| mix(hash ^ u64::from_le_bytes(*word)));
    mix(hashed ^ bytes.len() as u64)
}

/// The finalizer of SplitMix64: every bit of the input changes half of the output.
pub fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(SEED);
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::{ContextPath, NodeId},
        session::{
            delta::Update,
            draft::Change,
            lease::Term,
            replica::{self, Birth},
            stamp::Epoch,
            value::Value,
        },
        time::Moment,
    };

    const ID: SessionId = SessionId([0xAB; 16]);

    fn born(reach: Reach) -> (Option<Slot>, Update) {
        let context = ContextPath::root();
        let birth = Birth { id: ID, me: NodeId(1), term: Term(1), context: &context, reach, timeout: None };
        let mut slot = None;
        let born = replica::create(&mut slot, &birth, &[set("a", 1)], Moment(1));
        (slot, born.update)
    }

    fn set(name: &str, value: u8) -> Change {
        Change::Set(name.into(), Value::encode(&value).unwrap())
    }

    fn print(slot: &Option<Slot>) -> Option<u64> {
        fingerprint(ID, slot.as_ref().unwrap())
    }

    #[test]
    fn owner_and_holder_have_the_same_fingerprint_and_every_commit_changes_it() {
        let ((mut owned, update), mut held) = (born(Reach::Cluster), None);
        replica::apply(&mut held, update, Moment(9));
        assert_eq!(print(&owned), print(&held));
        let committed = replica::commit(&mut owned, ID, &[set("a", 1)], Some(Term(1)), Moment(2)).unwrap();
        assert_ne!(print(&owned), print(&held), "the holder has not heard of it");
        replica::apply(&mut held, committed.update, Moment(9));
        assert_eq!(print(&owned), print(&held));
        let ended = replica::end(&mut owned, ID, Some(Term(1)), Moment(3)).unwrap();
        assert_ne!(print(&owned), print(&held));
        replica::apply(&mut held, ended.update, Moment(9));
        assert_eq!(print(&owned), print(&held));
    }

    #[test]
    fn a_removal_counts_and_who_holds_the_session_when_does_not() {
        let ((mut owned, update), mut held) = (born(Reach::Cluster), None);
        replica::apply(&mut held, update, Moment(9));
        let removal = [Change::Remove("a".into())];
        let removed = replica::commit(&mut owned, ID, &removal, Some(Term(1)), Moment(2)).unwrap();
        let before = print(&held);
        replica::apply(&mut held, removed.update, Moment(9));
        assert_ne!(print(&held), before);
        replica::touch(&mut owned, Moment(900));
        replica::yield_to(&mut held, Epoch { counter: 9, node: NodeId(9) });
        assert_eq!(print(&owned), print(&held));
    }

    #[test]
    fn what_stays_on_its_node_has_no_fingerprint() {
        assert_eq!(print(&born(Reach::Node).0), None);
    }

    #[test]
    fn a_digest_tells_the_bucket_in_which_something_is_missing() {
        let other = SessionId([0x12; 16]);
        let (mut all, mut some) = (Digest::default(), Digest::default());
        all.add(ID, 5);
        all.add(other, 7);
        some.add(other, 7);
        let differing: Vec<usize> = (0..BUCKETS).filter(|at| all.sums()[*at] != some.sums()[*at]).collect();
        assert_eq!(differing, [0xABA]);
        assert_eq!((all.counts()[0xABA], some.counts()[0xABA], all.counts()[0x121]), (1, 0, 1));
    }

    #[test]
    fn the_fingerprint_is_pinned_because_nodes_of_other_releases_make_it_too() {
        assert_eq!(print(&born(Reach::Cluster).0), Some(0xFF3F_14C2_34E6_9BDB));
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF, "the first output of SplitMix64");
    }
}
