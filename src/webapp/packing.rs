//! Archives for tests, as anybody's tool would make them.

use std::{
    fs,
    io::{Cursor, Write},
    path::Path,
};

use zip::{ZipWriter, write::SimpleFileOptions};

pub(super) fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
    packed_as(files, SimpleFileOptions::default())
}

pub(super) fn packed_as(files: &[(&str, &[u8])], options: SimpleFileOptions) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        archive.start_file(*name, options).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// An archive of one page, put into its place by a rename.
pub(super) fn put(at: &Path, page: &str) {
    let copying = at.with_extension("copying");
    fs::write(&copying, packed(&[("index.html.j2", page.as_bytes())])).unwrap();
    fs::rename(copying, at).unwrap();
}
