//! A static file as it goes out: its bytes in one coding, and the headers that say what they are.

use actix_web::http::header::{EntityTag, HeaderValue, TryIntoHeaderValue};

use super::{
    coding::{self, Coding},
    conditions::Validators,
    disk::{Content, Reading},
};
use crate::limits;

/// One form of a file. Never changed once it was made.
#[derive(Clone, Debug)]
pub(super) struct Representation {
    coding: Coding,
    content: Content,
    /// Of the bytes on the disk that it was made from.
    hash: String,
    validators: Validators,
    tag: HeaderValue,
    last_modified: HeaderValue,
    content_type: HeaderValue,
}

impl Representation {
    /// A file as it lies there, in the coding in which it lies there.
    pub(super) fn new(reading: Reading, coding: Coding, content_type: HeaderValue) -> Self {
        let tag = EntityTag::new_strong(reading.hash.clone());
        let validators = Validators { tag, modified: reading.modified };
        let (tag, last_modified) = (header(validators.tag.clone()), header(validators.modified));
        let Reading { content, hash, .. } = reading;
        Self { coding, content, hash, validators, tag, last_modified, content_type }
    }

    /// The same compressed, or as it is where that gains less than a tenth.
    ///
    /// Its tag is a weak one: another release of the compressor may pack the same content into other bytes, and then the
    /// second half of one node's bytes does not fit to the first half of another's.
    pub(super) fn compressed(self, coding: Coding) -> Self {
        let Content::Kept(plain) = &self.content else { return self };
        if (plain.len() as u64) < limits::COMPRESSED_FROM_BYTES {
            return self;
        }
        match coding::compress(plain, coding) {
            Ok(packed) if packed.len() < plain.len() / 10 * 9 => {
                let tag = EntityTag::new_weak(format!("{}-{}", self.hash, coding.name()));
                let validators = Validators { tag, modified: self.validators.modified };
                let tag = header(validators.tag.clone());
                Self { coding, content: Content::Kept(packed.into()), validators, tag, ..self }
            }
            _ => self,
        }
    }

    /// Its bytes.
    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// How many they are.
    pub(super) fn length(&self) -> u64 {
        match &self.content {
            Content::Kept(bytes) => bytes.len() as u64,
            Content::OnDisk(stamp) => stamp.bytes,
        }
    }

    /// Whether parts of it may be sent: not where a tag cannot tell that the parts belong together.
    pub(super) fn has_parts(&self) -> bool {
        !self.validators.tag.weak
    }

    /// What its conditions are judged by.
    pub(super) fn validators(&self) -> &Validators {
        &self.validators
    }

    /// Whether an address names exactly this content: `?v=` and at least the first eight digits of its hash.
    pub(super) fn is_named_by(&self, query: &str) -> bool {
        const LEAST_DIGITS: usize = 8;
        let named = query.split('&').find_map(|pair| pair.strip_prefix("v="));
        named.is_some_and(|digits| digits.len() >= LEAST_DIGITS && self.hash.starts_with(digits))
    }

    /// `ETag`
    pub(super) fn tag(&self) -> HeaderValue {
        self.tag.clone()
    }

    /// `Last-Modified`
    pub(super) fn last_modified(&self) -> HeaderValue {
        self.last_modified.clone()
    }

    /// `Content-Type`
    pub(super) fn content_type(&self) -> HeaderValue {
        self.content_type.clone()
    }

    /// `Content-Encoding`, if it has one.
    pub(super) fn content_encoding(&self) -> Option<HeaderValue> {
        (self.coding != Coding::Identity).then(|| HeaderValue::from_static(self.coding.name()))
    }

    #[cfg(test)]
    pub(super) fn of_bytes(bytes: Vec<u8>) -> Self {
        let modified = "Thu, 01 Jan 2026 00:00:00 GMT".parse().unwrap();
        let reading =
            Reading { content: Content::Kept(bytes.into()), hash: "0123456789".into(), modified, is_utf8: true };
        let content_type = super::media::Media::of("a.txt", None).content_type(true);
        Self::new(reading, Coding::Identity, content_type)
    }
}

/// Tags are of hexadecimal digits, dates are made by rule: neither has a character that a header must not have.
fn header<V: TryIntoHeaderValue>(value: V) -> HeaderValue {
    value.try_into_value().unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        let mut noise = vec![0; 8_192];
        getrandom::fill(&mut noise).unwrap();
        let small = vec![b' '; 1_023];
        for bytes in [noise, small] {
            let length = bytes.len() as u64;
            let kept = Representation::of_bytes(bytes).compressed(Coding::Gzip);
            assert_eq!((kept.length(), kept.content_encoding()), (length, None));
        }
    }

    #[test]
    fn what_is_compressed_has_a_tag_of_its_own() {
        let plain = Representation::of_bytes(vec![b' '; 4_096]);
        let packed = plain.clone().compressed(Coding::Brotli);
        assert_eq!(packed.content_encoding().unwrap(), "br");
        assert_eq!((plain.tag(), packed.tag()), (value("\"0123456789\""), value("W/\"0123456789-br\"")));
        assert!(packed.length() < 100 && plain.has_parts() && !packed.has_parts());
    }

    #[test]
    fn an_address_names_a_content_by_its_hash() {
        let file = Representation::of_bytes(vec![]);
        for query in ["v=01234567", "v=0123456789", "a=b&v=01234567"] {
            assert!(file.is_named_by(query), "{query}");
        }
        for query in ["", "v=", "v=0", "v=76543210", "v=01234567890", "version=01234567"] {
            assert!(!file.is_named_by(query), "{query}");
        }
    }
}
