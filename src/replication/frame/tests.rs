use super::*;
use crate::{replication::greeting, session::placement};

const SENDER: NodeId = NodeId(0x0102_0304_0506_0708);
const ID: SessionId = SessionId([0xAA; 16]);

fn stamp(version: u32) -> Stamp {
    Stamp { epoch: Epoch { counter: 1, node: SENDER }, version }
}

fn increment() -> Request {
    let changes = vec![Change::Set("count".into(), Value::encode(&7).unwrap())];
    Request::Update(Update::Delta(Delta { id: ID, stamp: stamp(2), changes }))
}

fn ending(version: u32, finality: Finality) -> Ending {
    Ending { finality, stamp: stamp(version) }
}

fn whole() -> Whole {
    let attribute = Attribute { name: "count".into(), value: Value::encode(&7).ok(), stamp: stamp(2) };
    let removed = Attribute { name: "old".into(), value: None, stamp: stamp(1) };
    Whole {
        id: ID,
        context: "/shop".parse().unwrap(),
        owner: Epoch { counter: 3, node: SENDER },
        stamp: stamp(2),
        timeout: Some(Duration::from_secs(1_800)),
        idle: Duration::from_millis(20),
        behind: false,
        attributes: vec![attribute, removed],
    }
}

fn requests() -> Vec<Request> {
    let claim = ClaimRequest { id: ID, epoch: stamp(0).epoch, context: ContextPath::root(), have: None, insist: true };
    vec![
        increment(),
        Request::Update(Update::Delta(Delta { id: ID, stamp: stamp(3), changes: vec![Change::Remove("a".into())] })),
        Request::Update(Update::Whole(whole())),
        Request::Update(Update::Copy(whole())),
        Request::Update(Update::End(End { id: ID, ending: ending(4, Finality::Final) })),
        Request::Update(Update::End(End { id: ID, ending: ending(4, Finality::Refutable) })),
        Request::Touch { id: ID, idle: Duration::from_millis(5) },
        Request::Claim(9, claim),
        Request::Renew { at: Moment(7_000) },
        Request::Compare(digest(&[0, 77, BUCKETS - 1])),
        Request::Compare(digest(&[])),
        Request::Compare(Question::List { round: 3, sessions: vec![Listed { id: ID, fingerprint: 0x0102 }] }),
        Request::Copies(Batch { number: 7, bytes: vec![1, 2, 3].into() }),
        Request::Offer { context: "/shop".parse().unwrap(), ids: vec![ID, SessionId([1; 16])] },
        Request::Replaces { member: NodeId(5), id: ID, epoch: Epoch { counter: 3, node: SENDER } },
    ]
}

fn digest(used: &[usize]) -> Question {
    let mut sums = vec![0; BUCKETS];
    used.iter().for_each(|bucket| sums[*bucket] = u64::MAX - *bucket as u64);
    Question::Digest { round: 3, sums: sums.into() }
}

fn replies() -> Vec<Reply> {
    let epoch = stamp(0).epoch;
    let answers = [
        Answer::Promised(Given {
            owner: Some(epoch),
            current: Some(epoch),
            idle: Some(Duration::from_millis(20)),
            copy: Some(whole()),
        }),
        Answer::Promised(Given::default()),
        Answer::Unknown,
        Answer::Ended(ending(1, Finality::Refutable), None),
        Answer::Ended(ending(1, Finality::Refutable), Some(whole())),
        Answer::Refused(epoch),
        Answer::Owned(SENDER),
    ];
    let objections = [Objection::Gap, Objection::Fenced(epoch), Objection::Ended(ending(1, Finality::Final))];
    let answers = answers.into_iter().map(|answer| Reply::Answer(9, answer));
    let objections = objections.into_iter().map(|objection| Reply::Objection(300, objection));
    let (differing, empty) = ([1, 9].into_iter().collect(), [9].into_iter().collect());
    let findings = [Finding::Differs { round: 3, differing, empty }, Finding::Wants { round: 3, wanted: vec![5] }];
    let ended = vec![(ID, ending(1, Finality::Refutable))];
    let took = [(vec![], vec![]), (ended.clone(), vec![]), (ended, vec![(ID, epoch)]), (vec![], vec![(ID, epoch)])];
    let took = took.map(|(ended, outranked)| Reply::Took { batch: 7, ended, outranked });
    let others = [Reply::Ack(1), Reply::Renewed { at: Moment(7_000) }, Reply::Replaced(ID, epoch)];
    let others = others.into_iter().chain(took);
    answers.chain(objections).chain(others).chain(findings.map(Reply::Compared)).collect()
}

