//! The rows of a table in key order, kept up as rows are added.
//!
//! Runs of row numbers, each sorted and each within one block of rows; a walk merges them from any
//! key on. Rows are sorted when an order is asked for, with the rows of the same block that were
//! sorted before if those are not many more. Of blocks that are full at most `WAITING_MAX` wait for
//! that, so that no question has to sort a large table: rows that are added pay for it. A row's key
//! never changes, so that what is sorted stays sorted.

use std::cmp::Ordering;

use crate::frame::{DEST, SRC, VPC};
use crate::names::{NameSet, Numbering, prefix_of};
use crate::rows::{BLOCK_ROWS, RowIds, Rows};

/// What rows are sorted by, in this order.
const SORTED_BY: [usize; 3] = [VPC, SRC, DEST];
const WAITING_MAX: usize = 3;
const RADIX_BITS: u32 = 11;
/// Below, comparing is faster than counting digits.
const RADIX_ROWS_MIN: usize = 1 << 10;

/// The names of a key that a walk starts behind, in the order of `RowIds`.
pub type KeyNames = [Vec<u8>; 3];

/// Compare the keys of two rows.
#[inline]
pub fn compare_ids(names: &NameSet, one: &RowIds, other: &RowIds) -> Ordering {
    for column in SORTED_BY {
        let order = names.compare(one[column], other[column]);
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// A key to compare rows with, by the columns that are kept.
pub struct Bound<'a> {
    names: &'a NameSet,
    key: &'a KeyNames,
    kept: [bool; 3],
    prefixes: [u64; 3],
}

impl<'a> Bound<'a> {
    pub fn new(names: &'a NameSet, key: &'a KeyNames, kept: [bool; 3]) -> Self {
        let prefixes = [SRC, DEST, VPC].map(|column| prefix_of(&key[column]));
        Bound {
            names,
            key,
            kept,
            prefixes,
        }
    }

    /// Compare a row with the key.
    pub fn order_of(&self, ids: &RowIds) -> Ordering {
        for column in SORTED_BY.into_iter().filter(|&column| self.kept[column]) {
            let id = ids[column];
            let order = self.names.prefix(id).cmp(&self.prefixes[column]);
            let order = order.then_with(|| self.names.get(id).cmp(&self.key[column]));
            if order != Ordering::Equal {
                return order;
            }
        }
        Ordering::Equal
    }
}

struct Run {
    block: usize,
    /// Places in the block.
    places: Box<[u16]>,
}

/// See the module's head.
#[derive(Default)]
pub struct RowOrder {
    /// By ascending block.
    runs: Vec<Run>,
    /// The rows before this one are in the runs.
    sorted: usize,
}

impl RowOrder {
    /// Sort full blocks until few enough wait; to be called when rows were added.
    pub fn keep_up(&mut self, rows: &Rows, names: &NameSet, numbering: &mut Numbering) {
        while rows.len() / BLOCK_ROWS > self.sorted / BLOCK_ROWS + WAITING_MAX {
            self.sort_more(rows, names, numbering);
        }
    }

    /// Sort all rows there are.
    pub fn catch_up(&mut self, rows: &Rows, names: &NameSet, numbering: &mut Numbering) {
        while self.sorted < rows.len() {
            self.sort_more(rows, names, numbering);
        }
    }

    fn sort_more(&mut self, rows: &Rows, names: &NameSet, numbering: &mut Numbering) {
        let block = self.sorted / BLOCK_ROWS;
        let end = rows.len().min((block + 1) * BLOCK_ROWS);
        let is_full = end == (block + 1) * BLOCK_ROWS;
        let in_block = |row: usize| row - block * BLOCK_ROWS;
        let new = in_block(self.sorted)..in_block(end - 1) + 1;
        let mut places: Vec<u16> = new.map(|place| place as u16).collect();
        while let Some(run) = self.runs.pop_if(|run| {
            run.block == block && (is_full || run.places.len() < 2 * places.len())
        }) {
            places.extend_from_slice(&run.places);
        }
        sort_places(&mut places, rows.block_ids(block), names, numbering);
        let places = places.into_boxed_slice();
        self.runs.push(Run { block, places });
        self.sorted = end;
    }

    /// Give the rows in key order, behind a key if one is given, those that pass.
    pub fn walk<'a, F: Fn(&RowIds) -> bool>(
        &'a self,
        rows: &'a Rows,
        names: &'a NameSet,
        after: Option<&KeyNames>,
        passes: F,
    ) -> Walk<'a, F> {
        let mut walk = Walk {
            names,
            heads: Vec::with_capacity(self.runs.len()),
            passes,
        };
        for run in &self.runs {
            let ids = rows.block_ids(run.block);
            let start = after.map_or(0, |key| {
                let bound = Bound::new(names, key, [true; 3]);
                run.places
                    .partition_point(|&place| bound.order_of(&ids[usize::from(place)]).is_le())
            });
            let mut head = Head {
                ids,
                block: run.block,
                rest: &run.places[start..],
                key: [0; 3],
                row: 0,
            };
            if head.advance(&walk.passes) {
                walk.heads.push(head);
            }
        }
        for at in (0..walk.heads.len() / 2).rev() {
            walk.sift_down(at);
        }
        walk
    }
}

