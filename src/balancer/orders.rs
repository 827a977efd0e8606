//! What an administrator has set, beside what the file says. Pure: kept on the disk by `kept`, carried out by `members`.
//!
//! Only what differs from the file is remembered, so that a value which was never touched follows the file when that is
//! changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    limits,
    names::Route,
    observe::{Admin, Differs, Terms},
    settings::StaticMember,
};

/// The weight of a node that the file does not name: the seeds' loadfactor.
pub(crate) const DEFAULT_WEIGHT: u8 = 50;

/// What was set of one member; what was not is the file's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Set {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) duty: Option<Admin>,
    /// 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) standby: Option<bool>,
}

/// What was set of all members, those that are away included.
pub(crate) type Orders = BTreeMap<Route, Set>;

/// One thing that an administrator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// What it is used for.
    Duty(Admin),
    /// Its share of new sessions, 1 to 100.
    Weight(u8),
    /// Whether it is used only when no other member of its set may serve.
    Standby(bool),
    /// Everything as the file has it.
    AsInFile,
}

/// What the file says of a member, or what holds for one that it does not name. The file has no word for a duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InFile {
    pub(crate) weight: u8,
    pub(crate) standby: bool,
}

impl InFile {
    /// Of a member that the file names or not.
    pub(crate) fn of(fixed: Option<&StaticMember>) -> Self {
        Self {
            weight: fixed.map_or(DEFAULT_WEIGHT, |fixed| fixed.weight),
            standby: fixed.is_some_and(|fixed| fixed.standby),
        }
    }
}

impl Set {
    /// With one more thing set. What is as the file has it is not remembered.
    pub(crate) fn with(self, change: Change, file: InFile) -> Self {
        match change {
            Change::Duty(duty) => Self { duty: (duty != Admin::Enabled).then_some(duty), ..self },
            Change::Weight(weight) => Self { weight: (weight != file.weight).then_some(weight), ..self },
            Change::Standby(standby) => Self { standby: (standby != file.standby).then_some(standby), ..self },
            Change::AsInFile => Self::default(),
        }
    }

    /// What it is used for.
    pub(crate) fn admin(self) -> Admin {
        self.duty.unwrap_or_default()
    }

    /// On what terms the member is used, and what of them is not the file's.
    pub(crate) fn terms(self, file: InFile) -> Terms {
        let (admin, weight) = (self.admin(), self.weight.unwrap_or(file.weight));
        let standby = self.standby.unwrap_or(file.standby);
        let on = |standby| if standby { "on" } else { "off" };
        let mut differs = Vec::new();
        let mut compare = |setting: &str, now: String, file: String| {
            if now != file {
                differs.push(Differs { setting: setting.into(), now, file });
            }
        };
        compare("duty", admin.word().into(), Admin::Enabled.word().into());
        compare("weight", weight.to_string(), file.weight.to_string());
        compare("standby", on(standby).into(), on(file.standby).into());
        Terms { admin, weight, standby, differs }
    }

    fn is_good(&self) -> bool {
        self.weight.is_none_or(|weight| (1..=100).contains(&weight))
    }
}

/// Whether orders that were read may be used: as many as there are members, and every weight in its bounds.
pub(crate) fn are_good(orders: &Orders) -> bool {
    orders.len() <= limits::MEMBERS && orders.values().all(Set::is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InFile = InFile { weight: 50, standby: false };

    #[test]
    fn what_is_set_is_shown_beside_the_files_value() {
        let set = Set::default().with(Change::Weight(10), FILE).with(Change::Duty(Admin::Drained), FILE);
        let terms = set.terms(FILE);
        assert_eq!((terms.admin, terms.weight, terms.standby), (Admin::Drained, 10, false));
        let shown: Vec<_> = terms.differs.iter().map(|d| [&d.setting[..], &d.now, &d.file]).collect();
        assert_eq!(shown, [["duty", "drained", "enabled"], ["weight", "10", "50"]]);
    }

    #[test]
    fn what_is_set_to_the_files_value_is_not_remembered() {
        for (there, back) in [
            (Change::Weight(10), Change::Weight(50)),
            (Change::Standby(true), Change::Standby(false)),
            (Change::Duty(Admin::Disabled), Change::Duty(Admin::Enabled)),
            (Change::Weight(10), Change::AsInFile),
        ] {
            let set = Set::default().with(there, FILE);
            assert_ne!(set, Set::default());
            assert_eq!(set.with(back, FILE), Set::default(), "{back:?}");
        }
    }

    #[test]
    fn what_was_not_set_follows_a_changed_file() {
        let set = Set::default().with(Change::Standby(true), FILE);
        let changed = InFile { weight: 20, standby: true };
        let terms = set.terms(changed);
        assert_eq!((terms.weight, terms.standby, terms.differs), (20, true, vec![]));
    }

    #[test]
    fn a_weight_out_of_bounds_is_not_taken_from_the_disk() {
        let orders = |weight| Orders::from([("r1".parse().unwrap(), Set { weight: Some(weight), ..Set::default() })]);
        assert!(are_good(&orders(1)) && are_good(&orders(100)));
        assert!(!are_good(&orders(0)) && !are_good(&orders(101)));
    }
}
