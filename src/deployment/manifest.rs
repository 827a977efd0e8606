//! What the cluster has deployed, as one node knows it: pure, and merged entry by entry.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{limits, names::NodeId};

/// SHA-256 of an archive (FIPS 180-4), as `sha256sum` prints it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// What stands for each name. A name that was undeployed is remembered: its entry outranks older news of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    entries: BTreeMap<String, Entry>,
}

/// What the cluster says about one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Of two entries the higher one stands.
    pub(super) serial: Serial,
    /// What is deployed; none after an undeploy.
    pub(super) archive: Option<Digest>,
    /// What was deployed before, the last one first: at most [`limits::DEPLOYED_EARLIER`].
    pub(super) earlier: Vec<Digest>,
}

/// Ranks entries of one name. The node tells two coordinators apart that did not know of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Serial {
    pub(super) counter: u64,
    pub(super) node: NodeId,
}

/// What is to become of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Deploy(Digest),
    Undeploy,
    /// Back to what was deployed before.
    Rollback,
}

/// Why a change makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoChange {
    #[error("{0} was not deployed by \"tasuki deploy\"; what lies in the webapps folder is removed there")]
    NotDeployed(String),
    #[error("there is no earlier version of {0} to go back to")]
    NothingEarlier(String),
    #[error("{max} names have been deployed already; no more can be remembered", max = limits::DEPLOYED_NAMES)]
    TooMany,
}