/// A run on a walk, at its next row that passes.
struct Head<'a> {
    ids: &'a [RowIds],
    block: usize,
    rest: &'a [u16],
    key: RowIds,
    row: u32,
}

impl Head<'_> {
    #[inline]
    fn advance(&mut self, passes: impl Fn(&RowIds) -> bool) -> bool {
        while let Some((&place, rest)) = self.rest.split_first() {
            self.rest = rest;
            let ids = &self.ids[usize::from(place)];
            if passes(ids) {
                self.key = *ids;
                self.row = (self.block * BLOCK_ROWS + usize::from(place)) as u32;
                return true;
            }
        }
        false
    }
}

/// Row numbers in key order.
pub struct Walk<'a, F> {
    names: &'a NameSet,
    /// A heap: none is behind its children, 2 · i + 1 and 2 · i + 2.
    heads: Vec<Head<'a>>,
    passes: F,
}

impl<F: Fn(&RowIds) -> bool> Walk<'_, F> {
    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut child = 2 * at + 1;
            if child >= self.heads.len() {
                return;
            }
            if child + 1 < self.heads.len() && self.is_before(child + 1, child) {
                child += 1;
            }
            if !self.is_before(child, at) {
                return;
            }
            self.heads.swap(child, at);
            at = child;
        }
    }

    #[inline]
    fn is_before(&self, one: usize, other: usize) -> bool {
        compare_ids(self.names, &self.heads[one].key, &self.heads[other].key).is_lt()
    }
}

impl<F: Fn(&RowIds) -> bool> Iterator for Walk<'_, F> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let head = self.heads.first_mut()?;
        let row = head.row;
        if !head.advance(&self.passes) {
            self.heads.swap_remove(0);
        }
        self.sift_down(0);
        Some(row)
    }
}

/// Sort places of a block by their rows' keys, of which no two are equal.
///
/// The names of each column are ranked first, so that rows are sorted by one integer each.
fn sort_places(
    places: &mut [u16],
    ids: &[RowIds],
    names: &NameSet,
    numbering: &mut Numbering,
) {
    let mut keys = vec![0_u64; places.len()];
    let mut bits = 0;
    let mut numbers = Vec::with_capacity(places.len());
    for column in SORTED_BY {
        numbers.clear();
        numbering.reset(names.count());
        let column_ids = places.iter().map(|&place| ids[usize::from(place)][column]);
        numbers.extend(column_ids.map(|id| numbering.number(id)));
        let ranks = rank_names(numbering.ids(), names);
        let rank_bits = usize::BITS - (ranks.len() - 1).leading_zeros();
        for (key, &number) in keys.iter_mut().zip(&numbers) {
            *key = *key << rank_bits | u64::from(ranks[number as usize]);
        }
        bits += rank_bits;
    }
    // At most 65,536 names a column: 3 · 16 bits and 16 for the place.
    for (key, &place) in keys.iter_mut().zip(places.iter()) {
        *key = *key << 16 | u64::from(place);
    }
    if keys.len() < RADIX_ROWS_MIN {
        keys.sort_unstable();
    } else {
        radix_sort(&mut keys, 16, 16 + bits);
    }
    for (place, key) in places.iter_mut().zip(keys) {
        *place = key as u16;
    }
}

