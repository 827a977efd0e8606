//! Which files of a webapp are static ones, and what is settled about them when it is deployed.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use actix_web::http::header::HeaderValue;

use super::{
    Asset,
    coding::{self, Coding},
    disk::Place,
    media::Media,
    shelf::Ticket,
};
use crate::limits;

/// A public file of a webapp.
#[derive(Clone, Debug)]
pub(in crate::webapp) struct Listed {
    /// Its path within the webapp: `/style.css`.
    pub(in crate::webapp) path: String,
    /// Where it lies, relative to the webapp's root, without any link.
    pub(in crate::webapp) inside: PathBuf,
    /// Its length now.
    pub(in crate::webapp) bytes: u64,
    /// As the descriptor's `mime-mapping` has it.
    pub(in crate::webapp) content_type: Option<String>,
}

/// The context parameter with the `Cache-Control` of all static files; with a dot and the end of a name behind it, of
/// those files: `cache-control.png`.
const PARAMETER: &str = "cache-control";

/// Asked again each time, which costs an answer without content: a new version of a webapp is seen at once, and never one
/// file of the old version beside one of the new.
const ASK_AGAIN: &str = "no-cache";

/// For an address that names the content. A year, and not asked again when the page is loaded anew (RFC 8246).
pub(super) const NAMED: &str = "public, max-age=31536000, immutable";

/// The static files of a webapp by their path. `root` is its folder, canonical. `parameters` are its context parameters.
/// The second value is what its author should know of.
pub(in crate::webapp) fn collect(
    root: &Path,
    files: &[Listed],
    parameters: &[(String, String)],
) -> (HashMap<String, Arc<Asset>>, Vec<String>) {
    let root: Arc<Path> = root.into();
    let by_path: BTreeMap<&str, &Listed> = files.iter().map(|file| (file.path.as_str(), file)).collect();
    let (rules, remarks) = Rules::of(parameters);
    let asset = |file: &Listed| {
        let packed = packed(&root, file, &by_path);
        let media = Media::of(&file.path, file.content_type.as_deref());
        let place = Place { root: root.clone(), inside: file.inside.clone() };
        let codings = codings(&packed, &media, file.bytes);
        let (ticket, cache_control) = (Ticket::draw(), rules.of_file(&file.path));
        Asset { ticket, place, cache_control, media, packed, codings, digits: OnceLock::new() }
    };
    let assets = files.iter().map(|file| (file.path.clone(), Arc::new(asset(file)))).collect();
    (assets, remarks)
}

/// `Cache-Control` by the end of a file's name.
struct Rules {
    all: HeaderValue,
    by_end: BTreeMap<String, HeaderValue>,
}

impl Rules {
    fn of(parameters: &[(String, String)]) -> (Self, Vec<String>) {
        let mut rules = Self { all: HeaderValue::from_static(ASK_AGAIN), by_end: BTreeMap::new() };
        let mut remarks = Vec::new();
        for (name, value) in parameters {
            let Some(end) = name.strip_prefix(PARAMETER) else { continue };
            match (HeaderValue::try_from(value.trim()), end.strip_prefix('.')) {
                (Ok(value), None) if end.is_empty() => rules.all = value,
                (Ok(value), Some(end)) => drop(rules.by_end.insert(end.to_ascii_lowercase(), value)),
                (Err(_), _) => remarks.push(format!("{name}: {value:?} is no value of Cache-Control; it is left out")),
                (Ok(_), None) => {}
            }
        }
        (rules, remarks)
    }

    fn of_file(&self, path: &str) -> HeaderValue {
        let end = path.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase());
        end.and_then(|end| self.by_end.get(&end)).unwrap_or(&self.all).clone()
    }
}

/// The files beside it that have the same content, compressed.
fn packed(root: &Arc<Path>, file: &Listed, all: &BTreeMap<&str, &Listed>) -> Vec<(Coding, Place)> {
    let beside = |coding: Coding| {
        let packed = all.get(format!("{}.{}", file.path, coding.suffix()?).as_str())?;
        Some((coding, Place { root: root.clone(), inside: packed.inside.clone() }))
    };
    coding::ALL.into_iter().filter_map(beside).collect()
}

/// In what it may be sent besides as it is: what was compressed beforehand, and what can be compressed once and kept.
fn codings(packed: &[(Coding, Place)], media: &Media, bytes: u64) -> Vec<Coding> {
    let is_worth_it =
        media.is_compressible() && (limits::COMPRESSED_FROM_BYTES..=limits::ASSET_KEPT_BYTES).contains(&bytes);
    let made = coding::MADE.into_iter().filter(|_| is_worth_it);
    let mut codings: Vec<Coding> = packed.iter().map(|(coding, _)| *coding).collect();
    codings.extend(made.filter(|made| packed.iter().all(|(coding, _)| coding != made)));
    codings
}

impl Asset {
    /// A file without anything that is said of it elsewhere.
    #[cfg(test)]
    pub(in crate::webapp) fn plain(root: &Path, path: &str) -> Arc<Self> {
        let inside = path.trim_start_matches('/');
        let bytes = std::fs::metadata(root.join(inside)).map_or(0, |metadata| metadata.len());
        let file = Listed { path: path.into(), inside: inside.into(), bytes, content_type: None };
        let (mut assets, _) = collect(root, &[file], &[]);
        assets.remove(path).unwrap()
    }

    /// Where it is said to lie.
    #[cfg(test)]
    pub(in crate::webapp) fn file(&self) -> &Path {
        &self.place.inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(path: &str, bytes: u64) -> Listed {
        Listed { path: path.into(), inside: path[1..].into(), bytes, content_type: None }
    }

    fn parameters(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_cache_rule_of_a_file_is_the_most_particular_one() {
        let files = [listed("/a.PNG", 1), listed("/a.css", 1), listed("/png", 1)];
        let rules = parameters(&[("cache-control", "max-age=60"), ("cache-control.png", " max-age=86400 ")]);
        let (assets, remarks) = collect(Path::new("/w"), &files, &rules);
        let rule = |path: &str| assets[path].cache_control.to_str().unwrap().to_owned();
        assert_eq!(
            (rule("/a.PNG"), rule("/a.css"), rule("/png")),
            ("max-age=86400".into(), "max-age=60".into(), "max-age=60".into())
        );
        assert!(remarks.is_empty());
        let (assets, remarks) = collect(Path::new("/w"), &files, &parameters(&[("cache-control.css", "a\nb")]));
        assert_eq!(assets["/a.css"].cache_control, "no-cache");
        assert!(remarks.len() == 1 && remarks[0].starts_with("cache-control.css: "), "{remarks:?}");
    }

    #[test]
    fn what_may_be_compressed_is_settled_by_kind_and_size() {
        let large = limits::ASSET_KEPT_BYTES + 1;
        let files = [
            listed("/a.css", 2_000),
            listed("/a.css.br", 100),
            listed("/a.css.zst", 100),
            listed("/b.css", 1_023),
            listed("/c.css", large),
            listed("/c.css.gz", 100),
            listed("/d.png", 2_000),
        ];
        let (assets, _) = collect(Path::new("/w"), &files, &[]);
        let codings = |path: &str| assets[path].codings.clone();
        assert_eq!(codings("/a.css"), [Coding::Zstd, Coding::Brotli, Coding::Gzip]);
        assert_eq!((codings("/b.css"), codings("/d.png")), (vec![], vec![]));
        assert_eq!(codings("/c.css"), [Coding::Gzip]);
    }
}
