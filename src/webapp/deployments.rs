//! What is deployed: the webapps of the folder, those that the cluster has deployed above them, and what is wrong.
//! Fed with what was read; pure but for its lines in the log.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    app::Webapp,
    catalog::{Catalog, Version},
    folder::Candidate,
    orders::Origin,
    reader::Readout,
    refusal::Refusal,
};
use crate::{
    limits,
    observe::{WebappReport, WebappSource},
    time::Moment,
};

/// Everything by the full names of the webapps.
#[derive(Debug, Default)]
pub(super) struct Deployments {
    folder: BTreeMap<String, Arc<Webapp>>,
    deployed: BTreeMap<String, Deployed>,
    /// Why what lies in the folder now is not what is in `folder`.
    troubles: BTreeMap<String, Trouble>,
    /// What the cluster has deployed and was found broken at the start.
    left_out: BTreeMap<String, Refusal>,
    /// Entries of the folder that do not count because another one stands for the webapp.
    beside: BTreeMap<String, String>,
    /// Since when a newer version has been there.
    superseded: BTreeMap<String, Moment>,
    /// Unpacked archives that are replaced. Each goes when no request uses it.
    retired: Vec<Arc<Webapp>>,
}

/// A webapp that the cluster has deployed.
#[derive(Clone, Debug)]
pub(super) struct Deployed {
    pub(super) origin: Origin,
    pub(super) app: Arc<Webapp>,
}

/// What came of reading what lies in the folder.
#[derive(Debug)]
pub(super) enum Outcome {
    Ready(Box<Readout>),
    Refused(Refusal),
    /// An archive that does not open whole.
    Incomplete(Refusal),
    Gone,
}

#[derive(Debug)]
enum Trouble {
    Broken(Refusal),
    /// An archive that does not open whole has not changed since.
    Copying(Refusal, Moment),
}

impl Deployments {
    /// Takes what one look at the folder has seen and read.
    pub(super) fn saw(
        &mut self,
        candidates: &BTreeMap<String, Candidate>,
        outcomes: Vec<(String, Outcome)>,
        now: Moment,
    ) {
        for (name, outcome) in outcomes {
            match outcome {
                Outcome::Ready(readout) => self.take(name, *readout),
                Outcome::Refused(refusal) => self.refuse(name, refusal),
                Outcome::Incomplete(refusal) => {
                    tracing::info!("webapp {name} is being copied ({refusal})");
                    self.troubles.insert(name, Trouble::Copying(refusal, now));
                }
                Outcome::Gone => self.forget(&name),
            }
        }
        self.lose_patience(now);
        self.note_beside(candidates);
    }

    /// What the cluster has deployed now, and what of it was left out.
    pub(super) fn set_deployed(&mut self, deployed: BTreeMap<String, Deployed>, left_out: BTreeMap<String, Refusal>) {
        let before = std::mem::replace(&mut self.deployed, deployed);
        self.left_out = left_out;
        for (name, Deployed { app, .. }) in &self.deployed {
            if before.get(name).is_none_or(|before| !Arc::ptr_eq(&before.app, app)) {
                tracing::info!("webapp {name} deployed by the cluster at {} (version {})", app.context(), app.version);
            }
        }
        for (name, Deployed { app, .. }) in before {
            if !self.deployed.contains_key(&name) {
                let then =
                    if self.folder.contains_key(&name) { "what lies in the folder answers" } else { "it is gone" };
                tracing::info!("webapp {name} undeployed by the cluster: {then}");
            }
            if self.deployed.get(&name).is_none_or(|now| !Arc::ptr_eq(&now.app, &app)) {
                self.retire(app);
            }
        }
    }

    /// What the cluster has deployed.
    pub(super) fn deployed(&self) -> &BTreeMap<String, Deployed> {
        &self.deployed
    }

    /// What answers from now on.
    pub(super) fn catalog(&mut self, now: Moment) -> Catalog {
        let apps: Vec<Arc<Webapp>> = self.effective().map(|(_, app)| app.clone()).collect();
        let has_newer = |app: &Webapp| {
            apps.iter().any(|other| other.context() == app.context() && other.name.tag() > app.name.tag())
        };
        let mut superseded = BTreeMap::new();
        for app in apps.iter().filter(|app| has_newer(app)) {
            let since = self.superseded.get(app.name()).copied().unwrap_or(now);
            superseded.insert(app.name().to_owned(), since);
        }
        self.superseded = superseded;
        let version = |app: Arc<Webapp>| Version { superseded: self.superseded.get(app.name()).copied(), app };
        Catalog::of(apps.into_iter().map(version))
    }

    /// Replaced webapps that no request uses any more. Nobody can come to use one: it is in no catalog.
    pub(super) fn unused(&mut self) -> Vec<Arc<Webapp>> {
        self.retired.extract_if(.., |app| Arc::strong_count(app) == 1).collect()
    }

    /// One report for each webapp, in the order of their names.
    pub(super) fn reports(&self) -> Vec<WebappReport> {
        let mut names: Vec<&String> = self.folder.keys().chain(self.deployed.keys()).collect();
        names.extend(self.troubles.keys().chain(self.left_out.keys()));
        names.sort();
        names.dedup();
        names.into_iter().map(|name| self.report(name)).collect()
    }

