//! What a session costs: bytes of resident memory, and the time of what happens to it most.
//!
//! `cargo bench --bench memory`, or `cargo bench --bench memory -- 200000` for fewer sessions. Each shape is measured in a
//! process of its own, because what an allocator keeps of the last one would make the next one look cheap.

use std::{env, hint::black_box, process::Command, time::Duration};

use bytes::BytesMut;
use rustix::time::{ClockId, clock_gettime};
use tasuki::{
    names::{ContextPath, NodeId, SessionId},
    replication::frame::{self, Request},
    session::{
        Slots, Table,
        delta::Update,
        digest::{Digest, fingerprint},
        draft::{Change, Draft},
        lease::Term,
        replica::{self, Applied, Birth, Reach, Slot},
    },
    time::Moment,
};

const SESSIONS: u32 = 1_000_000;

/// Of x86-64 and of most others.
const PAGE_BYTES: u64 = 4_096;

const OWNER: NodeId = NodeId(0x0102_0304_0506_0708);
const HOLDER: NodeId = NodeId(0x1112_1314_1516_1718);
const NOW: Moment = Moment(90_000_000);
const TERM: Option<Term> = Some(Term(1));

/// What is in each session.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// One whole number of 8 bytes.
    Number,
    /// One text of 1 KiB.
    Text,
    /// Four whole numbers.
    FourNumbers,
}

/// How the sessions come into the table.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// They are created here.
    Owned,
    /// They arrive on a link.
    Held,
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &arguments[..] {
        [measured, sessions] if measured.starts_with("measure-") => measure(measured, number(sessions)),
        [] => each_alone(SESSIONS),
        [sessions, ..] => each_alone(number(sessions)),
    }
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_else(|_| panic!("a number of sessions, not {text:?}"))
}

fn each_alone(sessions: u32) {
    println!("{sessions} sessions of a node");
    let measurements = ["measure-owned-8", "measure-held-8", "measure-owned-1024", "measure-held-1024"];
    for measured in measurements.into_iter().chain(["measure-owned-4x8", "measure-held-4x8", "measure-time"]) {
        let this = env::current_exe().expect("the benchmark has a path");
        let ended = Command::new(this).args([measured, &sessions.to_string()]).status();
        assert!(ended.is_ok_and(|status| status.success()), "{measured} failed");
    }
}

fn measure(measured: &str, sessions: u32) {
    match measured {
        "measure-owned-8" => memory(Part::Owned, Shape::Number, sessions),
        "measure-held-8" => memory(Part::Held, Shape::Number, sessions),
        "measure-owned-1024" => memory(Part::Owned, Shape::Text, sessions),
        "measure-held-1024" => memory(Part::Held, Shape::Text, sessions),
        "measure-owned-4x8" => memory(Part::Owned, Shape::FourNumbers, sessions),
        "measure-held-4x8" => memory(Part::Held, Shape::FourNumbers, sessions),
        _ => time(sessions),
    }
}

// --- memory ---

fn memory(part: Part, shape: Shape, sessions: u32) {
    let me = if matches!(part, Part::Owned) { OWNER } else { HOLDER };
    let table = Table::new(me);
    let before = resident();
    fill(&table, part, shape, sessions);
    let after = resident();
    let counts = table.counts();
    assert_eq!(counts.owned + counts.held, sessions as usize);
    let each = (after - before) as f64 / f64::from(sessions);
    println!("{part:?} {shape:?}: {each:.0} bytes a session");
}

fn fill(table: &Table, part: Part, shape: Shape, sessions: u32) {
    let context: ContextPath = "/shop".parse().expect("a path");
    let mut stream = BytesMut::new();
    for n in 0..sessions {
        let id = id(n);
        let changes = changes(shape, n);
        let birth = Birth {
            id,
            me: OWNER,
            term: Term(1),
            context: &context,
            reach: Reach::Cluster,
            timeout: Some(Duration::from_secs(1_800)),
        };
        match part {
            Part::Owned => drop(table.with(id, |slot| replica::create(slot, &birth, &changes, NOW))),
            Part::Held => {
                let update = replica::create(&mut None, &birth, &changes, NOW).update;
                frame::put_update(&mut stream, &update);
                let Ok(Some(Request::Update(update))) = frame::take_request(&mut stream, OWNER) else {
                    panic!("an update was sent")
                };
                assert_eq!(table.with(id, |slot| replica::apply(slot, update, NOW)), Applied::Applied);
            }
        }
    }
}

fn changes(shape: Shape, n: u32) -> Vec<Change> {
    let mut draft = Draft::blank();
    let large = i64::from(n) + i64::from(u32::MAX) * 9;
    match shape {
        Shape::Number => draft.set("count", &large),
        Shape::Text => draft.set("basket", &"x".repeat(1_024)),
        Shape::FourNumbers => ["a", "b", "c", "d"].into_iter().try_for_each(|name| draft.set(name, &large)),
    }
    .expect("a small value");
    draft.changes().to_vec()
}

/// Scattered over the shards and buckets as drawn ids are, and the same in each run.
fn id(n: u32) -> SessionId {
    let mix = |seed: u64| {
        let word = (u64::from(n) + 1).wrapping_mul(seed);
        (word ^ (word >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
    };
    SessionId((u128::from(mix(0x9E37_79B9_7F4A_7C15)) << 64 | u128::from(mix(0x94D0_49BB_1331_11EB))).to_be_bytes())
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells a process its size");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * PAGE_BYTES
}

// --- time ---

fn time(sessions: u32) {
    let (table, peer) = (Table::new(OWNER), Table::new(HOLDER));
    fill(&table, Part::Owned, Shape::Number, sessions);
    fill(&peer, Part::Held, Shape::Number, sessions);
    let mut updates = Vec::new();
    each("commit and keep", sessions, |n| {
        let change = [Change::Set("count".into(), tasuki::session::value::Value::encode(&n).expect("a number"))];
        let committed = table.with(id(n), |slot| replica::commit(slot, id(n), &change, TERM, NOW)).expect("owned");
        black_box(table.with(id(n), |slot| replica::keep(slot, id(n), &committed.undo, NOW)));
        updates.push(committed.update);
    });
    let mut updates = updates.into_iter();
    each("apply a delta", sessions, |_| {
        let update: Update = updates.next().expect("one for each");
        assert_eq!(peer.with(update.id(), |slot| replica::apply(slot, update, NOW)), Applied::Applied);
    });
    each("read into a draft", sessions, |n| {
        let attributes: Vec<_> = table.peek(id(n), |slot| Slot::live(slot).expect("there").attributes().collect());
        black_box(Draft::of(Some(id(n)), attributes));
    });
    let begun = cpu_time();
    let digests = [&table, &peer].map(digest);
    println!("digest of the whole table: {} ms", (cpu_time() - begun).as_millis() / 2);
    assert!(digests[0] == digests[1], "the peer holds the same");
}

fn each(what: &str, times: u32, mut act: impl FnMut(u32)) {
    let begun = cpu_time();
    (0..times).for_each(&mut act);
    println!("{what}: {} ns", (cpu_time() - begun).as_nanos() / u128::from(times));
}

/// Of this process: the machine may have other work.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn digest(table: &Table) -> Digest {
    let mut digest = Digest::default();
    table.visit_all(|id, slot| {
        if let Some(fingerprint) = fingerprint(id, slot) {
            digest.add(id, fingerprint);
        }
    });
    digest
}
