//! A snapshot comes back as it was, and a damaged one does not come back at all.

use std::{fs, io, os::unix::fs::PermissionsExt};

use super::{
    codec::{Counts, Put, Reader, Unreadable, VERSION, Writer},
    file::{Aside, SnapshotFile},
    *,
};
use crate::{
    limits,
    names::ContextPath,
    session::{
        Table,
        delta::{Attribute, Ending, Finality},
        draft::Change,
        lease::Term,
        replica::{Birth, Standing},
        stamp::{Epoch, Stamp},
        value::Value,
    },
};

const ME: NodeId = NodeId(u64::MAX);
const NOW: Moment = Moment(1 << 40);
const IDLE: Duration = Duration::from_millis(61_001);
const HOUR: Duration = Duration::from_secs(3_600);

fn id(n: u32) -> SessionId {
    let mut bytes = [7; 16];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    SessionId(bytes)
}

fn stamp(version: u32) -> Stamp {
    Stamp { epoch: Epoch { counter: 3, node: NodeId(5) }, version }
}

fn whole(n: u32, bytes: usize) -> Whole {
    let attribute = |name: &str, value: Option<Value>| Attribute { name: name.into(), value, stamp: stamp(2) };
    Whole {
        id: id(n),
        context: "/shop".parse().unwrap(),
        owner: Epoch { counter: 4, node: NodeId(6) },
        stamp: stamp(3),
        timeout: Some(Duration::from_secs(1_800)),
        idle: IDLE,
        behind: false,
        attributes: vec![
            attribute("count", Value::encode(&n).ok()),
            attribute("数", Value::encode(&"x".repeat(bytes)).ok()),
            attribute("removed", None),
        ],
    }
}

fn header() -> Header {
    Header {
        route: "r1".into(),
        cluster: "tasuki".into(),
        part: Part::Everything,
        written: Clock { unix_ms: 1_700_000_000_000, boot: "b".into(), up_ms: 5 },
        nodes: vec![NodeId(1), NodeId(2)],
        routes: Vec::new(),
        by: "tasuki 0.1.0".into(),
    }
}

fn few() -> Vec<Saved> {
    vec![Saved::Shared(whole(1, 0)), Saved::Local(whole(2, 10)), Saved::Ended(end(3), HOUR)]
}

fn end(n: u32) -> End {
    End { id: id(n), ending: Ending { finality: Finality::Final, stamp: stamp(9) } }
}

fn written(entries: &[Saved]) -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), &header()).unwrap();
    for entry in entries {
        assert_eq!(writer.put(entry).unwrap(), Put::Written);
    }
    writer.finish().unwrap().0
}

fn read(bytes: &[u8]) -> Result<(Header, Vec<Saved>), Unreadable> {
    let mut reader = Reader::open(bytes)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.entry()? {
        entries.push(entry);
    }
    assert!(reader.entry()?.is_none(), "the end stays the end");
    Ok((reader.header().clone(), entries))
}

#[test]
fn what_was_written_is_read() {
    assert_eq!(read(&written(&few())).unwrap(), (header(), few()));
    assert_eq!(read(&written(&[])).unwrap(), (header(), vec![]));
}

#[test]
fn many_blocks_and_large_sessions_are_read_in_order() {
    let large = (0..40).map(|n| Saved::Shared(whole(n, if n % 5 == 0 { 300_000 } else { 900 })));
    let entries: Vec<Saved> = large.collect();
    let bytes = written(&entries);
    assert!(bytes.len() > 30 * limits::SNAPSHOT_BLOCK_BYTES);
    assert_eq!(read(&bytes).unwrap().1, entries);
}

#[test]
fn a_session_that_no_block_can_hold_is_left_out_and_the_rest_is_not() {
    let mut writer = Writer::begin(Vec::new(), &header()).unwrap();
    let huge = Saved::Shared(whole(1, limits::SNAPSHOT_ENTRY_BYTES));
    assert_eq!(writer.put(&huge).unwrap(), Put::TooLarge);
    assert_eq!(writer.put(&few()[0]).unwrap(), Put::Written);
    let (bytes, counts) = writer.finish().unwrap();
    assert_eq!(counts, Counts { sessions: 1, ended: 0 });
    assert_eq!(read(&bytes).unwrap().1, few()[..1]);
}