    fn effective(&self) -> impl Iterator<Item = (&String, &Arc<Webapp>)> {
        let folder = self.folder.iter().filter(|(name, _)| !self.deployed.contains_key(*name));
        folder.chain(self.deployed.iter().map(|(name, deployed)| (name, &deployed.app)))
    }

    fn take(&mut self, name: String, readout: Readout) {
        let app = Arc::new(readout.app);
        readout.remarks.iter().for_each(|remark| tracing::warn!("webapp {name}: {remark}"));
        self.troubles.remove(&name);
        let has_changed = self.folder.get(&name).is_none_or(|before| before.version != app.version);
        match self.deployed.contains_key(&name) {
            true => tracing::warn!("webapp {name} lies in the folder, new or changed: {}", hidden(&name)),
            false if has_changed => {
                tracing::info!("webapp {name} deployed at {} (version {})", app.context(), app.version);
            }
            false => {}
        }
        if let Some(before) = self.folder.insert(name, app) {
            self.retire(before);
        }
    }

    fn refuse(&mut self, name: String, refusal: Refusal) {
        let kept = if self.folder.contains_key(&name) { "the version before goes on" } else { "not deployed" };
        tracing::error!("webapp {name} is broken ({kept}): {refusal}");
        self.troubles.insert(name, Trouble::Broken(refusal));
    }

    fn forget(&mut self, name: &str) {
        self.troubles.remove(name);
        if let Some(app) = self.folder.remove(name) {
            tracing::info!("webapp {name} undeployed: it is gone from the folder");
            self.retire(app);
        }
    }

    /// An archive that has been incomplete for long without a change is not being copied.
    fn lose_patience(&mut self, now: Moment) {
        let is_over = |trouble: &Trouble| match trouble {
            Trouble::Copying(refusal, since) if now.since(*since) >= limits::ARCHIVE_PATIENCE => Some(refusal.clone()),
            _ => None,
        };
        let over: Vec<(String, Refusal)> =
            self.troubles.iter().filter_map(|(name, trouble)| Some((name.clone(), is_over(trouble)?))).collect();
        over.into_iter().for_each(|(name, refusal)| self.refuse(name, refusal));
    }

    fn note_beside(&mut self, candidates: &BTreeMap<String, Candidate>) {
        let beside = candidates.iter().filter(|(_, it)| !it.hides.is_empty());
        let note =
            |it: &Candidate| format!("{} stands for it, {} beside it does not count", it.entry, it.hides.join(", "));
        let beside: BTreeMap<String, String> = beside.map(|(name, it)| (name.clone(), note(it))).collect();
        for (name, note) in &beside {
            if self.beside.get(name) != Some(note) {
                tracing::warn!("webapp {name}: {note}");
            }
        }
        self.beside = beside;
    }

    /// It goes when no request uses it.
    pub(super) fn retire(&mut self, app: Arc<Webapp>) {
        if app.unpacked.is_some() {
            self.retired.push(app);
        }
    }

    fn report(&self, name: &str) -> WebappReport {
        let deployed = self.deployed.get(name).map(|deployed| &deployed.app);
        let app = deployed.or(self.folder.get(name));
        let by_cluster = deployed.is_some() || self.left_out.contains_key(name) && !self.folder.contains_key(name);
        WebappReport {
            name: name.to_owned(),
            context: app.map(|app| app.context().clone()),
            version: app.map(|app| app.version.clone()),
            distributable: app.is_some_and(|app| app.descriptor.distributable),
            source: if by_cluster { WebappSource::Deployed } else { WebappSource::Folder },
            error: self.error(name).map(|refusal| cut(refusal.to_string())),
            notes: self.notes(name),
        }
    }

    fn error(&self, name: &str) -> Option<&Refusal> {
        match self.troubles.get(name) {
            Some(Trouble::Broken(refusal)) if !self.deployed.contains_key(name) => Some(refusal),
            _ => self.left_out.get(name),
        }
    }

    fn notes(&self, name: &str) -> Vec<String> {
        let in_folder = self.folder.contains_key(name) || self.troubles.contains_key(name);
        let hides = (self.deployed.contains_key(name) && in_folder).then(|| hidden(name));
        let trouble = self.troubles.get(name).and_then(|trouble| match trouble {
            Trouble::Copying(refusal, _) => Some(format!("being copied: {refusal}")),
            Trouble::Broken(refusal) if self.deployed.contains_key(name) => Some(format!("in the folder: {refusal}")),
            Trouble::Broken(_) => None,
        });
        let older = self.superseded.contains_key(name).then(|| "new sessions begin on a newer version".to_owned());
        let beside = self.beside.get(name).cloned();
        [hides, trouble, older, beside].into_iter().flatten().map(cut).collect()
    }
}

/// The reports of all webapps fit one answer of a node.
fn cut(text: String) -> String {
    match text.char_indices().nth(limits::REPORTED_CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn hidden(name: &str) -> String {
    format!("what the cluster has deployed stands over the folder's; \"tasuki undeploy {name}\" lets that answer")
}

#[cfg(test)]
mod tests;
