//! Reads a request's body before its page runs: a form, a form with files, or JSON. Each has its bounds in bytes, parts and
//! time, and what cannot be read is answered here, before anybody waits for a session.

use std::{io, sync::Arc};

use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::{
    HttpRequest, HttpResponse,
    error::PayloadError,
    http::{StatusCode, header},
    web::{self, Bytes},
};
use futures_util::StreamExt;
use tokio::time::timeout;
use tracing::error;

use super::{
    refusal,
    uploads::{Full, Room, Uploads},
};
use crate::{
    limits,
    webapp::{self, Body, TooManyParameters, Upload},
};

/// What was read. It takes room until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) body: Body,
    pub(super) room: Option<Room>,
}

/// What a body is, by the request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// There is none, or a method that means nothing by one.
    None,
    /// `application/x-www-form-urlencoded`
    Form,
    /// `multipart/form-data`
    Parts,
    /// `application/json`, and what ends in `+json`
    Json,
}

/// Why a body was not read. The texts are for the client.
#[derive(Debug, thiserror::Error)]
enum BadBody {
    #[error("A body in the encoding {0:?} is not read here. Please send it as it is.")]
    Encoded(String),
    #[error(
        "A body of the type {0:?} is not read here, only forms (application/x-www-form-urlencoded, multipart/form-data) and \
         application/json."
    )]
    Type(String),
    #[error("{0} has at most {1} bytes here.")]
    TooLarge(&'static str, u64),
    #[error("The form has too many fields: {0}.")]
    TooManyFields(#[from] TooManyParameters),
    #[error("A form has at most {max} files.", max = limits::UPLOADS)]
    TooManyFiles,
    #[error("The form is not in UTF-8.")]
    NotUtf8,
    #[error("The body ended in the middle.")]
    Incomplete,
    #[error("The form cannot be read: {0}.")]
    Malformed(MultipartError),
    #[error("The JSON cannot be read: {0}.")]
    Json(#[from] serde_json::Error),
    #[error("The body took too long to arrive.")]
    Slow,
    #[error("This server is being sent as much as it can take. Please try again later.")]
    NoRoom,
    #[error("The file could not be stored. Please tell the administrator.")]
    Disk(#[from] io::Error),
}

/// Reads the body of a request.
///
/// # Errors
/// The answer for the client.
pub(super) async fn receive(
    request: &HttpRequest,
    payload: web::Payload,
    uploads: &Uploads,
) -> Result<Received, HttpResponse> {
    read(request, payload, uploads).await.map_err(|bad| {
        if let BadBody::Disk(error) = &bad {
            error!(folder = %uploads.folder().display(), "a file of a form cannot be stored: {error}");
        }
        refusal::page(bad.status(), &bad.to_string())
    })
}

async fn read(request: &HttpRequest, payload: web::Payload, uploads: &Uploads) -> Result<Received, BadBody> {
    match Kind::of(request)? {
        Kind::None => Ok(Received::default()),
        Kind::Form => {
            let (bytes, room) = whole(payload, "A form", uploads).await?;
            let text = std::str::from_utf8(&bytes).map_err(|_| BadBody::NotUtf8)?;
            let form = Some(webapp::parameters(text)?);
            Ok(Received { body: Body { form, ..Body::default() }, room: Some(room) })
        }
        Kind::Json => {
            let (bytes, room) = whole(payload, "A JSON body", uploads).await?;
            let json = Some(webapp::json(&bytes)?);
            Ok(Received { body: Body { json, ..Body::default() }, room: Some(room) })
        }
        Kind::Parts => {
            let most = uploads.largest_form();
            if content_length(request).is_some_and(|length| length > most) {
                return Err(BadBody::TooLarge("A form with files", most));
            }
            timeout(limits::UPLOAD_TIMEOUT, parts(request, payload, uploads)).await.map_err(|_| BadBody::Slow)?
        }
    }
}

/// A body that is kept in memory.
async fn whole(payload: web::Payload, what: &'static str, uploads: &Uploads) -> Result<(Vec<u8>, Room), BadBody> {
    timeout(limits::FORM_TIMEOUT, collect(payload, what, uploads.room())).await.map_err(|_| BadBody::Slow)?
}

async fn collect(mut payload: web::Payload, what: &'static str, mut room: Room) -> Result<(Vec<u8>, Room), BadBody> {
    let mut body = Vec::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| BadBody::Incomplete)?;
        if body.len() + chunk.len() > limits::FORM_BYTES {
            return Err(BadBody::TooLarge(what, limits::FORM_BYTES as u64));
        }
        room.take(chunk.len()).map_err(|Full| BadBody::NoRoom)?;
        body.extend_from_slice(&chunk);
    }
    Ok((body, room))
}

async fn parts(request: &HttpRequest, payload: web::Payload, uploads: &Uploads) -> Result<Received, BadBody> {
    let most = uploads.largest_form();
    let mut left = most;
    let bounded = payload.map(move |chunk| {
        let chunk = chunk?;
        left = left.checked_sub(chunk.len() as u64).ok_or(PayloadError::Overflow)?;
        Ok(chunk)
    });
    let mut parts = Multipart::new(request.headers(), bounded);
    let mut form = Form { uploads, room: uploads.room(), fields: Vec::new(), files: Vec::new(), text_bytes: 0 };
    while let Some(part) = timeout(limits::UPLOAD_SILENCE, parts.next()).await.map_err(|_| BadBody::Slow)? {
        form.take(part.map_err(|error| BadBody::of_part(error, most))?).await?;
    }
    let body = Body { form: Some(form.fields), files: form.files, json: None };
    Ok(Received { body, room: Some(form.room) })
}

/// A form with files while it is received.
struct Form<'a> {
    uploads: &'a Uploads,
    room: Room,
    fields: Vec<(String, String)>,
    files: Vec<Arc<Upload>>,
    text_bytes: usize,
}

