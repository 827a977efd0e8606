//! Which sealed datagrams were taken already: a sliding window for each life of a sender, as IPsec has it (RFC 4303,
//! section 3.4.3).

use std::collections::HashMap;

use super::seal::Life;
use crate::limits;

/// Numbers below the highest one that are told apart; a sender's datagrams to one member overtake each other by less.
const WINDOW: u64 = u128::BITS as u64;

/// Whether a datagram may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    New,
    /// Taken before, or too far below the highest number to tell.
    Before,
}

/// The windows of all senders. Only authenticated numbers are noted, so only members and what they once sent take room.
#[derive(Default)]
pub(super) struct Memory {
    senders: HashMap<Life, Window>,
    noted: u64,
}

struct Window {
    highest: u64,
    /// Bit n: the number n below the highest was taken.
    taken: u128,
    noted: u64,
}

impl Memory {
    /// Takes the number of a datagram that is known to come from this life of a member.
    pub(super) fn note(&mut self, life: Life, number: u64) -> Seen {
        self.noted += 1;
        if self.senders.len() >= limits::SENDERS && !self.senders.contains_key(&life) {
            let silent = self.senders.iter().min_by_key(|(_, window)| window.noted).map(|(life, _)| *life);
            silent.and_then(|life| self.senders.remove(&life));
        }
        let window = self.senders.entry(life).or_insert(Window { highest: number, taken: 0, noted: 0 });
        window.noted = self.noted;
        window.take(number)
    }
}

impl Window {
    fn take(&mut self, number: u64) -> Seen {
        if let Some(ahead) = number.checked_sub(self.highest).filter(|ahead| *ahead > 0) {
            self.taken = if ahead < WINDOW { self.taken << ahead } else { 0 };
            self.highest = number;
        }
        let below = self.highest - number;
        if below >= WINDOW || self.taken & (1 << below) != 0 {
            return Seen::Before;
        }
        self.taken |= 1 << below;
        Seen::New
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn each_number_is_taken_once_in_whatever_order_they_come() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut memory, mut taken) = (Memory::default(), BTreeSet::new());
        let mut newest = 1_000_u64;
        for _ in 0..20_000 {
            newest += rng.random_range(0..3);
            let number = newest - rng.random_range(0..WINDOW);
            assert_eq!(memory.note([1; 16], number) == Seen::New, taken.insert(number), "{number}");
        }
    }

    #[test]
    fn what_is_too_old_to_tell_is_refused() {
        let mut memory = Memory::default();
        assert_eq!(memory.note([1; 16], 500), Seen::New);
        assert_eq!(memory.note([1; 16], 500 - WINDOW), Seen::Before);
        assert_eq!(memory.note([1; 16], 501 - WINDOW), Seen::New);
        assert_eq!(memory.note([1; 16], u64::MAX), Seen::New, "a jump is no overflow");
        assert_eq!(memory.note([1; 16], 501), Seen::Before);
    }

    #[test]
    fn lives_do_not_disturb_each_other_and_the_silent_one_is_forgotten_first() {
        let mut memory = Memory::default();
        let life = |n: usize| {
            let mut life = [0; 16];
            life[..8].copy_from_slice(&n.to_be_bytes());
            life
        };
        for n in 0..limits::SENDERS {
            assert_eq!(memory.note(life(n), 1), Seen::New);
        }
        assert_eq!(memory.note(life(0), 2), Seen::New, "it is not silent");
        for n in 0..limits::SENDERS - 1 {
            memory.note(life(limits::SENDERS + n), 1);
        }
        assert_eq!(memory.senders.len(), limits::SENDERS);
        assert_eq!(memory.note(life(0), 2), Seen::Before, "it is still known");
    }
}