#[test]
fn a_snapshot_that_ends_early_is_refused_wherever_it_does() {
    let bytes = written(&few());
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length]).is_err(), "cut after {length} of {} bytes", bytes.len());
    }
    let error = read(&bytes[..bytes.len() - 1]).unwrap_err().to_string();
    assert_eq!(error, format!("at byte {}: it ends here, in the middle", bytes.len() - 1));
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    let bytes = written(&few());
    for at in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        assert!(read(&damaged).is_err(), "bit {} of byte {} is flipped", at % 8, at / 8);
    }
}

#[test]
fn blocks_that_are_missing_doubled_or_out_of_order_are_noticed() {
    let entries: Vec<Saved> = (0..4).map(|n| Saved::Shared(whole(n, 70_000))).collect();
    let bytes = written(&entries);
    let begins = blocks(&bytes);
    assert_eq!(begins.len(), 7, "a header, four sessions, the end, and the end of the file");
    let part = |n: usize| bytes[begins[n]..begins[n + 1]].to_vec();
    let with = |order: &[usize]| {
        let all: Vec<u8> = order.iter().flat_map(|n| part(*n)).collect();
        read(&[&bytes[..begins[0]], &all].concat())
    };
    assert!(with(&[0, 1, 2, 3, 4, 5]).is_ok());
    for order in [&[0, 1, 3, 4, 5][..], &[0, 1, 1, 2, 3, 4, 5], &[0, 2, 1, 3, 4, 5], &[1, 2, 3, 4, 5], &[0, 5]] {
        assert!(with(order).is_err(), "{order:?}");
    }
    assert!(read(&[&bytes[..], b"x"].concat()).unwrap_err().to_string().ends_with("there is something behind the end"));
}

/// Where each block begins, and the end.
fn blocks(bytes: &[u8]) -> Vec<usize> {
    let mut begins = vec![20];
    while let Some(head) = bytes.get(begins[begins.len() - 1]..).and_then(|rest| rest.first_chunk::<4>()) {
        begins.push(begins[begins.len() - 1] + u32::from_be_bytes(*head) as usize + 9);
    }
    begins
}

#[test]
fn a_newer_format_and_another_file_are_named() {
    let mut newer = written(&few());
    newer[19] = 2;
    let error = read(&newer).unwrap_err();
    assert!(matches!(error, Unreadable::Format(2)), "{error}");
    assert!(error.to_string().contains(&format!("format 2, and this release reads format {VERSION}")));
    for other in [&b""[..], b"tasuki", b"<html>a page of another server</html>"] {
        assert!(matches!(read(other), Err(Unreadable::NotASnapshot)));
    }
}

#[test]
fn the_bytes_of_the_format_do_not_change() {
    let bytes = written(&[Saved::Ended(end(1), Duration::from_millis(300))]);
    let at = blocks(&bytes)[1];
    let block = [
        &[0, 0, 0, 31, 2][..],                                             // a block of entries
        &[0, 0, 0, 26, 5],                                                 // an end
        &[0x93, 0xc4, 16, 0, 0, 0, 1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7], // its id
        &[0x93, 3, 5, 9],                                                  // counter, node, version
        &[0xcd, 1, 44],                                                    // remembered for so long, in milliseconds
    ];
    assert_eq!(bytes[at..at + 36], block.concat());
    assert_eq!(&bytes[..20], b"tasuki sessions\n\0\0\0\x01");
    assert_eq!(bytes[bytes.len() - 7..bytes.len() - 4], [0x92, 0, 1], "no sessions, one end");
}

#[test]
fn ends_that_were_written_without_a_time_are_read() {
    let end = |finality| End { id: id(1), ending: Ending { finality, stamp: stamp(9) } };
    let bytes = written(&[Saved::Ended(end(Finality::Final), Duration::ZERO)]);
    let at = blocks(&bytes)[1];
    for (kind, finality) in [(3, Finality::Final), (4, Finality::Refutable)] {
        let block = [
            &[0, 0, 0, 28, 2][..],                                             // a block of entries
            &[0, 0, 0, 23, kind],                                              // an end
            &[0x92, 0xc4, 16, 0, 0, 0, 1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7], // its id
            &[0x93, 3, 5, 9],                                                  // counter, node, version
        ];
        let mut old = summed(&bytes[..at], &block.concat());
        old = summed(&old, &[&[0, 0, 0, 3, 3][..], &[0x92, 0, 1]].concat());
        assert_eq!(read(&old).unwrap().1, [Saved::Ended(end(finality), Duration::ZERO)]);
    }
}

