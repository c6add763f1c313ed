//! The names of the bodies that one splitter reads: each distinct one is checked once and has a
//! number.
//!
//! Names of at most 15 bytes, which is nearly all, are held and compared as one 16-byte integer: no
//! name has a zero byte, so that the integer tells the length, too. The table is keyed by random, so
//! that no client can aim at its places. What is kept between bodies is bounded by `trim`.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::frame::{NAME_BYTES_MAX, has_control};
use crate::hashing::{KeyBuffer, hash_name};

/// The longest name that is held as an integer.
pub const SHORT_BYTES_MAX: usize = 15;

/// How many names are kept between bodies; with the longest names some 5 MB.
const KEPT_NAMES_MAX: usize = 16_384;
const SLOTS_MIN: usize = 1_024;

/// One place of the table of short names, inside of one cache line; the lower half of a name is never 0.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Slot {
    low: u64,
    high: u64,
    number: u32,
}

/// One name: its bytes are `low` and `high` when it is short, and in the arena in any case.
#[derive(Clone, Copy)]
struct Name {
    low: u64,
    high: u64,
    start: u32,
    size: u16,
}

/// name → number, from 0 in the order of arrival.
pub struct Interner {
    random: RandomState,
    keys: (u64, u64),
    slots: Vec<Slot>,
    long: HashTable<u32>,
    names: Vec<Name>,
    arena: Vec<u8>,
}

impl Default for Interner {
    fn default() -> Self {
        let random = RandomState::default();
        let key = |number: u64| {
            let mut hasher = random.build_hasher();
            hasher.write_u64(number);
            hasher.finish()
        };
        Interner {
            keys: (key(1), key(2)),
            random,
            slots: vec![Slot::default(); SLOTS_MIN],
            long: HashTable::new(),
            names: Vec::new(),
            arena: Vec::new(),
        }
    }
}

impl Interner {
    /// How many names there are.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// A name by its number, UTF-8.
    pub fn name(&self, number: u32) -> &[u8] {
        let name = &self.names[number as usize];
        &self.arena[name.start as usize..][..usize::from(name.size)]
    }

    /// Forget all names when there are too many; to be called between bodies.
    pub fn trim(&mut self) {
        if self.names.len() > KEPT_NAMES_MAX {
            *self = Interner::default();
        }
    }

    /// Give the number of a name of at most 15 bytes, None when it breaks the rule for names.
    ///
    /// `bytes`: the name without a byte below 0x20, filled up with zeros, little-endian.
    #[inline]
    pub fn short(&mut self, bytes: u128) -> Option<u32> {
        let (low, high) = (bytes as u64, (bytes >> 64) as u64);
        let mut place = self.place_of(low, high);
        loop {
            let slot = &self.slots[place & (self.slots.len() - 1)];
            if slot.low == low && slot.high == high {
                // An empty name is the empty slot, and not allowed.
                return if low == 0 { None } else { Some(slot.number) };
            }
            if slot.low == 0 {
                return self.add_short(low, high);
            }
            place = place.wrapping_add(1);
        }
    }

    /// Give the number of a name of any length, None when it breaks the rule for names.
    pub fn number(&mut self, name: &[u8]) -> Option<u32> {
        if name.iter().any(|&byte| byte < 0x20) {
            return None;
        }
        if name.len() <= SHORT_BYTES_MAX {
            let mut bytes = [0; 16];
            bytes[..name.len()].copy_from_slice(name);
            return self.short(u128::from_le_bytes(bytes));
        }
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        let hash = hash_name(&self.random, name);
        let (names, arena, random) = (&self.names, &self.arena, &self.random);
        let bytes_of = |number: u32| {
            let name = &names[number as usize];
            &arena[name.start as usize..][..usize::from(name.size)]
        };
        if let Some(&number) = self.long.find(hash, |&number| bytes_of(number) == name) {
            return Some(number);
        }
        if has_control(name) {
            return None;
        }
        let number = self.names.len() as u32;
        self.long
            .insert_unique(hash, number, |&number| hash_name(random, bytes_of(number)));
        self.add(0, 0, name);
        Some(number)
    }

    /// Put a name behind its length into `keys` at `offset`, and give the offset behind it.
    #[inline]
    pub fn put_prefixed(&self, number: u32, keys: &mut KeyBuffer, offset: usize) -> usize {
        let name = &self.names[number as usize];
        keys[offset..offset + 2].copy_from_slice(&name.size.to_le_bytes());
        let start = offset + 2;
        let size = usize::from(name.size);
        if name.low != 0 {
            // All 16 bytes at once; what is behind the name is overwritten.
            keys[start..start + 8].copy_from_slice(&name.low.to_le_bytes());
            keys[start + 8..start + 16].copy_from_slice(&name.high.to_le_bytes());
        } else {
            keys[start..start + size].copy_from_slice(self.name(number));
        }
        start + size
    }

    #[inline]
    fn place_of(&self, low: u64, high: u64) -> usize {
        let product = u128::from(low ^ self.keys.0) * u128::from(high ^ self.keys.1);
        (product as u64 ^ (product >> 64) as u64) as usize
    }

    #[cold]
    fn add_short(&mut self, low: u64, high: u64) -> Option<u32> {
        let bytes = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
        let size = bytes.iter().position(|&byte| byte == 0)?;
        if has_control(&bytes[..size]) {
            return None;
        }
        let number = self.names.len() as u32;
        self.add(low, high, &bytes[..size]);
        // Three of four places stay empty: a place that is taken costs a mispredicted branch.
        if 4 * self.names.len() > self.slots.len() {
            self.slots = vec![Slot::default(); 4 * self.slots.len()];
            for number in 0..self.names.len() {
                self.put_slot(number as u32);
            }
        } else {
            self.put_slot(number);
        }
        Some(number)
    }

    fn add(&mut self, low: u64, high: u64, name: &[u8]) {
        self.names.push(Name {
            low,
            high,
            start: self.arena.len() as u32,
            size: name.len() as u16,
        });
        self.arena.extend_from_slice(name);
    }

    fn put_slot(&mut self, number: u32) {
        let Name { low, high, .. } = self.names[number as usize];
        if low == 0 {
            return; // a long name
        }
        let mut place = self.place_of(low, high);
        loop {
            let mask = self.slots.len() - 1;
            let slot = &mut self.slots[place & mask];
            if slot.low == 0 {
                *slot = Slot { low, high, number };
                return;
            }
            place = place.wrapping_add(1);
        }
    }
}
