//! An attribute's value, encoded to MessagePack when it is set. A short one is copied by who reads it, a longer one shared.

use std::{fmt, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::limits;

/// An encoded value. Cloning never copies more than a few bytes.
#[derive(Clone)]
pub struct Value(Repr);

#[derive(Clone)]
enum Repr {
    /// A number, a short word: no allocation.
    Inline {
        len: u8,
        bytes: [u8; INLINE],
    },
    Shared(Arc<[u8]>),
}

/// As many bytes as make a value, with an attribute's `Option` around it, no larger than three words.
const INLINE: usize = 22;

const _: () = assert!(size_of::<Option<Value>>() == 24);

/// Why a value cannot be kept in a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// It has no MessagePack form (a function, an object of the server).
    #[error("the value cannot be encoded: {0}")]
    NotData(String),
    /// The bytes are not one MessagePack value of a permitted depth.
    #[error("the bytes are not a value: {0}")]
    NotAValue(String),
}

impl Value {
    /// Encodes a value.
    pub fn encode(value: &impl Serialize) -> Result<Self, BadValue> {
        let bytes = rmp_serde::to_vec(value).map_err(|error| BadValue::NotData(error.to_string()))?;
        // What we could not read back, a peer could not either.
        serde::Deserialize::deserialize(&mut reader(&bytes))
            .map(|serde::de::IgnoredAny| ())
            .map_err(|error| BadValue::NotData(error.to_string()))?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Takes bytes from a peer as they are; reading them later checks them.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut inline = [0; INLINE];
        match inline.get_mut(..bytes.len()) {
            Some(start) => {
                start.copy_from_slice(bytes);
                Self(Repr::Inline { len: bytes.len() as u8, bytes: inline })
            }
            None => Self(Repr::Shared(bytes.into())),
        }
    }

    /// Decodes into the caller's type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, BadValue> {
        T::deserialize(&mut reader(self.as_bytes())).map_err(|error| BadValue::NotAValue(error.to_string()))
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }

    /// How many encoded bytes.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Never true for an encoded value: the shortest has one byte.
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }
}

fn reader(bytes: &[u8]) -> rmp_serde::Deserializer<rmp_serde::decode::ReadRefReader<'_, [u8]>> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(limits::VALUE_DEPTH);
    reader
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    /// Only the size: values are users' data and do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_as_it_went_in() {
        let value = Value::encode(&("name", 42, [true, false])).unwrap();
        assert_eq!(value.decode(), Ok(("name".to_owned(), 42, [true, false])));
        assert!(value.decode::<String>().is_err());
    }

    #[test]
    fn a_value_of_any_length_keeps_its_bytes() {
        for length in 0..=INLINE + 2 {
            let bytes: Vec<u8> = (0..length as u8).collect();
            let value = Value::from_bytes(&bytes);
            assert_eq!((value.as_bytes(), value.len()), (&bytes[..], length));
            assert_eq!(matches!(value.0, Repr::Inline { .. }), length <= INLINE);
        }
    }

    #[test]
    fn a_value_too_deep_for_a_peer_is_refused_when_it_is_set() {
        #[derive(Serialize)]
        struct Nested(Option<Box<Nested>>, u8);
        let deep = (0..limits::VALUE_DEPTH * 2).fold(Nested(None, 0), |inner, _| Nested(Some(Box::new(inner)), 1));
        assert!(matches!(Value::encode(&deep), Err(BadValue::NotData(_))));
    }
}
