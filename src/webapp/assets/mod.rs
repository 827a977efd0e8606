//! Static files: what is sent, how it is packed, and how a client is kept from asking for what it has.
//!
//! ```text
//! deploy ─► collect: kind, cache rule, files compressed beforehand (a.css.br beside a.css)
//! request ─► coding ─► shelf ─ not there ─► disk: opened without links, hashed, kept ─► compressed once
//!                        └─► conditions ─► 200, 206, 304, 412, 416
//! ```
//!
//! A file's tag is the hash of its content, so it is the same on every node: a user who is carried to another node
//! downloads nothing again. That rules out actix-files, whose tags are made of inode and time, which differ between
//! machines; it also opens and reads the file for each request, on another thread.
//!
//! What is small is read once for each version of its webapp and answered from memory; what is large stays on the disk
//! and is looked at for each request. Either way tag and bytes belong together, also while somebody copies.

mod coding;
mod collect;
mod conditions;
mod disk;
mod media;
mod page;
mod representation;
mod shelf;

use std::{
    fs::File,
    io,
    sync::{Arc, OnceLock},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::SizedStream,
    http::{
        Method, StatusCode,
        header::{self, HeaderValue},
    },
    web::Bytes,
};
use futures_util::stream;

pub(in crate::webapp) use self::collect::{Listed, collect};
pub use self::page::pack_page;
use self::{
    coding::Coding,
    conditions::{Part, Verdict, judge, part},
    disk::{Content, Place},
    media::{Media, looks_like_utf8},
    representation::Representation,
    shelf::Ticket,
};
use crate::limits;

/// A static file of one version of a webapp.
#[derive(Debug)]
pub struct Asset {
    ticket: Ticket,
    place: Place,
    media: Media,
    cache_control: HeaderValue,
    /// The same content, compressed beforehand.
    packed: Vec<(Coding, Place)>,
    /// In what it may be sent besides as it is.
    codings: Vec<Coding>,
    /// What names its content in an address, once it was asked for.
    digits: OnceLock<Option<String>>,
}

/// What is to be sent, and the open file where its bytes are on the disk.
type Found = (Arc<Representation>, Option<File>);

/// Digits of a hash in an address: enough that no two versions of a file share them, and short to read.
const ADDRESS_DIGITS: usize = 12;

/// How often a file on the disk is looked at again that is not the one that was hashed.
const LOOKS: usize = 3;

/// Answers a request for a file that [`Webapp::resolve`](super::Webapp::resolve) named.
///
/// GET and HEAD only (405 otherwise). 200, 206 for one range, 304, 412 and 416 by the request's conditions; 404 when the
/// file has gone since the webapp was deployed, or has become a link; 500 when it cannot be read, with a line in the log.
pub async fn answer(asset: &Arc<Asset>, request: &HttpRequest) -> HttpResponse {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, "GET, HEAD")).finish();
    }
    match asset.find(asset.coding(request)).await {
        Ok((representation, file)) => asset.reply(request, &representation, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => HttpResponse::NotFound().finish(),
        Err(error) => {
            tracing::warn!(file = %asset.place.root.join(&asset.place.inside).display(), %error, "a static file cannot be read");
            HttpResponse::InternalServerError().finish()
        }
    }
}

impl Asset {
    /// What an address says of its content, as `v`: the beginning of its hash. None of a large file, which is not read for a
    /// link, and of one that cannot be read. Reads the file the first time.
    pub(in crate::webapp) fn digits(&self) -> Option<&str> {
        let read = || {
            let (_, stamp) = self.place.open().ok()?;
            let is_small = stamp.bytes <= limits::ASSET_KEPT_BYTES;
            let mut hash = is_small.then(|| self.place.read().ok()).flatten()?.hash;
            hash.truncate(ADDRESS_DIGITS);
            Some(hash)
        };
        self.digits.get_or_init(read).as_deref()
    }

    /// Parts are of the file as it is: whoever asks for one has the beginning of that.
    fn coding(&self, request: &HttpRequest) -> Coding {
        if request.headers().contains_key(header::RANGE) {
            return Coding::Identity;
        }
        coding::choose(request, &self.codings)
    }

    async fn find(self: &Arc<Self>, coding: Coding) -> io::Result<Found> {
        for _ in 0..LOOKS {
            let made = self.ticket.get(coding, self.clone().make_off_the_worker(coding)).await?;
            let Content::OnDisk(hashed) = made.content() else { return Ok((made, None)) };
            let (file, now) = self.place_of(coding).open()?;
            if now == *hashed {
                return Ok((made, Some(file)));
            }
            self.ticket.forget(coding);
        }
        Err(io::Error::other("it changes again and again"))
    }

    async fn make_off_the_worker(self: Arc<Self>, coding: Coding) -> io::Result<Representation> {
        tokio::task::spawn_blocking(move || self.make(coding)).await.map_err(io::Error::other)?
    }

