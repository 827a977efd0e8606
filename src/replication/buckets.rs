//! A set of the buckets of a digest.

use crate::session::digest::BUCKETS;

const BYTES: usize = BUCKETS / 8;

/// Some of the buckets: one bit for each, the lowest bit of a byte first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets(Box<[u8]>);

impl Default for Buckets {
    fn default() -> Self {
        Self(vec![0; BYTES].into())
    }
}

impl FromIterator<usize> for Buckets {
    /// Buckets that do not exist are left out.
    fn from_iter<T: IntoIterator<Item = usize>>(buckets: T) -> Self {
        let mut set = Self::default();
        buckets.into_iter().for_each(|bucket| set.insert(bucket));
        set
    }
}

impl Buckets {
    /// From as many bytes as [`Buckets::as_bytes`] gives.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == BYTES).then(|| Self(bytes.into()))
    }

    /// As it is sent.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a bucket is in it.
    pub fn contains(&self, bucket: usize) -> bool {
        is_marked(&self.0, bucket)
    }

    /// All of them, the lowest first.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let used = self.0.iter().enumerate().filter(|(_, byte)| **byte != 0);
        used.flat_map(|(at, byte)| (0..8).filter(move |bit| byte & 1 << bit != 0).map(move |bit| at * 8 + bit))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    pub(super) fn insert(&mut self, bucket: usize) {
        mark(&mut self.0, bucket);
    }

    pub(super) fn remove(&mut self, bucket: usize) {
        if let Some(byte) = self.0.get_mut(bucket / 8) {
            *byte &= !(1 << (bucket % 8));
        }
    }
}

/// Whether a bit is set; beyond the last byte none is.
pub(super) fn is_marked(bits: &[u8], at: usize) -> bool {
    bits.get(at / 8).is_some_and(|byte| byte & 1 << (at % 8) != 0)
}

/// Sets a bit, if there is a byte for it.
pub(super) fn mark(bits: &mut [u8], at: usize) {
    if let Some(byte) = bits.get_mut(at / 8) {
        *byte |= 1 << (at % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_in_it_until_it_is_taken_out() {
        let mut set: Buckets = [0, 9, BUCKETS - 1, BUCKETS].into_iter().collect();
        assert_eq!((set.iter().collect::<Vec<_>>(), set.len()), (vec![0, 9, BUCKETS - 1], 3));
        [0, 9, BUCKETS - 1, BUCKETS].into_iter().for_each(|bucket| set.remove(bucket));
        assert!(set.is_empty());
    }

    #[test]
    fn bytes_of_another_length_are_no_set() {
        let set: Buckets = [1, 2_000].into_iter().collect();
        assert_eq!(Buckets::from_bytes(set.as_bytes()), Some(set.clone()));
        assert_eq!(Buckets::from_bytes(&set.as_bytes()[1..]), None);
        assert!(!is_marked(&[0xFF], 8));
    }
}
