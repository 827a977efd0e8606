//! What settings name on the disk must be there before anything is started.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{Balancer, Node, Refusal, Tls, variable_of};

impl Node {
    /// The webapps folder exists and can be read.
    ///
    /// # Errors
    /// [`Refusal::Missing`], which names the folder, where it was looked for, and what to do.
    pub fn check_folders(&self) -> Result<(), Refusal> {
        let problem = match self.webapps.read_dir() {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => format!(
                "there is no folder {}; start tasuki in the folder that has it, or name it with {}",
                absolute(&self.webapps).display(),
                variable_of("node.webapps")
            ),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => "this is not a folder".to_owned(),
            Err(error) => format!("this folder cannot be read: {error}"),
        };
        Err(Refusal::Missing { key: "node.webapps", path: self.webapps.clone(), problem })
    }
}

impl Balancer {
    /// The sorry page, if one is named, exists and is a file; so are certificate and key, and the key is its owner's alone.
    ///
    /// # Errors
    /// [`Refusal::Missing`], which names the file and what to do.
    pub fn check_files(&self) -> Result<(), Refusal> {
        self.tls.as_ref().map_or(Ok(()), Tls::check_files)?;
        let Some(page) = self.sorry_page.as_ref().filter(|page| !page.is_file()) else { return Ok(()) };
        let looked_for = absolute(page);
        let problem = format!("there is no file {}; write \"\" for the built-in page", looked_for.display());
        Err(Refusal::Missing { key: "balancer.sorry_page", path: page.clone(), problem })
    }
}

impl Tls {
    fn check_files(&self) -> Result<(), Refusal> {
        for (key, path) in [("balancer.tls.certificate", &self.certificate), ("balancer.tls.key", &self.key)] {
            if !path.is_file() {
                let problem = format!("there is no file {}", absolute(path).display());
                return Err(Refusal::Missing { key, path: path.clone(), problem });
            }
        }
        let refuse = |problem| Refusal::Missing { key: "balancer.tls.key", path: self.key.clone(), problem };
        self.check_key_mode().map_err(refuse)
    }

    /// As of a secret file, nobody but its owner may use the key.
    ///
    /// # Errors
    /// What is wrong and what to do; also when the file cannot be looked at.
    pub fn check_key_mode(&self) -> Result<(), String> {
        let found = self.key.metadata().map_err(|error| error.to_string())?;
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 == 0 {
            return Ok(());
        }
        let remedy = format!("run: chmod 600 {}", self.key.display());
        Err(format!("others than its owner may use it (mode {mode:03o}); {remedy}"))
    }
}

/// The path as people find it, whatever folder they look from. As written where the own folder is not known.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_webapps_folder_is_named_with_its_place() {
        let webapps = PathBuf::from("/nowhere/webapps");
        let refusal = Node { webapps, ..Node::default() }.check_folders().unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "node.webapps = \"/nowhere/webapps\": there is no folder /nowhere/webapps; start tasuki in the folder that \
             has it, or name it with TASUKI__NODE__WEBAPPS"
        );
    }

    #[test]
    fn a_file_is_no_webapps_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let node = Node { webapps: file.path().to_owned(), ..Node::default() };
        assert!(node.check_folders().unwrap_err().to_string().ends_with("this is not a folder"));
    }

    #[test]
    fn a_missing_sorry_page_is_refused_and_none_is_not() {
        assert_eq!(Balancer::default().check_files(), Ok(()));
        let balancer = Balancer { sorry_page: Some("/nowhere/sorry.html".into()), ..Balancer::default() };
        let text = balancer.check_files().unwrap_err().to_string();
        assert!(text.starts_with("balancer.sorry_page = \"/nowhere/sorry.html\": there is no file"), "{text}");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let listen = "127.0.0.1:443".parse().unwrap();
        let tls = Tls { listen, certificate: certificate.clone(), key: key.clone(), http2: true };
        let balancer = Balancer { tls: Some(tls), ..Balancer::default() };
        let refusal = || balancer.check_files().unwrap_err().to_string();
        assert!(refusal().contains("balancer.tls.certificate = "), "{}", refusal());
        std::fs::write(&certificate, "").unwrap();
        assert!(refusal().contains("balancer.tls.key = "), "{}", refusal());
        std::fs::write(&key, "").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(refusal().ends_with(&format!("run: chmod 600 {}", key.display())), "{}", refusal());
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(balancer.check_files().is_ok());
    }
}