    /// Reads the file, or the one that was compressed beforehand, or compresses it.
    fn make(&self, coding: Coding) -> io::Result<Representation> {
        if let Some((_, packed)) = self.packed.iter().find(|(known, _)| *known == coding) {
            return Ok(Representation::new(packed.read()?, coding, self.media.content_type(self.is_utf8()?)));
        }
        let reading = self.place.read()?;
        let content_type = self.media.content_type(reading.is_utf8);
        let plain = Representation::new(reading, Coding::Identity, content_type);
        Ok(if coding == Coding::Identity { plain } else { plain.compressed(coding) })
    }

    /// The charset of a compressed file is that of the file beside it.
    fn is_utf8(&self) -> io::Result<bool> {
        if !self.media.wants_charset() {
            return Ok(true);
        }
        let (file, _) = self.place.open()?;
        disk::beginning(&file).map(|beginning| looks_like_utf8(&beginning))
    }

    fn place_of(&self, coding: Coding) -> &Place {
        self.packed.iter().find(|(known, _)| *known == coding).map_or(&self.place, |(_, place)| place)
    }

    fn reply(&self, request: &HttpRequest, representation: &Representation, file: Option<File>) -> HttpResponse {
        match judge(request, representation.validators()) {
            Verdict::Failed => return self.head(StatusCode::PRECONDITION_FAILED, request, representation).finish(),
            Verdict::NotModified => return self.head(StatusCode::NOT_MODIFIED, request, representation).finish(),
            Verdict::Send => {}
        }
        let length = representation.length();
        let wanted = match representation.has_parts() {
            true => part(request.method(), request, representation.validators(), length),
            false => Part::Whole,
        };
        let (status, from, length, range) = match wanted {
            Part::Whole => (StatusCode::OK, 0, length, None),
            Part::Bytes(from, to) => {
                (StatusCode::PARTIAL_CONTENT, from, to - from + 1, Some(format!("bytes {from}-{to}/{length}")))
            }
            Part::Unsatisfiable => {
                let mut head = self.head(StatusCode::RANGE_NOT_SATISFIABLE, request, representation);
                return head.insert_header((header::CONTENT_RANGE, format!("bytes */{length}"))).finish();
            }
        };
        let mut head = self.head(status, request, representation);
        head.insert_header((header::CONTENT_TYPE, representation.content_type()));
        if let Some(coding) = representation.content_encoding() {
            head.insert_header((header::CONTENT_ENCODING, coding));
        }
        if let Some(range) = range {
            head.insert_header((header::CONTENT_RANGE, range));
        }
        with_body(head, request.method(), representation.content(), file, from, length)
    }

    /// What is said of the file in every answer, also in one without it.
    fn head(&self, status: StatusCode, request: &HttpRequest, representation: &Representation) -> HttpResponseBuilder {
        let mut head = HttpResponse::build(status);
        let is_named = representation.is_named_by(request.query_string());
        let cache_control =
            if is_named { HeaderValue::from_static(collect::NAMED) } else { self.cache_control.clone() };
        head.insert_header((header::ETAG, representation.tag()))
            .insert_header((header::LAST_MODIFIED, representation.last_modified()))
            .insert_header((header::CACHE_CONTROL, cache_control))
            .insert_header((header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
        if representation.has_parts() {
            head.insert_header((header::ACCEPT_RANGES, HeaderValue::from_static("bytes")));
        }
        if !self.codings.is_empty() {
            head.insert_header((header::VARY, HeaderValue::from_static("Accept-Encoding")));
        }
        head
    }
}

/// What is large goes out in chunks: a slow client must not hold all of it in memory.
fn with_body(
    mut head: HttpResponseBuilder,
    method: &Method,
    content: &Content,
    file: Option<File>,
    from: u64,
    length: u64,
) -> HttpResponse {
    match (content, file) {
        (Content::Kept(bytes), _) => {
            let bytes = bytes.slice(from as usize..(from + length) as usize);
            if bytes.len() <= limits::ASSET_CHUNK_BYTES {
                return head.body(bytes);
            }
            head.body(SizedStream::new(length, stream::iter(chunks(bytes))))
        }
        (Content::OnDisk(_), Some(file)) if method == Method::GET => {
            head.body(SizedStream::new(length, Box::pin(disk::stream(file, from, length))))
        }
        // A HEAD has the length and no bytes.
        (Content::OnDisk(_), _) => head.body(SizedStream::new(length, stream::empty::<io::Result<Bytes>>())),
    }
}

fn chunks(mut bytes: Bytes) -> impl Iterator<Item = io::Result<Bytes>> {
    std::iter::from_fn(move || {
        let most = bytes.len().min(limits::ASSET_CHUNK_BYTES);
        (most > 0).then(|| Ok(bytes.split_to(most)))
    })
}

#[cfg(test)]
mod tests;
