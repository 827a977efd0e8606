//! What a client may send, byte by byte, before actix-web parses it: where each request begins and ends must be beyond
//! doubt for everybody who reads it after us. Parsers are generous, and each in its own way; here is no generosity.
//!
//! ```text
//!  Head ── blank line ──► Data(n) ──────────────────────────────┐
//!   ▲  │  │                                                     │
//!   │  │  └── chunked ──► Size ──► Chunk(n) ──► ChunkEnd ──► Size │
//!   │  └── websocket ──► Raw  └─ 0 ─► Trailers ──────────────────┤
//!   └────────────────────────────────────────────────────────────┘
//! ```
//!
//! Refused are: bare CR and LF, folded lines, control bytes, names that are no tokens, white space before a colon, request
//! lines of another form than `METHOD target HTTP/1.x`, any `Content-Length` but one of digits, any `Transfer-Encoding` but
//! one `chunked` of HTTP/1.1 alone, and chunks of any other form than RFC 9112 section 7.1. Trailers are checked and dropped
//! (section 7.1.2 allows it): nothing behind the door may depend on them.

use memchr::memchr;

use crate::limits;

/// The framing of one connection's requests. Pure: bytes in, bytes out.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    state: State,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    head: Head,
    heads: usize,
}

/// How far the bytes were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Bytes judged: all, or those up to the end of a request.
    pub(crate) used: usize,
    /// Of these, bytes that go on.
    pub(crate) kept: usize,
}

/// The bytes at this point are no HTTP; nothing after them can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Bytes before it that may go on.
    pub(crate) good: usize,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The next request, if there is one.
    Between,
    /// A head that has begun.
    Head,
    /// The body of the last head, or what it was upgraded to.
    Body,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Data(u64),
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// Nothing more is HTTP: actix-web shows it as the body of the request, whatever becomes of it.
    Raw,
}

/// What the lines of the head said so far.
#[derive(Debug, Default)]
struct Head {
    /// Bytes of this head, or of the trailers or the chunk extensions.
    bytes: usize,
    /// Blank lines before it.
    blank: usize,
    version: Option<Version>,
    connect: bool,
    length: Option<u64>,
    chunked: bool,
    websocket: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// A line breaks a rule.
struct Wrong;

impl Framing {
    /// Judges what the client has sent next, up to the end of a request. What may go on is moved to the front of `bytes`.
    ///
    /// # Errors
    /// [`Malformed`], after which this must not be used again.
    pub(crate) fn pass(&mut self, bytes: &mut [u8]) -> Result<Passed, Malformed> {
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() && !(at > 0 && self.place() == Place::Between) {
            let rest = &bytes[at..];
            let (used, keep) = match self.state {
                State::Raw => (rest.len(), true),
                State::Data(left) | State::Chunk(left) => {
                    let now = left.min(rest.len() as u64);
                    self.state = match self.state {
                        State::Data(_) if left == now => State::Head,
                        State::Data(_) => State::Data(left - now),
                        _ if left == now => State::ChunkEnd,
                        _ => State::Chunk(left - now),
                    };
                    (now as usize, true)
                }
                State::Head | State::Size | State::ChunkEnd | State::Trailers => {
                    // Of the trailers only the blank line at their end goes on; no other line may begin so.
                    let blank = self.line.first().or(rest.first()) == Some(&b'\r');
                    let keep = self.state != State::Trailers || blank;
                    (self.line(rest).map_err(|Wrong| Malformed { good: kept })?, keep)
                }
            };
            if keep && kept == at {
                kept += used; // as nearly always: nothing was dropped before it
            } else if keep {
                bytes.copy_within(at..at + used, kept);
                kept += used;
            }
            at += used;
        }
        Ok(Passed { used: at, kept })
    }

    /// Whole heads that have passed.
    pub(crate) fn heads(&self) -> usize {
        self.heads
    }

    /// Where the connection stands.
    pub(crate) fn place(&self) -> Place {
        match self.state {
            State::Head if self.head.bytes == 0 => Place::Between,
            State::Head => Place::Head,
            _ => Place::Body,
        }
    }