/// A snapshot so far, and one more block with its checksum.
fn summed(before: &[u8], block: &[u8]) -> Vec<u8> {
    let all = [before, block].concat();
    [&all[..], &crc32fast::hash(&all).to_be_bytes()].concat()
}

fn table_with(entries: Vec<Saved>, part: Part, down: Duration) -> (Table, Vec<Restored>) {
    let table = Table::new(ME);
    let restored = entries.into_iter().map(|saved| restore(&table, saved, part, down, NOW)).collect();
    (table, restored)
}

#[test]
fn a_session_of_the_cluster_comes_back_as_a_copy_of_a_node_that_is_gone() {
    let (table, restored) = table_with(few(), Part::Everything, Duration::ZERO);
    assert_eq!(restored, [Restored::Back, Restored::Back, Restored::Ended]);
    let context: ContextPath = "/shop".parse().unwrap();
    let standing = |n| table.peek(id(n), |slot| replica::standing(slot, &context, Some(Term(7))));
    assert_eq!(standing(1), Standing::Held { owner: NodeId(6) }, "it is claimed before it is used");
    assert_eq!(standing(2), Standing::Owned, "nobody else has what never left this node");
    assert_eq!(standing(3), Standing::Ended);
    let again = |n| table.peek(id(n), |slot| saved(slot, id(n), Part::Everything, NOW)).unwrap();
    assert_eq!(again(1), Saved::Shared(whole(1, 0)));
    assert!(matches!(again(2), Saved::Local(local) if local.owner == Epoch { counter: 5, node: ME }));
    assert_eq!(again(3), few()[2]);
}

#[test]
fn time_goes_on_while_the_node_is_down() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let (table, restored) = table_with(few(), Part::Everything, minutes(20));
    assert_eq!(restored[..2], [Restored::Back, Restored::Back]);
    let accessed = table.peek(id(1), |slot| Slot::live(slot).unwrap().accessed());
    assert_eq!(NOW.since(accessed), minutes(20) + IDLE);
    let (_, restored) = table_with(few(), Part::Everything, minutes(30));
    assert_eq!(restored[1], Restored::Over);
    assert_eq!(restored[0], Restored::Back, "its owner may have seen it used three minutes later");
    let (table, restored) = table_with(few(), Part::Everything, minutes(33));
    assert_eq!((restored[0], table.slots()), (Restored::Over, 1));
}

#[test]
fn an_end_is_remembered_for_as_long_as_before_the_stop() {
    let until = |left: Duration, down: Duration| {
        let (table, _) = table_with(vec![Saved::Ended(end(3), left)], Part::Everything, down);
        let until = |slot: &Option<Slot>| match slot {
            Some(Slot::Ended(tombstone)) => tombstone.until,
            other => panic!("{other:?}"),
        };
        table.peek(id(3), until)
    };
    assert_eq!(until(5 * HOUR, HOUR), NOW + 4 * HOUR);
    assert_eq!(until(Duration::ZERO, HOUR), NOW + limits::TOMBSTONE, "it was not said for how long");
    assert_eq!(until(Duration::MAX, HOUR), NOW + limits::TOMBSTONE_LONGEST);
}

#[test]
fn a_copy_from_the_disk_never_replaces_a_newer_one_or_an_end() {
    let newer = Whole { stamp: stamp(8), ..whole(1, 3) };
    let table = Table::new(ME);
    table.with(id(1), |slot| replica::apply(slot, Update::Whole(newer.clone()), NOW));
    let ending = Ending { finality: Finality::Final, stamp: stamp(1) };
    table.with(id(2), |slot| replica::apply(slot, Update::End(End { id: id(2), ending }), NOW));
    restore(&table, few().remove(0), Part::Everything, Duration::ZERO, NOW);
    let second = Saved::Shared(whole(2, 0));
    assert_eq!(restore(&table, second, Part::Everything, Duration::ZERO, NOW), Restored::Ended);
    let held = |n| table.peek(id(n), |slot| saved(slot, id(n), Part::Everything, NOW)).unwrap();
    assert_eq!(held(1), Saved::Shared(newer));
    assert!(matches!(held(2), Saved::Ended(..)));
}

