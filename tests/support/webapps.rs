//! A webapps folder of a test's own, and archives as people's tools write and copy them.

use std::{
    fs,
    io::{Cursor, Write},
    path::PathBuf,
};

use tasuki::observe::{NodeReport, WebappReport};
use zip::{ZipWriter, write::SimpleFileOptions};

use super::{
    cluster::{Cluster, Place},
    wait_for,
};

/// The folder of one cluster.
pub struct Webapps {
    folder: PathBuf,
}

impl Webapps {
    /// An empty one, and a place whose nodes use it.
    pub fn new() -> (Self, Place) {
        let place = Place::new();
        let folder = place.path("webapps");
        fs::create_dir(&folder).unwrap();
        let place = place.set("NODE__WEBAPPS", &folder.display().to_string());
        (Self { folder }, place)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file of a webapp, not at once with others.
    pub fn write(&self, name: &str, text: &str) {
        let at = self.path(name);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, text).unwrap();
    }

    /// Puts an archive in its place by a rename.
    pub fn put(&self, name: &str, files: &[(&str, &str)]) {
        let copying = self.path(&format!(".{name}.Xa3b"));
        fs::write(&copying, packed(files)).unwrap();
        fs::rename(copying, self.path(name)).unwrap();
    }
}

/// The bytes of an archive.
pub fn packed(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(text.as_bytes()).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

impl Cluster {
    /// Waits until every node's report of a webapp is as wanted.
    pub async fn webapp(&self, name: &str, wanted: impl Fn(&WebappReport) -> bool) -> WebappReport {
        let of = |node: &NodeReport| node.webapps.iter().find(|webapp| webapp.name == name).cloned();
        let look = || async {
            let reports: Option<Vec<WebappReport>> = self.status().await?.nodes.iter().map(of).collect();
            reports.filter(|reports| reports.iter().all(&wanted))?.pop()
        };
        wait_for(&format!("the webapp {name} is as wanted"), look).await
    }

    /// Waits until every node has a version of a webapp that is not `before`.
    pub async fn redeployed(&self, name: &str, before: Option<&str>) -> String {
        let is_new = |it: &WebappReport| it.version.as_deref() != before && it.error.is_none();
        self.webapp(name, |it| it.version.is_some() && is_new(it)).await.version.unwrap()
    }
}