    /// Takes one line, or what is there of it. Gives the bytes taken.
    fn line(&mut self, rest: &[u8]) -> Result<usize, Wrong> {
        let end = memchr(b'\n', rest);
        let used = end.map_or(rest.len(), |end| end + 1);
        self.head.bytes += used;
        let most = match self.state {
            State::Head => limits::HEAD_SCANNED_BYTES,
            _ => limits::CHUNK_EXTRA_BYTES,
        };
        if self.head.bytes > most {
            return Err(Wrong);
        }
        if end.is_none() {
            self.line.extend_from_slice(rest);
            return Ok(used);
        }
        let mut whole = std::mem::take(&mut self.line);
        let line = if whole.is_empty() {
            &rest[..used]
        } else {
            whole.extend_from_slice(&rest[..used]);
            &whole
        };
        let line = line.strip_suffix(b"\r\n").ok_or(Wrong)?;
        self.judge(line)?;
        Ok(used)
    }

    fn judge(&mut self, line: &[u8]) -> Result<(), Wrong> {
        match self.state {
            State::Head if self.head.version.is_none() => self.head.begin(line),
            State::Head if line.is_empty() => {
                self.state = self.head.end();
                self.head = Head::default();
                self.heads += 1;
                Ok(())
            }
            State::Head => self.head.field(line),
            State::Size => {
                self.head.bytes -= line.len().min(CHUNK_SIZE_DIGITS) + 2; // what extends is bounded, not what is needed
                self.state = match chunk_size(line)? {
                    0 => State::Trailers,
                    size => State::Chunk(size),
                };
                Ok(())
            }
            State::ChunkEnd if line.is_empty() => {
                self.head.bytes -= 2;
                self.state = State::Size;
                Ok(())
            }
            State::Trailers if line.is_empty() => {
                self.state = State::Head;
                self.head = Head::default();
                Ok(())
            }
            State::Trailers => field(line).map(drop),
            State::ChunkEnd | State::Data(_) | State::Chunk(_) | State::Raw => Err(Wrong),
        }
    }
}

impl Head {
    /// RFC 9112 section 3: three words, one space between them. Section 2.2 lets a blank line come before it.
    fn begin(&mut self, line: &[u8]) -> Result<(), Wrong> {
        if line.is_empty() && self.blank == 0 {
            self.blank = 1;
            return Ok(());
        }
        let mut words = line.split(|b| *b == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Wrong);
        };
        if !is_token(method) || target.is_empty() || !all(target, |b| b.is_ascii_graphic()) {
            return Err(Wrong);
        }
        self.connect = method == b"CONNECT";
        self.version = match version {
            b"HTTP/1.1" => Some(Version::Http11),
            b"HTTP/1.0" => Some(Version::Http10),
            _ => return Err(Wrong),
        };
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Wrong> {
        let (name, value) = field(line)?;
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = content_length(value)?;
                if self.length.replace(length).is_some() || self.chunked { Err(Wrong) } else { Ok(()) }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let first = !std::mem::replace(&mut self.chunked, true);
                let good = first && self.length.is_none() && self.version == Some(Version::Http11);
                if good && value.eq_ignore_ascii_case(b"chunked") { Ok(()) } else { Err(Wrong) }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.websocket |= value.eq_ignore_ascii_case(b"websocket");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What follows the head, as actix-http reads it.
    fn end(&self) -> State {
        match self.length {
            _ if self.chunked => State::Size,
            _ if self.websocket => State::Raw,
            Some(1..) => State::Data(self.length.unwrap_or_default()),
            _ if self.connect => State::Raw,
            _ => State::Head,
        }
    }
}

/// A name and its value, white space around it left out (RFC 9112 section 5). A folded line begins with white space, which
/// no token does.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Wrong> {
    let colon = memchr(b':', line).ok_or(Wrong)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let allowed = |b: u8| b == b'\t' || b >= b' ' && b != 0x7f;
    if is_token(name) && all(value, allowed) { Ok((name, value.trim_ascii())) } else { Err(Wrong) }
}

/// RFC 9110 section 5.6.2.
fn is_token(word: &[u8]) -> bool {
    !word.is_empty() && all(word, |b| TOKEN[usize::from(b)])
}

/// Which bytes a token is made of. Nearly every byte of a head is looked at, so it is worth a table.
static TOKEN: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let (others, mut at) = (b"!#$%&'*+-.^_`|~", 0);
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// Whether all bytes are good. It does not stop at the first bad one: so the compiler can look at many at once, and bad
/// ones are rare.
fn all(bytes: &[u8], is_good: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |so_far, byte| so_far & is_good(*byte))
}

/// RFC 9110 section 8.6: digits. A list of equal lengths is allowed there, and refused here.
fn content_length(value: &[u8]) -> Result<u64, Wrong> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Wrong);
    }
    str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(Wrong)
}

