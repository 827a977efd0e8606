//! Content codings: which one a client takes, and the making of it.

use std::io::{self, Write};

use actix_web::{
    HttpMessage,
    http::header::{AcceptEncoding, ContentEncoding, Encoding, Header},
};

/// How a content is packed on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Coding {
    /// As it is.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878; only where the file lies there.
    Zstd,
    /// RFC 7932.
    Brotli,
}

/// All of them.
pub(super) const ALL: [Coding; 4] = [Coding::Identity, Coding::Gzip, Coding::Zstd, Coding::Brotli];

/// What can be made here. Browsers take Brotli over TLS and from localhost, gzip everywhere.
pub(super) const MADE: [Coding; 2] = [Coding::Brotli, Coding::Gzip];

impl Coding {
    /// The end of the name of a file that was compressed beforehand; none for a file as it is.
    pub(super) fn suffix(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gz"),
            Self::Zstd => Some("zst"),
            Self::Brotli => Some("br"),
        }
    }

    /// As `Content-Encoding` names it.
    pub(super) fn name(self) -> &'static str {
        self.header().as_str()
    }

    fn header(self) -> ContentEncoding {
        match self {
            Self::Identity => ContentEncoding::Identity,
            Self::Gzip => ContentEncoding::Gzip,
            Self::Zstd => ContentEncoding::Zstd,
            Self::Brotli => ContentEncoding::Brotli,
        }
    }
}

/// The coding that the client likes best among these (RFC 9110, 12.5.3); of those it likes equally, the smallest. What it
/// refuses is sent as it is: an answer that it can perhaps read is better than none.
pub(super) fn choose(request: &impl HttpMessage, have: &[Coding]) -> Coding {
    if have.is_empty() || !request.headers().contains_key(AcceptEncoding::name()) {
        return Coding::Identity;
    }
    let Ok(accepted) = AcceptEncoding::parse(request) else { return Coding::Identity };
    let known: Vec<Encoding> =
        have.iter().chain([&Coding::Identity]).map(|coding| Encoding::Known(coding.header())).collect();
    match accepted.negotiate(known.iter()) {
        Some(Encoding::Known(best)) => ALL.into_iter().find(|coding| coding.header() == best),
        _ => None,
    }
    .unwrap_or(Coding::Identity)
}

/// Compresses what is kept: the effort is made once for a version of a file.
///
/// # Errors
/// Never for a coding of [`MADE`]; for another one, that it cannot be made.
pub(super) fn compress(plain: &[u8], coding: Coding) -> io::Result<Vec<u8>> {
    match coding {
        Coding::Gzip => gzip(plain, flate2::Compression::best()),
        Coding::Brotli => brotli(plain),
        Coding::Identity | Coding::Zstd => Err(io::Error::other(format!("{} is not made here", coding.name()))),
    }
}

/// gzip for one answer, made while the client waits.
///
/// # Errors
/// Never, since it is made in memory.
pub(super) fn compress_quickly(plain: &[u8]) -> io::Result<Vec<u8>> {
    gzip(plain, flate2::Compression::fast())
}

fn gzip(plain: &[u8], level: flate2::Compression) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(plain.len() / 2), level);
    encoder.write_all(plain)?;
    encoder.finish()
}

fn brotli(plain: &[u8]) -> io::Result<Vec<u8>> {
    /// Measured, of a style sheet: 9 takes twelve times as long and gains half a hundredth. Who wants the last tenth puts a
    /// `.br` of quality 11 beside the file.
    const QUALITY: u32 = 6;
    /// Logarithm of the window: 4 MiB, more than a file has that is kept.
    const WINDOW: u32 = 22;
    const BUFFER_BYTES: usize = 4096;
    let mut packed = Vec::with_capacity(plain.len() / 2);
    let mut encoder = brotli::CompressorWriter::new(&mut packed, BUFFER_BYTES, QUALITY, WINDOW);
    encoder.write_all(plain)?;
    drop(encoder);
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use actix_web::test::TestRequest;

    use super::*;

    fn chosen(accepted: &'static str, have: &[Coding]) -> Coding {
        choose(&TestRequest::get().insert_header(("accept-encoding", accepted)).to_http_request(), have)
    }

    #[test]
    fn the_client_chooses_and_of_equals_the_smallest_is_sent() {
        use Coding::{Brotli, Gzip, Identity, Zstd};
        let all = [Brotli, Zstd, Gzip];
        for (accepted, coding) in [
            ("gzip, deflate, br, zstd", Brotli),
            ("gzip, deflate", Gzip),
            ("gzip, zstd", Zstd),
            ("br;q=0.5, gzip;q=0.8", Gzip),
            ("br;q=0, gzip", Gzip),
            ("deflate", Identity),
            ("identity", Identity),
            ("identity;q=0", Identity),
            ("", Identity),
            (";;;", Identity),
        ] {
            assert_eq!(chosen(accepted, &all), coding, "{accepted}");
        }
        assert_eq!(chosen("br, gzip", &[Gzip]), Gzip);
        assert_eq!(chosen("br, gzip", &[]), Identity);
        assert_eq!(choose(&TestRequest::get().to_http_request(), &all), Identity);
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let plain = "body { margin: 0 }\n".repeat(500);
        let gzip = compress(plain.as_bytes(), Coding::Gzip).unwrap();
        let brotli = compress(plain.as_bytes(), Coding::Brotli).unwrap();
        let (mut one, mut other) = (String::new(), String::new());
        flate2::read::GzDecoder::new(&gzip[..]).read_to_string(&mut one).unwrap();
        brotli::Decompressor::new(&brotli[..], 4096).read_to_string(&mut other).unwrap();
        assert!(one == plain && other == plain);
        assert!(gzip.len() < 200 && brotli.len() < 200, "{} {}", gzip.len(), brotli.len());
        assert!(compress(b"", Coding::Zstd).is_err());
    }
}
