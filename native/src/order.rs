//! The rows of a table in key order, kept up as rows are added.
//!
//! Runs of row numbers, each sorted and each within one block of rows; a walk merges them from any
//! key on. Rows are sorted when an order is asked for, with the rows of the same block that were
//! sorted before if those are not many more. Of blocks that are full at most `WAITING_MAX` wait for
//! that, so that no question has to sort a large table: rows that are added pay for it. A row's key
//! never changes, so that what is sorted stays sorted.

use std::cmp::Ordering;

use crate::filter::Filter;
use crate::frame::{DEST, SRC, VPC};
use crate::names::{NameSet, Numbering, prefix_of};
use crate::rows::{BLOCK_ROWS, RowIds, Rows};
use crate::sort::{SORTED_BY, sort_places};
use crate::tournament::Tournament;

const WAITING_MAX: usize = 1;

/// How many rows of a run are looked at one by one before all of its block are.
const PATIENCE: usize = 256;

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
        while let Some(run) = self
            .runs
            .pop_if(|run| run.block == block && (is_full || run.places.len() < 2 * places.len()))
        {
            places.extend_from_slice(&run.places);
        }
        sort_places(&mut places, rows.block_ids(block), names, numbering);
        let places = places.into_boxed_slice();
        self.runs.push(Run { block, places });
        self.sorted = end;
    }

    /// Give the rows in key order, behind a key if one is given, those that pass a filter.
    pub fn walk<'a>(
        &'a self,
        rows: &'a Rows,
        names: &'a NameSet,
        after: Option<&KeyNames>,
        filter: Option<&'a Filter>,
    ) -> Walk<'a> {
        let bound = after.map(|key| Bound::new(names, key, [true; 3]));
        let mut heads = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let ids = rows.block_ids(run.block);
            let start = bound.as_ref().map_or(0, |bound| {
                run.places
                    .partition_point(|&place| bound.order_of(&ids[usize::from(place)]).is_le())
            });
            let mut head = Head {
                ids,
                block: run.block,
                rest: &run.places[start..],
                passing: None,
                next: None,
            };
            head.advance(names, filter);
            if head.next.is_some() {
                heads.push(head);
            }
        }
        let is_before = |one, other| is_before(names, &heads, one, other);
        Walk {
            tournament: (!heads.is_empty()).then(|| Tournament::new(heads.len(), is_before)),
            names,
            heads,
            filter,
        }
    }
}

/// A row on a walk; the prefixes of its names decide most comparisons.
struct Next {
    ids: RowIds,
    prefixes: [u64; 3],
    row: u32,
}

/// A run on a walk.
struct Head<'a> {
    ids: &'a [RowIds],
    block: usize,
    rest: &'a [u16],
    /// A bit for each row of the block, made when many in turn did not pass.
    passing: Option<Vec<u64>>,
    /// The next row that passes, None behind the last.
    next: Option<Next>,
}

impl Head<'_> {
    #[inline]
    fn advance(&mut self, names: &NameSet, filter: Option<&Filter>) {
        let at = match filter {
            None => 0,
            Some(filter) => self.find_passing(filter),
        };
        self.next = self.rest.get(at).map(|&place| {
            let ids = self.ids[usize::from(place)];
            Next {
                ids,
                prefixes: ids.map(|id| names.prefix(id)),
                row: (self.block * BLOCK_ROWS + usize::from(place)) as u32,
            }
        });
        self.rest = self.rest.get(at + 1..).unwrap_or(&[]);
    }

    /// Tell how many rows do not pass before one that does.
    fn find_passing(&mut self, filter: &Filter) -> usize {
        let mut skipped = 0;
        if self.passing.is_none() {
            let tried = &self.rest[..self.rest.len().min(PATIENCE)];
            let passes = |&place: &u16| filter.passes(&self.ids[usize::from(place)]);
            if let Some(at) = tried.iter().position(passes) {
                return at;
            }
            skipped = tried.len();
        }
        let passing = self.passing.get_or_insert_with(|| filter.mark(self.ids));
        let passes = |&place: &u16| passing[usize::from(place) / 64] >> (place % 64) & 1 == 1;
        let rest = &self.rest[skipped..];
        skipped + rest.iter().position(passes).unwrap_or(rest.len())
    }
}

#[inline]
fn is_before(names: &NameSet, heads: &[Head], one: usize, other: usize) -> bool {
    let (Some(one), Some(other)) = (&heads[one].next, &heads[other].next) else {
        return heads[one].next.is_some();
    };
    for column in SORTED_BY {
        if one.ids[column] != other.ids[column] {
            let order = one.prefixes[column].cmp(&other.prefixes[column]);
            return order
                .then_with(|| names.compare(one.ids[column], other.ids[column]))
                .is_lt();
        }
    }
    false
}

/// Row numbers in key order.
pub struct Walk<'a> {
    names: &'a NameSet,
    heads: Vec<Head<'a>>,
    filter: Option<&'a Filter>,
    /// Of the heads, if there are any.
    tournament: Option<Tournament>,
}

impl Iterator for Walk<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        let Walk {
            names,
            heads,
            filter,
            tournament,
        } = self;
        let tournament = tournament.as_mut()?;
        let head = &mut heads[tournament.winner()];
        let row = head.next.as_ref()?.row;
        head.advance(names, *filter);
        tournament.replay(|one, other| is_before(names, heads, one, other));
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Allowed;

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 33) % bound
        }
    }

    fn key_of(names: &NameSet, ids: &RowIds) -> [Vec<u8>; 3] {
        SORTED_BY.map(|column| names.get(ids[column]).to_vec())
    }

    fn check(order: &mut RowOrder, rows: &Rows, names: &NameSet, numbering: &mut Numbering) {
        order.catch_up(rows, names, numbering);
        let walked: Vec<u32> = order.walk(rows, names, None, None).collect();
        let mut expected: Vec<u32> = (0..rows.len() as u32).collect();
        expected.sort_by_cached_key(|&row| key_of(names, rows.ids(row)));
        assert!(walked == expected);
        let middle = rows.ids(expected[expected.len() / 2]);
        let after = middle.map(|id| names.get(id).to_vec());
        for share in [2, 40, 3_000] {
            let some = (0..names.count() as u32).filter(|id| id % share == 1);
            let some = Allowed::these(some.collect());
            let filter = Filter([some, Allowed::All, Allowed::All]);
            let behind = order.walk(rows, names, Some(&after), Some(&filter));
            let expected = expected[expected.len() / 2 + 1..].iter().copied();
            assert!(behind.eq(expected.filter(|&row| filter.passes(rows.ids(row)))));
        }
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