/// 64 bits.
const CHUNK_SIZE_DIGITS: usize = 16;

/// RFC 9112 section 7.1: hex digits, and perhaps an extension behind a semicolon, which means nothing here.
fn chunk_size(line: &[u8]) -> Result<u64, Wrong> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let visible = |b: &u8| *b == b'\t' || (b' '..0x7f).contains(b);
    let good = extension.is_empty() || extension[0] == b';' && extension.iter().all(visible);
    if !good || !(1..=CHUNK_SIZE_DIGITS).contains(&digits) {
        return Err(Wrong);
    }
    str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok()).ok_or(Wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes on of a connection's bytes that come in pieces of one length, and whether they were refused.
    fn passed(bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
        let (mut framing, mut out) = (Framing::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            let mut piece = piece.to_vec();
            while !piece.is_empty() {
                match framing.pass(&mut piece) {
                    Ok(Passed { used, kept }) => {
                        out.extend_from_slice(&piece[..kept]);
                        piece.drain(..used);
                    }
                    Err(Malformed { good }) => {
                        out.extend_from_slice(&piece[..good]);
                        return (out, true);
                    }
                }
            }
        }
        (out, false)
    }

    const GET: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn good_requests_pass_unchanged_in_pieces_of_any_length() {
        let good = [
            GET.to_owned(),
            format!("\r\n{GET}{GET}"),
            format!("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length:  3 \r\n\r\n\r\n\n{GET}"),
            format!(
                "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b c\"\r\n\r\n\0\r\n00\r\n\r\n{GET}"
            ),
            "POST /a HTTP/1.0\r\ncontent-length: 0\r\nX-Odd: caf\u{e9}\t!\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\nany\0thing\n".to_owned(),
        ];
        for text in good {
            for piece in [1, 2, 3, 7, text.len()] {
                assert_eq!(passed(text.as_bytes(), piece), (text.as_bytes().to_vec(), false), "{text:?} by {piece}");
            }
        }
    }

    #[test]
    fn trailers_are_dropped() {
        let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sent = format!("{head}1\r\na\r\n0\r\nContent-Length: 5\r\nX: y\r\n\r\n{GET}");
        let wanted = format!("{head}1\r\na\r\n0\r\n\r\n{GET}");
        for piece in [1, 2, 5, sent.len()] {
            assert_eq!(passed(sent.as_bytes(), piece), (wanted.clone().into_bytes(), false), "by {piece}");
        }
    }

    #[test]
    fn what_is_refused_never_reaches_a_parser_as_a_whole_head() {
        let bad = [
            "GET / HTTP/1.1\nHost: x\n\n",
            "GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
            "GET /\r\n\r\n",
        ];
        for text in bad {
            for piece in [1, 4, text.len()] {
                let (out, refused) = passed(text.as_bytes(), piece);
                assert!(refused, "{text:?} by {piece}");
                assert!(!out.windows(4).any(|four| four == b"\r\n\r\n") && !out.windows(2).any(|two| two == b"\n\n"));
            }
        }
    }

    #[test]
    fn chunks_have_one_form() {
        for (line, size) in [("0", 0), ("0a", 10), ("FFFFFFFFFFFFFFFF", u64::MAX), ("5;x", 5), ("5;x=\"y\"", 5)] {
            assert!(chunk_size(line.as_bytes()).is_ok_and(|read| read == size), "{line}");
        }
        for line in ["", "g", "0x5", "-1", "+1", " 5", "5 ", "5 ;x", "5;\0", "5;\u{e9}", "10000000000000000", "5,x"] {
            assert!(chunk_size(line.as_bytes()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn what_nobody_needs_is_bounded() {
        let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = format!("1;{}\r\na\r\n", "x".repeat(1_000));
        assert!(passed(format!("{head}{}", chunk.repeat(20)).as_bytes(), 1_000).1, "extensions without end");
        let plain = "1\r\na\r\n".repeat(100_000);
        assert!(!passed(format!("{head}{plain}").as_bytes(), 1_000).1, "many small chunks are slow, not wrong");
        let trailers = "A: b\r\n".repeat(3_000);
        assert!(passed(format!("{head}0\r\n{trailers}").as_bytes(), 1_000).1);
        let endless = "a".repeat(limits::HEAD_SCANNED_BYTES);
        assert!(passed(format!("GET /{endless}").as_bytes(), 1_000).1);
    }
}
