//! Settings that have to be alike on all members of a cluster, by the keys of the file and as they are written there: what
//! one member promises another one has to keep.

use std::collections::BTreeMap;

use super::{Ack, Session, SessionManager, values::written_duration};

/// Keys and values.
pub type Alike = BTreeMap<String, String>;

impl Session {
    /// What a node and every other one have to have alike, `cluster.min_copies` included.
    pub fn alike_on_nodes(&self, min_copies: usize) -> Alike {
        let ack = match self.ack {
            Ack::None => "none",
            Ack::One => "one",
            Ack::All => "all",
        };
        let mut alike = self.alike_on_balancers();
        alike.insert("session.ack".into(), ack.into());
        alike.insert("session.timeout".into(), written_duration(self.timeout));
        alike.insert("cluster.min_copies".into(), min_copies.to_string());
        if self.manager == SessionManager::Backup {
            alike.insert("session.copies".into(), self.copies.to_string());
        }
        alike
    }

    /// What balancers have to have as the nodes have it.
    pub fn alike_on_balancers(&self) -> Alike {
        let manager = match self.manager {
            SessionManager::Delta => "delta",
            SessionManager::Full => "full",
            SessionManager::Backup => "backup",
        };
        [("session.cookie", self.cookie.as_str()), ("session.manager", manager)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_in_the_file() {
        let mut session = Session::default();
        let text =
            |alike: Alike| alike.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
        assert_eq!(text(session.alike_on_balancers()), "session.cookie=JSESSIONID session.manager=delta");
        session.manager = SessionManager::Backup;
        assert_eq!(
            text(session.alike_on_nodes(2)),
            "cluster.min_copies=2 session.ack=one session.cookie=JSESSIONID session.copies=1 session.manager=backup \
             session.timeout=30m"
        );
    }
}
