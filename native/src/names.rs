//! Interning: each distinct name of a shard is kept once, and rows hold its 32-bit id.
//!
//! Ids count from 0 in the order of arrival and mean something in one process only: nothing durable
//! has them. Nothing is copied as names are added, and none is forgotten.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::hashing::hash_name;
use crate::index::Index;

const CHUNK_BYTES: usize = 1 << 20;
const ENTRIES: usize = 1 << 16;

/// The first 8 bytes of a name as a number that sorts as they do, zeros behind a shorter one.
///
/// No name has a zero byte, so that two equal ones which end in a zero are of equal names.
#[inline]
pub fn prefix_of(name: &[u8]) -> u64 {
    match name.first_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes[..name.len()].copy_from_slice(name);
            u64::from_be_bytes(bytes)
        }
    }
}

/// Where a name's bytes are, and its prefix, which decides most comparisons without a look at them.
#[derive(Clone, Copy)]
struct Entry {
    prefix: u64,
    chunk: u32,
    /// Offset in the chunk · 512 + length.
    place: u32,
}

const _: () = assert!(CHUNK_BYTES * 512 <= 1 << 32);

/// The names of one shard.
pub struct NameSet {
    /// Tells this set from every other of the process.
    pub serial: u64,
    hash_keys: RandomState,
    index: Index,
    entries: Vec<Vec<Entry>>,
    chunks: Vec<Vec<u8>>,
    count: usize,
    bytes: u64,
}

impl Default for NameSet {
    fn default() -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        NameSet {
            serial: SERIAL.fetch_add(1, Atomic::Relaxed),
            hash_keys: RandomState::default(),
            index: Index::default(),
            entries: Vec::new(),
            chunks: Vec::new(),
            count: 0,
            bytes: 0,
        }
    }
}

impl NameSet {
    /// How many names there are; their ids are 0 … count - 1.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The sum of their lengths.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline]
    fn entry(&self, id: u32) -> Entry {
        self.entries[id as usize / ENTRIES][id as usize % ENTRIES]
    }

    /// Give a name, UTF-8.
    #[inline]
    pub fn get(&self, id: u32) -> &[u8] {
        let Entry { chunk, place, .. } = self.entry(id);
        &self.chunks[chunk as usize][place as usize / 512..][..place as usize % 512]
    }

    #[inline]
    pub fn prefix(&self, id: u32) -> u64 {
        self.entry(id).prefix
    }

    /// Give a name's id.
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        self.index.find(self.hash(name), |id| self.get(id) == name)
    }

    /// Give a name's id, the next one if it is new; 1 to 256 bytes.
    pub fn intern(&mut self, name: &[u8]) -> u32 {
        let hash = self.hash(name);
        if let Some(id) = self.index.find(hash, |id| self.get(id) == name) {
            return id;
        }
        assert!(self.count < 1 << 31, "more names than ids");
        let id = self.count as u32;
        self.index.insert(hash, id);
        self.push(name);
        id
    }

    fn hash(&self, name: &[u8]) -> u32 {
        (hash_name(&self.hash_keys, name) >> 32) as u32
    }

    fn push(&mut self, name: &[u8]) {
        if self
            .chunks
            .last()
            .is_none_or(|chunk| chunk.len() + name.len() > CHUNK_BYTES)
        {
            self.chunks.push(Vec::with_capacity(CHUNK_BYTES));
        }
        if self.count.is_multiple_of(ENTRIES) {
            self.entries.push(Vec::new());
        }
        let at = self.chunks.len() - 1;
        let chunk = &mut self.chunks[at];
        let place = chunk.len() * 512 + name.len();
        chunk.extend_from_slice(name);
        self.entries[self.count / ENTRIES].push(Entry {
            prefix: prefix_of(name),
            chunk: at as u32,
            place: place as u32,
        });
        self.count += 1;
        self.bytes += name.len() as u64;
    }

    /// Compare two names by their bytes.
    #[inline]
    pub fn compare(&self, one: u32, other: u32) -> Ordering {
        if one == other {
            return Ordering::Equal;
        }
        let (a, b) = (self.prefix(one), self.prefix(other));
        a.cmp(&b).then_with(|| self.get(one).cmp(self.get(other)))
    }
}

/// Numbers ids from 0 in the order in which they first come; kept from use to use.
#[derive(Default)]
pub struct Numbering {
    /// id → its number + 1, for ids below `DENSE_MAX`.
    dense: Vec<u32>,
    sparse: HashMap<u32, u32, RandomState>,
    ids: Vec<u32>,
}

/// 4 MiB of numbers at most.
const DENSE_MAX: usize = 1 << 20;

impl Numbering {
    /// Start anew, for ids below `bound`.
    pub fn reset(&mut self, bound: usize) {
        for id in self.ids.drain(..) {
            if let Some(number) = self.dense.get_mut(id as usize) {
                *number = 0;
            }
        }
        self.sparse.clear();
        let dense = bound.min(DENSE_MAX);
        if self.dense.len() < dense {
            self.dense.resize(dense.next_power_of_two(), 0);
        }
    }

    #[inline]
    pub fn number(&mut self, id: u32) -> u32 {
        let next = self.ids.len() as u32;
        if let Some(number) = self.dense.get_mut(id as usize) {
            if *number != 0 {
                return *number - 1;
            }
            *number = next + 1;
        } else {
            let number = *self.sparse.entry(id).or_insert(next);
            if number != next {
                return number;
            }
        }
        self.ids.push(id);
        next
    }

    /// The ids, by ascending number.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_id_and_its_bytes() {
        let mut names = NameSet::default();
        let texts: Vec<String> = (0..70_000)
            .map(|number| format!("{:>1$}", number, 1 + number % 256))
            .collect();
        let ids: Vec<u32> = texts.iter().map(|t| names.intern(t.as_bytes())).collect();
        for (text, &id) in texts.iter().zip(&ids) {
            assert_eq!(names.get(id), text.as_bytes());
            assert_eq!(names.find(text.as_bytes()), Some(id));
            assert_eq!(names.intern(text.as_bytes()), id);
        }
        let distinct: std::collections::HashSet<&String> = texts.iter().collect();
        assert_eq!(names.count(), distinct.len());
        let bytes: usize = distinct.iter().map(|text| text.len()).sum();
        assert_eq!(names.bytes(), bytes as u64);
        assert_eq!(names.find(b"?"), None);
    }

    #[test]
    fn names_compare_as_their_bytes_do() {
        let mut names = NameSet::default();
        let texts = [
            "a",
            "ab",
            "abcdefgh",
            "abcdefghi",
            "abcdefgi",
            "é",
            "\u{10000}",
            "z",
        ];
        let ids = texts.map(|text| names.intern(text.as_bytes()));
        for (one, &id) in texts.iter().zip(&ids) {
            for (other, &other_id) in texts.iter().zip(&ids) {
                let expected = one.as_bytes().cmp(other.as_bytes());
                assert_eq!(names.compare(id, other_id), expected);
            }
        }
    }

    #[test]
    fn a_numbering_starts_anew() {
        let mut numbering = Numbering::default();
        let far = DENSE_MAX as u32 + 5;
        for bound in [10, far as usize + 1, 10] {
            numbering.reset(bound);
            let ids = [7, 3, far, 7, far];
            let numbers = ids.map(|id| numbering.number(id));
            assert_eq!(numbers, [0, 1, 2, 0, 2]);
            assert_eq!(numbering.ids(), [7, 3, far]);
        }
    }
}