impl Form<'_> {
    async fn take(&mut self, part: Field) -> Result<(), BadBody> {
        let name = unquoted(part.name().unwrap_or_default());
        let file_name = part.content_disposition().and_then(|is| is.get_filename()).map(unquoted);
        match file_name {
            Some(file_name) => self.take_file(name, &file_name, part).await,
            None => self.take_field(name, part).await,
        }
    }

    async fn take_field(&mut self, name: String, mut part: Field) -> Result<(), BadBody> {
        if self.fields.len() == limits::PARAMETERS {
            return Err(TooManyParameters.into());
        }
        self.count_text(name.len())?;
        let mut text = Vec::new();
        while let Some(chunk) = self.next(&mut part).await? {
            self.count_text(chunk.len())?;
            text.extend_from_slice(&chunk);
        }
        // As a form without files has it.
        self.fields.push((name, String::from_utf8_lossy(&text).into_owned()));
        Ok(())
    }

    async fn take_file(&mut self, field: String, file_name: &str, mut part: Field) -> Result<(), BadBody> {
        let content_type = part.content_type().map_or_else(String::new, ToString::to_string);
        let (mut spool, largest) = (self.uploads.spool(), self.uploads.largest_file());
        while let Some(chunk) = self.next(&mut part).await? {
            if spool.len() + chunk.len() as u64 > largest {
                return Err(BadBody::TooLarge("A file", largest));
            }
            self.room.take(chunk.len()).map_err(|Full| BadBody::NoRoom)?;
            spool.push(&chunk).await?;
        }
        // What a browser sends where no file was chosen.
        if file_name.is_empty() && spool.len() == 0 {
            return self.count_text(field.len());
        }
        if self.files.len() == limits::UPLOADS {
            return Err(BadBody::TooManyFiles);
        }
        let (name, content) = (webapp::base_name(file_name), spool.finish().await?);
        self.files.push(Upload { field, name, content_type, content }.into());
        Ok(())
    }

    async fn next(&self, part: &mut Field) -> Result<Option<Bytes>, BadBody> {
        let chunk = timeout(limits::UPLOAD_SILENCE, part.next()).await.map_err(|_| BadBody::Slow)?;
        chunk.transpose().map_err(|error| BadBody::of_part(error, self.uploads.largest_form()))
    }

    fn count_text(&mut self, bytes: usize) -> Result<(), BadBody> {
        self.text_bytes += bytes;
        if self.text_bytes > limits::FORM_BYTES {
            return Err(BadBody::TooLarge("The text of a form", limits::FORM_BYTES as u64));
        }
        self.room.take(bytes).map_err(|Full| BadBody::NoRoom)
    }
}

impl Kind {
    fn of(request: &HttpRequest) -> Result<Self, BadBody> {
        let head = request.headers();
        let has_body =
            content_length(request).is_some_and(|length| length > 0) || head.contains_key(header::TRANSFER_ENCODING);
        if !has_body || request.method().is_safe() {
            return Ok(Self::None);
        }
        let said = |name| head.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if let Some(encoding) = said(header::CONTENT_ENCODING).filter(|it| !it.eq_ignore_ascii_case("identity")) {
            return Err(BadBody::Encoded(encoding));
        }
        let content_type = said(header::CONTENT_TYPE).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            "multipart/form-data" => Ok(Self::Parts),
            "application/json" => Ok(Self::Json),
            other if other.ends_with("+json") => Ok(Self::Json),
            _ => Err(BadBody::Type(essence)),
        }
    }
}

impl BadBody {
    fn of_part(error: MultipartError, most: u64) -> Self {
        use MultipartError as Part;
        match error {
            Part::Payload(PayloadError::Overflow) => Self::TooLarge("A form with files", most),
            Part::Payload(_) | Part::Incomplete => Self::Incomplete,
            error => Self::Malformed(error),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Encoded(_) | Self::Type(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge(..) | Self::TooManyFiles => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyFields(_) | Self::NotUtf8 | Self::Incomplete | Self::Malformed(_) | Self::Json(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
            Self::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

fn content_length(request: &HttpRequest) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Names as browsers quote them in a part's head (the HTML standard, "multipart/form-data encoding algorithm").
fn unquoted(name: &str) -> String {
    name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}

#[cfg(test)]
mod tests;