/// Tell for each of some names how many of the others are before it.
fn rank_names(ids: &[u32], names: &NameSet) -> Vec<u32> {
    let mut order: Vec<(u64, u32)> = ids.iter().map(|&id| names.prefix(id)).zip(0..).collect();
    order.sort_unstable_by(|one, other| {
        one.0.cmp(&other.0).then_with(|| {
            let text = |number: u32| names.get(ids[number as usize]);
            text(one.1).cmp(text(other.1))
        })
    });
    let mut ranks = vec![0; ids.len()];
    for ((_, number), rank) in order.into_iter().zip(0..) {
        ranks[number as usize] = rank;
    }
    ranks
}

/// Sort by the bits from `low` to `high`, the least significant digit first.
fn radix_sort(keys: &mut Vec<u64>, low: u32, high: u32) {
    let mut other = vec![0; keys.len()];
    let mut shift = low;
    while shift < high {
        let digit = |key: u64| (key >> shift) as usize & ((1 << RADIX_BITS) - 1);
        let mut starts = [0_u32; 1 << RADIX_BITS];
        keys.iter().for_each(|&key| starts[digit(key)] += 1);
        let mut start = 0;
        for count in &mut starts {
            start += std::mem::replace(count, start);
        }
        for &key in keys.iter() {
            let start = &mut starts[digit(key)];
            other[*start as usize] = key;
            *start += 1;
        }
        std::mem::swap(keys, &mut other);
        shift += RADIX_BITS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % bound
        }
    }

    fn key_of(names: &NameSet, ids: &RowIds) -> [Vec<u8>; 3] {
        SORTED_BY.map(|column| names.get(ids[column]).to_vec())
    }

    fn check(order: &mut RowOrder, rows: &Rows, names: &NameSet, numbering: &mut Numbering) {
        order.catch_up(rows, names, numbering);
        let walked: Vec<u32> = order.walk(rows, names, None, |_| true).collect();
        let mut expected: Vec<u32> = (0..rows.len() as u32).collect();
        expected.sort_by_cached_key(|&row| key_of(names, rows.ids(row)));
        assert!(walked == expected);
        let middle = rows.ids(expected[expected.len() / 2]);
        let after = middle.map(|id| names.get(id).to_vec());
        let odd = |ids: &RowIds| ids[SRC] % 2 == 1;
        let behind = order.walk(rows, names, Some(&after), odd);
        let expected = expected[expected.len() / 2 + 1..].iter().copied();
        assert!(behind.eq(expected.filter(|&row| odd(rows.ids(row)))));
    }

    #[test]
    fn a_walk_gives_all_rows_in_key_order_as_they_come_in_lots() {
        let mut names = NameSet::default();
        let mut numbering = Numbering::default();
        let mut rows = Rows::default();
        let mut order = RowOrder::default();
        let mut random = Random(1);
        let mut seen = std::collections::HashSet::new();
        for lot in [1, 700, 3, 1, 5_000, 40, 70_000, 2, 200_000, 5] {
            for _ in 0..lot {
                let ids = [3_000, 3_000, 7].map(|bound| {
                    let name = format!("a name of app {}", random.below(bound));
                    names.intern(name.as_bytes())
                });
                if seen.insert(ids) {
                    rows.push(ids, 0, 0);
                }
            }
            order.keep_up(&rows, &names, &mut numbering);
            assert!(rows.len() / BLOCK_ROWS <= order.sorted / BLOCK_ROWS + WAITING_MAX);
            check(&mut order, &rows, &names, &mut numbering);
        }
        assert!(order.runs.len() < 12);
    }
}