#[test]
fn other_bytes_are_another_protocol() {
    let mut out = BytesMut::new();
    requests().iter().for_each(|request| put_request(&mut out, request));
    replies().iter().for_each(|reply| put_reply(&mut out, reply));
    assert_eq!((greeting::PROTOCOL, placement::key(&out)), (4, 0xd6c2_d1e9_5606_4112), "raise PROTOCOL, then pin this");
}

#[test]
fn the_bytes_of_a_counter_increment_are_pinned() {
    let mut out = BytesMut::new();
    put_request(&mut out, &increment());
    let mut expected = vec![0, 0, 33, 1, 0x94, 0xC4, 16];
    expected.extend([0xAA; 16]);
    expected.extend([1, 2, 0x91, 0x92, 0xA5]);
    expected.extend(b"count");
    expected.extend([0xC4, 1, 7]);
    assert_eq!(out[..], expected);
    let mut ack = BytesMut::new();
    put_reply(&mut ack, &Reply::Ack(7));
    assert_eq!(ack[..], [0, 0, 2, 16, 7]);
    assert!(out.len() + ack.len() <= 64, "a write costs little on the wire");
}

#[test]
fn the_bytes_of_an_offer_are_pinned_and_a_long_one_is_refused() {
    let mut out = BytesMut::new();
    put_request(&mut out, &Request::Offer { context: ContextPath::root(), ids: vec![ID] });
    let mut expected = vec![0, 0, 21, 11, 0x92, 0xA0, 0xC4, 16];
    expected.extend([0xAA; 16]);
    assert_eq!(out[..], expected);
    let offer = |count| Request::Offer { context: ContextPath::root(), ids: vec![ID; count] };
    for (count, good) in [(limits::OFFER_SESSIONS, true), (limits::OFFER_SESSIONS + 1, false)] {
        let mut out = BytesMut::new();
        put_request(&mut out, &offer(count));
        assert_eq!(take_request(&mut out, SENDER).is_ok(), good, "{count}");
    }
}

#[test]
fn the_bytes_of_an_end_are_pinned() {
    let mut out = BytesMut::new();
    put_update(&mut out, &Update::End(End { id: ID, ending: ending(4, Finality::Final) }));
    let mut expected = vec![0, 0, 33, 3, 0x92, 0xC4, 16];
    expected.extend([0xAA; 16]);
    expected.extend([0x92, 0x93, 1, 0xCF, 1, 2, 3, 4, 5, 6, 7, 8, 4, 0xC3]);
    expected[2] = (expected.len() - 3) as u8;
    assert_eq!(out[..], expected);
}

#[test]
fn the_bytes_of_a_lease_are_pinned() {
    let (mut out, at) = (BytesMut::new(), Moment(0x0102_0304));
    put_request(&mut out, &Request::Renew { at });
    put_reply(&mut out, &Reply::Renewed { at });
    assert_eq!(out[..], [0, 0, 6, 6, 0xCE, 1, 2, 3, 4, 0, 0, 6, 25, 0xCE, 1, 2, 3, 4]);
}