impl Digest {
    /// Of 32 bytes.
    pub(super) fn of(hash: &[u8]) -> Self {
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The first digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        // It becomes a file's name: nothing else may pass.
        if good { Ok(Self(text.to_owned())) } else { Err("a digest is 64 lower-case hex digits".into()) }
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl Manifest {
    /// What is deployed under each name.
    pub fn deployed(&self) -> BTreeMap<String, Digest> {
        let archive = |(name, entry): (&String, &Entry)| Some((name.clone(), entry.archive.clone()?));
        self.entries.iter().filter_map(archive).collect()
    }

    /// Every archive that is deployed or may be gone back to.
    pub(super) fn wanted(&self) -> BTreeSet<&Digest> {
        self.entries.values().flat_map(|entry| entry.archive.iter().chain(&entry.earlier)).collect()
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The entry that a change would make, above all that is known of the name.
    pub(super) fn next(&self, name: &str, change: Change, me: NodeId) -> Result<Entry, NoChange> {
        let before = self.entries.get(name);
        let current = before.and_then(|entry| entry.archive.clone());
        let earlier = before.map(|entry| entry.earlier.clone()).unwrap_or_default();
        if before.is_none() && self.entries.len() >= limits::DEPLOYED_NAMES {
            return Err(NoChange::TooMany);
        }
        let archive = match change {
            Change::Deploy(digest) => Some(digest),
            Change::Undeploy if current.is_none() => return Err(NoChange::NotDeployed(name.into())),
            Change::Undeploy => None,
            Change::Rollback if before.is_none() => return Err(NoChange::NotDeployed(name.into())),
            Change::Rollback => Some(earlier.first().cloned().ok_or(NoChange::NothingEarlier(name.into()))?),
        };
        let counter = before.map_or(0, |entry| entry.serial.counter) + 1;
        let earlier = current.into_iter().chain(earlier).filter(|digest| archive.as_ref() != Some(digest));
        let earlier = earlier.take(limits::DEPLOYED_EARLIER).collect();
        Ok(Entry { serial: Serial { counter, node: me }, archive, earlier })
    }

    /// Takes an entry if it is newer than what is known; whether it was.
    pub(super) fn take(&mut self, name: &str, entry: &Entry) -> bool {
        let newer = self.entries.get(name).is_none_or(|known| known.serial < entry.serial);
        let fits = self.entries.contains_key(name) || self.entries.len() < limits::DEPLOYED_NAMES;
        if newer && fits {
            self.entries.insert(name.to_owned(), entry.clone());
        }
        newer && fits
    }

    /// Of another node's manifest what is newer than here.
    pub(super) fn news<'a>(&self, other: &'a Self) -> Vec<(&'a String, &'a Entry)> {
        let newer =
            |(name, entry): &(&String, &Entry)| self.entry(name).is_none_or(|known| known.serial < entry.serial);
        other.entries.iter().filter(newer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    fn digest(n: u8) -> Digest {
        Digest::of(&[n; 32])
    }

    /// A manifest after these changes of `shop`.
    fn after(changes: &[Change]) -> Manifest {
        let mut manifest = Manifest::default();
        for change in changes {
            let entry = manifest.next("shop", change.clone(), ME).unwrap();
            assert!(manifest.take("shop", &entry));
        }
        manifest
    }

    fn deployed(manifest: &Manifest) -> Option<Digest> {
        manifest.deployed().remove("shop")
    }

    #[test]
    fn a_rollback_goes_to_the_version_before_and_a_second_one_back_again() {
        use Change::{Deploy, Rollback};
        let changes = [Deploy(digest(1)), Deploy(digest(2)), Rollback, Rollback];
        let seen: Vec<_> = (1..=4).map(|n| deployed(&after(&changes[..n])).unwrap()).collect();
        assert_eq!(seen, [digest(1), digest(2), digest(1), digest(2)]);
    }

    #[test]
    fn what_was_undeployed_can_be_brought_back() {
        let manifest = after(&[Change::Deploy(digest(1)), Change::Undeploy]);
        assert_eq!(deployed(&manifest), None);
        assert!(manifest.wanted().contains(&digest(1)));
        assert_eq!(deployed(&after(&[Change::Deploy(digest(1)), Change::Undeploy, Change::Rollback])), Some(digest(1)));
    }

    #[test]
    fn a_change_without_a_ground_says_why() {
        let empty = Manifest::default();
        for change in [Change::Undeploy, Change::Rollback] {
            assert_eq!(empty.next("shop", change, ME), Err(NoChange::NotDeployed("shop".into())));
        }
        let once = after(&[Change::Deploy(digest(1))]);
        assert_eq!(once.next("shop", Change::Rollback, ME), Err(NoChange::NothingEarlier("shop".into())));
        let gone = after(&[Change::Deploy(digest(1)), Change::Undeploy]);
        assert_eq!(gone.next("shop", Change::Undeploy, ME), Err(NoChange::NotDeployed("shop".into())));
    }

    #[test]
    fn earlier_versions_and_names_are_bounded() {
        let many: Vec<Change> = (0..100).map(|n| Change::Deploy(digest(n))).collect();
        let manifest = after(&many);
        assert_eq!(manifest.entry("shop").unwrap().earlier.len(), limits::DEPLOYED_EARLIER);
        assert_eq!(manifest.wanted().len(), limits::DEPLOYED_EARLIER + 1);
        let mut full = Manifest::default();
        for n in 0..limits::DEPLOYED_NAMES {
            let entry = full.next(&format!("a{n}"), Change::Deploy(digest(1)), ME).unwrap();
            assert!(full.take(&format!("a{n}"), &entry));
        }
        assert_eq!(full.next("one-more", Change::Deploy(digest(1)), ME), Err(NoChange::TooMany));
        assert!(full.next("a0", Change::Deploy(digest(2)), ME).is_ok());
    }

    #[test]
    fn nodes_agree_in_whatever_order_the_news_come() {
        let base = after(&[Change::Deploy(digest(1))]);
        let mine = base.next("shop", Change::Deploy(digest(2)), ME).unwrap();
        let theirs = base.next("shop", Change::Deploy(digest(3)), OTHER).unwrap();
        let [mut a, mut b] = [base.clone(), base];
        for (manifest, news) in [(&mut a, [&mine, &theirs]), (&mut b, [&theirs, &mine])] {
            news.iter().for_each(|entry| {
                manifest.take("shop", entry);
            });
        }
        assert_eq!(a, b);
        assert_eq!(deployed(&a), Some(digest(3)));
        assert!(!a.take("shop", &mine), "what is older changes nothing");
        assert!(a.news(&b).is_empty());
        assert_eq!(Manifest::default().news(&a).len(), 1);
    }

    #[test]
    fn a_manifest_of_the_disk_comes_back_and_a_digest_is_no_path() {
        let manifest = after(&[Change::Deploy(digest(1)), Change::Deploy(digest(2))]);
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
        let bad = text.replace(&digest(2).to_string(), "../../etc/passwd");
        assert!(serde_json::from_str::<Manifest>(&bad).is_err());
    }
}
