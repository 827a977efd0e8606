use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::*;
use crate::webapp::packing::{packed, packed_as};

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored)
}

/// Unpacks the bytes, and gives what is there afterwards: names and contents.
fn unpacked(bytes: &[u8]) -> Result<Vec<(String, String)>, Fault> {
    let folder = tempfile::tempdir().unwrap();
    let (at, into) = (folder.path().join("shop.war"), folder.path().join("into"));
    fs::write(&at, bytes).unwrap();
    fs::create_dir(&into).unwrap();
    unpack("shop.war", &at, &into)?;
    let mut found = Vec::new();
    collect(&into, &into, &mut found);
    found.sort();
    Ok(found)
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let at = entry.unwrap().path();
        match at.is_dir() {
            true => collect(root, &at, found),
            false => found.push((
                at.strip_prefix(root).unwrap().to_str().unwrap().to_owned(),
                String::from_utf8_lossy(&fs::read(&at).unwrap()).into_owned(),
            )),
        }
    }
}

fn refused(bytes: &[u8]) -> String {
    match unpacked(bytes) {
        Err(Fault::Refused(refusal)) => refusal.to_string(),
        other => panic!("it is refused, but: {other:?}"),
    }
}

/// Writes `to` wherever `from`, of the same length, stands: what no writer would make.
fn forged(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let places: Vec<usize> =
        bytes.windows(from.len()).enumerate().filter(|(_, it)| *it == from).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "there is something to forge");
    places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    bytes
}

#[test]
fn an_archive_is_unpacked_whole() {
    let files: [(&str, &[u8]); 3] = [("WEB-INF/web.xml", b"<web-app/>"), ("a/b/c.css", b"c"), ("申請.html", b"")];
    for options in [SimpleFileOptions::default(), stored()] {
        let found = unpacked(&packed_as(&files, options)).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["WEB-INF/web.xml", "a/b/c.css", "申請.html"]);
        assert_eq!(found[0].1, "<web-app/>");
    }
}

#[test]
fn every_part_of_an_archive_is_incomplete_and_never_taken_for_a_whole_one() {
    let noise: Vec<u8> = (0..2_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let whole = packed(&[("a.txt", b"hello"), ("b.bin", &noise), ("c.txt", b"bye")]);
    for end in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        let part = unpacked(&whole[..end]);
        assert!(matches!(part, Err(Fault::Incomplete(_))), "{end} of {}: {part:?}", whole.len());
    }
    // A copy that has set the length first: the middle is not there yet.
    let mut holey = whole.clone();
    holey[3_000..4_000].fill(0);
    assert!(matches!(unpacked(&holey), Err(Fault::Incomplete(_))));
}

#[test]
fn what_leads_out_of_the_folder_is_refused_by_name() {
    for bad in ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "a\\..\\evil.txt", "C:/evil.txt"] {
        let forged =
            forged(packed(&[(&"x".repeat(bad.len()), b"x!")]), "x".repeat(bad.len()).as_bytes(), bad.as_bytes());
        let said = refused(&forged);
        assert!(said.starts_with("shop.war/") && said.contains("evil.txt: the name"), "{said}");
    }
}

#[test]
fn links_devices_and_secrets_are_refused_by_name() {
    let mut archive = ZipWriter::new(io::Cursor::new(Vec::new()));
    archive.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    let said = refused(&archive.finish().unwrap().into_inner());
    assert!(said.starts_with("shop.war/link: is a symbolic link"), "{said}");
    // The mode of a character device in the list of entries; bit 0 of the flags for an encrypted one.
    let mode = |kind: u32| ((kind | 0o644) << 16).to_le_bytes();
    let device = forged(packed(&[("dev", b"x")]), &mode(0o100_000), &mode(0o020_000));
    assert!(refused(&device).starts_with("shop.war/dev: is neither a file nor a folder"));
    let mut secret = packed(&[("s", b"x")]);
    let list = secret.windows(4).position(|it| it == b"PK\x01\x02").unwrap();
    secret[list + 8] |= 1;
    assert!(refused(&secret).contains("shop.war/s: is encrypted"));
}

#[test]
fn names_that_collide_are_refused() {
    assert!(refused(&packed(&[("A.txt", b""), ("a.TXT", b"")])).contains("take both for one"));
    let twice = forged(packed(&[("one", b""), ("two", b"")]), b"two", b"one");
    assert!(refused(&twice).contains("same name"));
}

#[test]
fn bombs_are_stopped_before_they_fill_the_disk() {
    let zeros = vec![0; 8 * 1024 * 1024];
    let said = refused(&packed(&[("small.txt", b"x"), ("bomb.bin", &zeros)]));
    assert!(said.starts_with("shop.war/bomb.bin: ") && said.contains("100 times"), "{said}");
    // Declared sizes that lie are found while bytes are counted.
    let size = (zeros.len() as u32).to_le_bytes();
    let lying = forged(packed(&[("bomb.bin", &zeros)]), &size, &9_u32.to_le_bytes());
    assert!(unpacked(&lying).is_err());
    let huge = forged(packed(&[("huge.bin", &zeros)]), &size, &(1_u32 << 30).to_le_bytes());
    assert!(refused(&huge).contains("more than 104857600 bytes"));
    let names: Vec<String> = (0..=limits::ARCHIVE_ENTRIES).map(|n| n.to_string()).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
    assert!(refused(&packed_as(&many, stored())).contains("more than 10000 entries"));
}

#[test]
fn a_file_that_is_missing_or_too_large_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("none.war");
    assert!(matches!(unpack("none.war", &at, folder.path()), Err(Fault::Refused(_))));
    File::create(&at).unwrap().set_len(limits::ARCHIVE_BYTES + 1).unwrap();
    let Err(Fault::Refused(refusal)) = unpack("none.war", &at, folder.path()) else { panic!("it is refused") };
    assert_eq!(refusal.to_string(), "none.war: has 104857601 bytes; 104857600 are allowed");
}
