//! From the hash of a key to its number, by extendible hashing.
//!
//! The keys lie elsewhere, in an array that is indexed by the numbers; here is only where to look.
//! A directory of the hash's upper bits leads to partitions of at most `SLOTS_MAX` slots, each an
//! open-addressed table with linear probing by the lower bits. A full partition grows or splits
//! alone, at the cost of its own slots and without a look at any key: so no insertion takes long,
//! however many keys there are.
//!
//! Source: R. Fagin et al., Extendible Hashing, ACM TODS 4 (1979).

/// 256 KiB: a split touches that much and two new ones, some 0.1 ms.
const SLOTS_MAX: usize = 1 << 15;
const SLOTS_MIN: usize = 1 << 4;
/// The bits that are left for the directory: positions in a partition never use them.
const DEPTH_MAX: u32 = 32 - SLOTS_MAX.trailing_zeros();

/// Upper half: the hash. Lower half: the number + 1; 0 is an empty slot.
type Slot = u64;

struct Partition {
    slots: Box<[Slot]>,
    used: usize,
    /// How many of the hash's upper bits all entries share.
    depth: u32,
}

impl Partition {
    fn new(slots: usize, depth: u32) -> Partition {
        Partition {
            slots: vec![0; slots].into_boxed_slice(),
            used: 0,
            depth,
        }
    }

    fn is_full(&self) -> bool {
        self.used >= self.slots.len() / 4 * 3
    }

    /// Put in what is not there yet; there must be room.
    fn put(&mut self, slot: Slot) {
        let mask = self.slots.len() - 1;
        let mut place = (slot >> 32) as usize & mask;
        while self.slots[place] != 0 {
            place = (place + 1) & mask;
        }
        self.slots[place] = slot;
        self.used += 1;
    }

    fn take_slots(&mut self) -> impl Iterator<Item = Slot> + use<> {
        let slots = std::mem::take(&mut self.slots);
        slots.into_iter().filter(|&slot| slot != 0)
    }
}

/// See the module's head. Numbers are 0 … 2^32 - 2.
pub struct Index {
    partitions: Vec<Partition>,
    /// The hash's upper `depth` bits → its partition.
    directory: Vec<u32>,
    depth: u32,
}

impl Default for Index {
    fn default() -> Self {
        Index {
            partitions: vec![Partition::new(SLOTS_MIN, 0)],
            directory: vec![0],
            depth: 0,
        }
    }
}

impl Index {
    /// Find the number of a key.
    ///
    /// `hash`: of the key, of which all bits are used. `is_key`: whether a number is that of the key.
    #[inline]
    pub fn find(&self, hash: u32, mut is_key: impl FnMut(u32) -> bool) -> Option<u32> {
        let slots = &self.partitions[self.partition_of(hash)].slots;
        let mask = slots.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let slot = slots[place & mask];
            if slot == 0 {
                return None;
            }
            if (slot >> 32) as u32 == hash && is_key(slot as u32 - 1) {
                return Some(slot as u32 - 1);
            }
            place += 1;
        }
    }

    /// Read where a key's search starts: so that the search that follows finds it in a near cache.
    #[inline]
    pub fn touch(&self, hash: u32) -> u64 {
        let slots = &self.partitions[self.partition_of(hash)].slots;
        slots[hash as usize & (slots.len() - 1)]
    }

    /// Find the number of a key; if there is none, note `number` for it and give None.
    #[inline]
    pub fn find_or_insert(
        &mut self,
        hash: u32,
        number: u32,
        is_key: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let found = self.find(hash, is_key);
        if found.is_none() {
            self.insert(hash, number);
        }
        found
    }

    /// Note the number of a key that is not there yet.
    pub fn insert(&mut self, hash: u32, number: u32) {
        let mut at = self.partition_of(hash);
        while self.partitions[at].is_full() {
            self.make_room(at);
            at = self.partition_of(hash);
        }
        self.partitions[at].put(u64::from(hash) << 32 | u64::from(number + 1));
    }

    #[inline]
    fn partition_of(&self, hash: u32) -> usize {
        self.directory[(u64::from(hash) >> (32 - self.depth)) as usize] as usize
    }

    fn make_room(&mut self, at: usize) {
        let partition = &mut self.partitions[at];
        if partition.slots.len() < SLOTS_MAX || partition.depth == DEPTH_MAX {
            let mut grown = Partition::new(partition.slots.len() * 2, partition.depth);
            partition.take_slots().for_each(|slot| grown.put(slot));
            self.partitions[at] = grown;
        } else {
            self.split(at);
        }
    }

    fn split(&mut self, at: usize) {
        let depth = self.partitions[at].depth + 1;
        if depth > self.depth {
            self.directory = self.directory.iter().flat_map(|&at| [at, at]).collect();
            self.depth = depth;
        }
        let mut halves = [depth; 2].map(|depth| Partition::new(SLOTS_MAX, depth));
        for slot in self.partitions[at].take_slots() {
            halves[(slot >> (64 - depth)) as usize & 1].put(slot);
        }
        let [lower, upper] = halves;
        let new = self.partitions.len() as u32;
        self.partitions[at] = lower;
        self.partitions.push(upper);
        let upper_bit = 1 << (self.depth - depth);
        for (bits, entry) in self.directory.iter_mut().enumerate() {
            if *entry == at as u32 && bits & upper_bit != 0 {
                *entry = new;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scramble(number: u32) -> u32 {
        (u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
    }

    #[test]
    fn every_key_is_found_again_however_often_partitions_split() {
        let mut index = Index::default();
        let count = 300_000;
        for number in 0..count {
            let is_key = |other| other == number;
            assert_eq!(index.find_or_insert(scramble(number), number, is_key), None);
        }
        assert!(index.partitions.len() > 8);
        for number in 0..count {
            let found = index.find(scramble(number), |other| other == number);
            assert_eq!(found, Some(number));
        }
        assert_eq!(index.find(scramble(count), |other| other == count), None);
    }

    #[test]
    fn keys_of_equal_hash_are_told_apart() {
        let mut index = Index::default();
        for number in 0..1_000 {
            assert_eq!(
                index.find_or_insert(7, number, |other| other == number),
                None
            );
        }
        assert_eq!(index.find(7, |other| other == 500), Some(500));
        assert_eq!(index.find_or_insert(7, 1_000, |other| other == 3), Some(3));
    }
}
