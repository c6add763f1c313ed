//! Sorts rows of one block by their keys, with integers in place of the names.

use crate::frame::{DEST, SRC, VPC};
use crate::names::{NameSet, Numbering, prefix_of};
use crate::rows::RowIds;

/// What rows are sorted by behind the hour, in this order.
pub const SORTED_BY: [usize; 3] = [VPC, SRC, DEST];
const RADIX_BITS: u32 = 11;
/// Below, comparing is faster than counting digits.
const RADIX_ROWS_MIN: usize = 1 << 10;

/// Sort places of a block by their rows' keys, of which no two are equal.
///
/// The names of each column are ranked first, so that rows are sorted by one integer each.
pub fn sort_places(places: &mut [u16], ids: &[RowIds], names: &NameSet, numbering: &mut Numbering) {
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

/// Tell for each of some distinct names how many of the others are before it.
fn rank_names(ids: &[u32], names: &NameSet) -> Vec<u32> {
    let mut order: Vec<(u64, u32)> = ids.iter().map(|&id| names.prefix(id)).zip(0..).collect();
    sort_names(&mut order, 0, &|number| names.get(ids[number as usize]));
    let mut ranks = vec![0; ids.len()];
    for ((_, number), rank) in order.into_iter().zip(0..) {
        ranks[number as usize] = rank;
    }
    ranks
}

/// Sort the numbers of distinct names that are equal before `depth`, each beside its 8 bytes there.
///
/// Names that share a long beginning are compared 8 bytes at a time, all by the same 8.
fn sort_names<'a>(order: &mut [(u64, u32)], depth: usize, name: &impl Fn(u32) -> &'a [u8]) {
    order.sort_unstable();
    for equal in order.chunk_by_mut(|one, other| one.0 == other.0) {
        if equal.len() > 1 {
            let depth = depth + 8;
            for (bytes, number) in equal.iter_mut() {
                *bytes = prefix_of(&name(*number)[depth..]);
            }
            sort_names(equal, depth, name);
        }
    }
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

    #[test]
    fn names_are_ranked_by_their_bytes_however_long_they_are_alike() {
        let mut names = NameSet::default();
        let mut texts: Vec<String> = (0..2_000)
            .map(|number| {
                "abcdefgh".repeat(number % 5) + &"i".repeat(number % 19) + &number.to_string()
            })
            .collect();
        texts.extend((1..=256).map(|size| "z".repeat(size)));
        let ids: Vec<u32> = texts
            .iter()
            .map(|text| names.intern(text.as_bytes()))
            .collect();
        let ranks = rank_names(&ids, &names);
        let mut by_rank = vec![""; texts.len()];
        for (text, rank) in texts.iter().zip(ranks) {
            by_rank[rank as usize] = text;
        }
        assert!(by_rank.is_sorted());
        assert_eq!(by_rank.len(), names.count());
    }
}
