//! `malformed.txt`: each request through a real balancer, its answers, and every byte that arrives behind.

use futures_util::{StreamExt, stream};

use super::{upstream::Upstream, *};

const CASES: &str = include_str!("malformed.txt");

/// One request of the file.
struct Case {
    name: &'static str,
    statuses: Vec<u16>,
    ends: bool,
    bytes: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in CASES.lines() {
        if let Some(rest) = line.strip_prefix('[') {
            let (name, expected) = rest.split_once("] ").expect(line);
            let mut words: Vec<&str> = expected.split(' ').collect();
            let ends = match words.pop() {
                Some("ends") => true,
                Some("keeps") => false,
                _ => panic!("neither ends nor keeps: {line}"),
            };
            let statuses = words.iter().map(|word| word.parse().expect(line)).collect();
            cases.push(Case { name, statuses, ends, bytes: Vec::new() });
        } else if !line.is_empty() && !line.starts_with("# ") && line != "#" {
            cases.last_mut().expect("a name first").bytes.extend(bytes(line));
        }
    }
    cases
}

fn bytes(line: &str) -> Vec<u8> {
    let mut rest = line;
    let mut out = Vec::new();
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            '\\' => {
                let (byte, length) = match rest.as_bytes()[0] {
                    b'r' => (b'\r', 1),
                    b'n' => (b'\n', 1),
                    b't' => (b'\t', 1),
                    b'0' => (0, 1),
                    b'\\' => (b'\\', 1),
                    b'x' => (u8::from_str_radix(&rest[1..3], 16).expect(line), 3),
                    _ => panic!("unknown escape: {line}"),
                };
                out.push(byte);
                rest = &rest[length..];
            }
            '{' => {
                let (inner, after) = rest.split_once('}').expect(line);
                let (what, times) = inner.rsplit_once('*').expect(line);
                out.extend(bytes(what).repeat(times.parse().expect(line)));
                rest = after;
            }
            other => out.extend(other.to_string().bytes()),
        }
    }
    out
}

/// The statuses in a stream of answers, each read to its end.
fn statuses(mut answers: &[u8]) -> Result<Vec<u16>, String> {
    let mut statuses = Vec::new();
    while !answers.is_empty() {
        let odd = |what: &str| format!("{what}: {}", String::from_utf8_lossy(answers).escape_debug());
        let end = upstream::find(answers, b"\r\n\r\n").ok_or_else(|| odd("half an answer"))?;
        let head = String::from_utf8_lossy(&answers[..end]).to_lowercase();
        let status = head.strip_prefix("http/1.1 ").or(head.strip_prefix("http/1.0 "));
        let status = status.and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(|| odd("no answer"))?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        let after = end + 4 + length.unwrap_or(0);
        answers = answers.get(after..).ok_or_else(|| odd("an answer that is cut"))?;
        statuses.push(status);
    }
    Ok(statuses)
}

async fn tried(case: &Case) -> Result<(), String> {
    let upstream = Upstream::start().await;
    let patient = settings::Balancer { timeout: DEADLINE, ..settings(vec![fixed("r1", upstream.address)]) };
    let door = open_with(patient).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    // An answer may come, and the connection end, before everything is sent.
    let _ = client.write_all(&case.bytes).await;
    if !case.ends {
        let _ = client.write_all(b"GET /after HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    }
    let mut answers = Vec::new();
    let read = tokio::time::timeout(DEADLINE, client.read_to_end(&mut answers)).await;
    let read = read.map_err(|_| format!("still open after {}", String::from_utf8_lossy(&answers)))?;
    read.map_err(|error| format!("the connection broke: {error}"))?;
    let mut wanted = case.statuses.clone();
    wanted.extend((!case.ends).then_some(200));
    let statuses = statuses(&answers)?;
    if statuses != wanted {
        return Err(format!("answered {statuses:?} instead of {wanted:?}"));
    }
    let seen = upstream.requests()?;
    let done = wanted.iter().filter(|status| **status == 200).count();
    let targets: Vec<&str> = seen.iter().map(|request| request.line.as_str()).collect();
    if seen.len() != done || targets.iter().any(|target| target.contains("smuggled")) {
        return Err(format!("{targets:?} arrived, and {done} were answered"));
    }
    if upstream::find(&upstream.halves(), b"smuggled").is_some() {
        return Err("half of what was smuggled arrived".into());
    }
    door.stop(Duration::from_secs(1)).await;
    Ok(())
}

#[actix_web::test]
async fn no_doubtful_request_is_forwarded() {
    let cases = cases();
    assert!(cases.len() >= 60 && cases.iter().all(|case| !case.bytes.is_empty()));
    let tried =
        stream::iter(&cases).map(async |case| tried(case).await.map_err(|why| format!("[{}] {why}", case.name)));
    let failed: Vec<String> = tried.buffer_unordered(8).filter_map(async |result| result.err()).collect().await;
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

/// Draws that are the same in every run with one seed (splitmix64).
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % bound as u64) as usize
    }
}

const SNIPPETS: [&[u8]; 18] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"0",
    b"a",
    b";x",
    b"\xff",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: y\r\n",
    b"Connection: Content-Length\r\n",
    b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n",
];

/// Changes some places of a request.
fn mutated(mut bytes: Vec<u8>, draws: &mut Draws) -> Vec<u8> {
    for _ in 0..=draws.below(3) {
        let at = draws.below(bytes.len().max(1)).min(bytes.len());
        let end = (at + draws.below(3)).min(bytes.len());
        let snippet = SNIPPETS[draws.below(SNIPPETS.len())];
        match draws.below(4) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, snippet.iter().copied())),
            2 => drop(bytes.splice(at..end, snippet.iter().copied())),
            _ => {
                let from = draws.below(bytes.len() + 1);
                let copy = bytes[from..(from + 20).min(bytes.len())].to_vec();
                drop(bytes.splice(at..at, copy));
            }
        }
    }
    bytes
}

/// `TASUKI_MUTATIONS=200000` for many.
#[actix_web::test]
async fn whatever_is_changed_in_them_nothing_unclear_is_forwarded() {
    let count = std::env::var("TASUKI_MUTATIONS").map_or(3_000, |count| count.parse().unwrap());
    let bases: Vec<Vec<u8>> = cases().into_iter().map(|case| case.bytes).filter(|bytes| bytes.len() < 2_000).collect();
    let upstream = Upstream::start().await;
    let door = &open(vec![fixed("r1", upstream.address)]).await;
    let bases = &bases;
    let sent = stream::iter(0..count).map(async |seed| {
        let draws = &mut Draws(seed);
        let bytes = mutated(bases[draws.below(bases.len())].clone(), draws);
        let mut client = TcpStream::connect(door.address).await.unwrap();
        let _ = client.write_all(&bytes).await;
        // An answer, an end, or a request that is not whole: no more comes of it.
        let _ = tokio::time::timeout(Duration::from_millis(50), client.read(&mut [0; 4_096])).await;
    });
    sent.buffer_unordered(32).collect::<Vec<()>>().await;
    let seen = upstream.requests();
    let seen = seen.unwrap_or_else(|unclear| panic!("forwarded: {unclear}"));
    assert!(seen.len() > count as usize / 20, "{} of {count} were forwarded, and the rest proves little", seen.len());
}