#[test]
fn of_a_node_that_others_relieve_its_own_sessions_and_all_ends_are_kept() {
    let (table, restored) = table_with(few(), Part::Local, Duration::ZERO);
    assert_eq!(restored, [Restored::LeftOut, Restored::Back, Restored::Ended]);
    let context = ContextPath::root();
    let birth = Birth { id: id(9), me: ME, term: Term(1), context: &context, reach: Reach::Cluster, timeout: None };
    table.with(id(9), |slot| replica::create(slot, &birth, &[Change::Remove("a".into())], NOW));
    let mut kept = table.ids(|slot| is_kept(slot, Part::Local));
    kept.sort();
    assert_eq!(kept, [id(2), id(3)]);
    let end = table.peek(id(3), |slot| saved(slot, id(3), Part::Local, NOW));
    assert_eq!(end, Some(Saved::Ended(self::end(3), HOUR)));
    assert!(table.peek(id(9), |slot| saved(slot, id(9), Part::Local, NOW)).is_none());
    assert!(table.peek(id(9), |slot| saved(slot, id(9), Part::Everything, NOW)).is_some());
}

fn file() -> (tempfile::TempDir, SnapshotFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = SnapshotFile::of(&folder.path().join("run"), &"r1".parse().unwrap());
    (folder, file)
}

fn names(file: &SnapshotFile) -> Vec<String> {
    let entries = fs::read_dir(file.path().parent().unwrap()).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn fill(file: &SnapshotFile) -> io::Result<Counts> {
    file.write(&header(), |writer| few().iter().try_for_each(|saved| writer.put(saved).map(drop)))
}

#[test]
fn a_file_is_private_and_gone_after_it_is_removed() {
    let (_folder, file) = file();
    assert!(file.open().unwrap().is_none());
    assert_eq!(fill(&file).unwrap(), Counts { sessions: 2, ended: 1 });
    assert_eq!(names(&file), ["r1.sessions"]);
    assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(file.open().unwrap().unwrap().header(), &header());
    file.remove().unwrap();
    file.remove().unwrap();
    assert!(!file.exists().unwrap());
}

#[test]
fn a_write_that_fails_leaves_the_last_snapshot_and_nothing_half() {
    let (_folder, file) = file();
    fill(&file).unwrap();
    let full = |_: &mut Writer<_>| Err(io::Error::from(io::ErrorKind::StorageFull));
    assert_eq!(file.write(&header(), full).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(names(&file), ["r1.sessions"]);
    fs::write(file.path().with_extension("sessions.unfinished"), "half").unwrap();
    fill(&file).unwrap();
    assert_eq!(names(&file), ["r1.sessions"], "what an earlier stop left does not stand in the way");
}

#[test]
fn files_are_set_aside_under_new_names_and_never_too_many() {
    let (_folder, file) = file();
    for n in 1..=limits::SNAPSHOTS_ASIDE + 3 {
        fill(&file).unwrap();
        let place = file.set_aside(Aside::Damaged).unwrap();
        if n <= limits::SNAPSHOTS_ASIDE {
            assert!(place.to_string_lossy().ends_with(&format!("r1.sessions.damaged-{n}")), "{place:?}");
        }
    }
    assert_eq!(names(&file).len(), limits::SNAPSHOTS_ASIDE);
    for (aside, word) in [(Aside::Stale, "stale"), (Aside::Unreadable, "unreadable")] {
        fill(&file).unwrap();
        let place = file.set_aside(aside).unwrap();
        assert!(place.to_string_lossy().ends_with(&format!("r1.sessions.{word}-1")), "{place:?}");
    }
}

#[test]
fn snapshots_of_other_nodes_are_found_and_nothing_else_is() {
    let run = tempfile::tempdir().unwrap();
    let others = || SnapshotFile::of_others(run.path(), |route| route.as_str() == "r1");
    for name in ["r1.sessions", "r1.lock", "r2.sessions.stale-1", "r3.sessions.unfinished", "a.b.sessions"] {
        fs::write(run.path().join(name), "").unwrap();
    }
    assert!(others().is_empty());
    for name in ["r3.sessions", "r2.sessions"] {
        fs::write(run.path().join(name), "").unwrap();
    }
    assert_eq!(others(), ["r2.sessions", "r3.sessions"].map(|name| run.path().join(name)));
    assert!(SnapshotFile::of_others(&run.path().join("nowhere"), |_| false).is_empty());
}

#[test]
fn what_cannot_be_read_is_not_taken_for_another_file() {
    let (_folder, file) = file();
    fs::create_dir_all(file.path()).unwrap();
    assert!(matches!(file.open().map(drop), Err(Unreadable::Io(_))));
}