#[test]
fn the_bytes_of_a_comparison_are_pinned() {
    let list = Question::List { round: 3, sessions: vec![Listed { id: ID, fingerprint: 0x0102 }] };
    let (mut out, mut expected) = (BytesMut::new(), vec![0, 0, 29, 9, 0x92, 3, 0xC4, 24]);
    put_request(&mut out, &Request::Compare(list));
    expected.extend([0xAA; 16]);
    expected.extend([0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(out[..], expected);
    let mut full = BytesMut::new();
    put_request(&mut full, &Request::Compare(digest(&(0..BUCKETS).collect::<Vec<_>>())));
    assert_eq!(full.len(), 4 + 2 + 3 + BUCKETS / 8 + BUCKETS * 8);
    assert_eq!(full[..9], [0, 0x82, 6, 8, 0x92, 3, 0xC5, 0x82, 0]);
    let mut small = BytesMut::new();
    put_request(&mut small, &Request::Compare(digest(&[8])));
    assert_eq!(small.len(), 4 + 2 + 3 + BUCKETS / 8 + 8);
    assert_eq!(small[9..12], [0, 1, 0], "the lowest bit of a byte is the first bucket");
    let mut reply = BytesMut::new();
    put_reply(&mut reply, &Reply::Compared(Finding::Wants { round: 3, wanted: vec![5] }));
    assert_eq!(reply[..], [0, 0, 6, 27, 0x92, 3, 0xC4, 1, 5]);
}

#[test]
fn a_digest_or_a_list_that_does_not_add_up_is_refused() {
    let body = |kind, length: usize| {
        let mut frame = BytesMut::new();
        put(&mut frame, kind, &(3, Bytes::new(&vec![1; length])));
        take_request(&mut frame, SENDER)
    };
    assert!(body(kind::DIGEST, 511).is_err() && body(kind::DIGEST, 520).is_err());
    assert!(body(kind::DIGEST, 512 + 8 * 512).is_ok(), "one bit of each byte is set");
    assert!(body(kind::LIST, 25).is_err() && body(kind::LIST, 24 * (limits::REPAIR_LIST + 1)).is_err());
    assert!(body(kind::LIST, 24 * limits::REPAIR_LIST).is_ok());
}

#[test]
fn the_bytes_of_a_copy_are_pinned() {
    let mut out = BytesMut::new();
    put_update(&mut out, &Update::Copy(Whole { timeout: None, ..whole() }));
    let node = [0xCF, 1, 2, 3, 4, 5, 6, 7, 8];
    let stamp = |version| [&[0x93, 1][..], &node, &[version]].concat();
    let mut body = [&[7, 0x98, 0xC4, 16][..], &[0xAA; 16], &[0xA5], b"/shop", &[0x92, 3], &node].concat();
    body.extend([&stamp(2)[..], &[0xC0, 20, 0xC2, 0x92, 0x93, 0xA5], b"count", &[0xC4, 1, 7], &stamp(2)].concat());
    body.extend([&[0x93, 0xA3][..], b"old", &[0xC0], &stamp(1)].concat());
    assert_eq!(out[..], [&[0, 0, body.len() as u8][..], &body].concat());
}

#[test]
fn the_bytes_of_a_batch_and_its_answer_are_pinned() {
    let mut out = BytesMut::new();
    put_request(&mut out, &Request::Copies(Batch { number: 300, bytes: vec![9, 8].into() }));
    assert_eq!(out[..], [0, 0, 9, 10, 0x92, 0xCD, 1, 44, 0xC4, 2, 9, 8]);
    let mut reply = BytesMut::new();
    put_reply(&mut reply, &Reply::Took { batch: 7, ended: vec![(ID, ending(2, Finality::Final))], outranked: vec![] });
    let mut expected = vec![0, 0, 37, 28, 0x92, 7, 0x91, 0x92, 0xC4, 16];
    expected.extend([0xAA; 16]);
    expected.extend([0x92, 0x93, 1, 0xCF, 1, 2, 3, 4, 5, 6, 7, 8, 2, 0xC3]);
    assert_eq!(reply[..], expected);
}

#[test]
fn everything_comes_back_as_it_was_sent_however_it_is_cut() {
    let mut stream = BytesMut::new();
    requests().iter().for_each(|request| put_request(&mut stream, request));
    let (mut input, mut read) = (BytesMut::new(), Vec::new());
    for byte in stream {
        input.put_u8(byte);
        read.extend(take_request(&mut input, SENDER).unwrap());
    }
    assert_eq!(read, requests());
    let mut stream = BytesMut::new();
    replies().iter().for_each(|reply| put_reply(&mut stream, reply));
    for reply in replies() {
        assert_eq!(take_reply(&mut stream).unwrap(), Some(reply));
    }
    assert!(take_reply(&mut stream).unwrap().is_none());
}

#[test]
fn noise_is_refused_and_never_panics() {
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for _ in 0..20_000 {
        let length = random() % 60;
        let kind = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 20, 25, 26, 27, 28][usize::from(random()) % 16];
        let mut input = BytesMut::from(&[0, 0, length, kind][..]);
        input.extend((0..length).map(|_| random()));
        let _ = take_request(&mut input.clone(), SENDER);
        let _ = take_reply(&mut input);
    }
    let mut endless = BytesMut::from(&[0xFF, 0xFF, 0xFF, 1][..]);
    assert!(matches!(take_request(&mut endless, SENDER), Err(BadFrame::TooLong(_))));
    let mut empty = BytesMut::from(&[0, 0, 0][..]);
    assert!(matches!(take_request(&mut empty, SENDER), Err(BadFrame::UnknownKind(0))));
}
