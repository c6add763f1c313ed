//! Pages: rows of one table in key order, filtered and grouped, as frames.
//!
//! Rows told apart by all members come from the rows' order, at the cost of the page and of the rows
//! that a filter leaves out. A coarser group is added up over the whole table for each page: simple,
//! and right for the few rows that such an answer has.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::filter::Filter;
use crate::frame::{COUNTER_MAX, DEST, SRC, VPC, encode};
use crate::names::{NameSet, Numbering};
use crate::order::{Bound, KeyNames, RowOrder, compare_ids};
use crate::rows::{RowIds, RowSums, Rows};

/// What rows to give.
pub struct Question {
    pub filter: Filter,
    /// Which of src_app, dest_app and vpc_id rows are told apart by.
    pub kept: [bool; 3],
    /// Rows at or before this key are left out; a name that is not kept is empty.
    pub after: Option<KeyNames>,
    /// At most this many rows.
    pub limit: usize,
}

/// Rows in key order; ids of names that are not kept are `NOT_KEPT`.
#[derive(Default)]
pub struct Found {
    ids: Vec<RowIds>,
    tx: Vec<u64>,
    rx: Vec<u64>,
}

const NOT_KEPT: u32 = u32::MAX;

impl Found {
    fn push(&mut self, ids: RowIds, sums: RowSums) {
        self.ids.push(ids);
        self.tx.push(sums[0]);
        self.rx.push(sums[1]);
    }

    pub fn of_block(ids: &[RowIds], sums: &[RowSums]) -> Found {
        Found {
            ids: ids.to_vec(),
            tx: sums.iter().map(|sums| sums[0]).collect(),
            rx: sums.iter().map(|sums| sums[1]).collect(),
        }
    }

    /// Encode rows of one hour, in their order, with the name columns that are kept.
    pub fn encode(
        &self,
        hour: u32,
        kept: [bool; 3],
        names: &NameSet,
        numbering: &mut Numbering,
    ) -> Vec<u8> {
        numbering.reset(names.count());
        let mut columns: [Vec<u32>; 3] = kept.map(|kept| {
            let rows = if kept { self.ids.len() } else { 0 };
            Vec::with_capacity(rows)
        });
        for ids in &self.ids {
            for column in [SRC, DEST, VPC] {
                if kept[column] {
                    columns[column].push(numbering.number(ids[column]));
                }
            }
        }
        let texts: Vec<&[u8]> = numbering.ids().iter().map(|&id| names.get(id)).collect();
        let groups = [(hour, self.ids.len() as u32)];
        let groups = if self.ids.is_empty() {
            &[]
        } else {
            &groups[..]
        };
        let columns = [SRC, DEST, VPC].map(|column| kept[column].then_some(&columns[column][..]));
        encode(&texts, groups, columns, &self.tx, &self.rx)
    }
}

/// Find rows told apart by all members, and whether the last one is among them.
pub fn find_rows(
    rows: &Rows,
    order: &RowOrder,
    names: &NameSet,
    question: &Question,
) -> (Found, bool) {
    let filter = &question.filter;
    let after = question.after.as_ref();
    if filter.passes_none() {
        return (Found::default(), true);
    }
    let filter = (!filter.passes_all()).then_some(filter);
    take_rows(rows, order.walk(rows, names, after, filter), question.limit)
}

fn take_rows(rows: &Rows, mut walk: impl Iterator<Item = u32>, limit: usize) -> (Found, bool) {
    let numbers: Vec<u32> = walk.by_ref().take(limit).collect();
    let mut found = Found {
        ids: Vec::with_capacity(numbers.len()),
        tx: Vec::with_capacity(numbers.len()),
        rx: Vec::with_capacity(numbers.len()),
    };
    for row in numbers {
        found.push(*rows.ids(row), *rows.sums(row));
    }
    (found, walk.next().is_none())
}

/// Add up rows by the members that are kept; see `find_rows`.
pub fn find_groups(rows: &Rows, names: &NameSet, question: &Question) -> (Found, bool) {
    let mut sums: HashMap<RowIds, RowSums, RandomState> = HashMap::default();
    let kept = question.kept;
    let filter = &question.filter;
    for block in (0..rows.blocks()).filter(|_| !filter.passes_none()) {
        let block = rows.block_ids(block).iter().zip(rows.block_sums(block));
        for (ids, &[tx, rx]) in block.filter(|(ids, _)| filter.passes(ids)) {
            let key = [SRC, DEST, VPC].map(|at| if kept[at] { ids[at] } else { NOT_KEPT });
            let group = sums.entry(key).or_insert([0; 2]);
            // No addend is over COUNTER_MAX, half of what fits.
            *group = [group[0] + tx, group[1] + rx].map(|sum| sum.min(COUNTER_MAX));
        }
    }
    let bound = question.after.as_ref();
    let bound = bound.map(|key| Bound::new(names, key, kept));
    let is_behind = |ids: &RowIds| {
        bound
            .as_ref()
            .is_none_or(|bound| bound.order_of(ids).is_gt())
    };
    let mut groups: Vec<(RowIds, RowSums)> =
        sums.into_iter().filter(|(ids, _)| is_behind(ids)).collect();
    let is_last = groups.len() <= question.limit;
    if !is_last {
        groups.select_nth_unstable_by(question.limit, |a, b| compare_ids(names, &a.0, &b.0));
        groups.truncate(question.limit);
    }
    groups.sort_unstable_by(|a, b| compare_ids(names, &a.0, &b.0));
    let mut found = Found::default();
    groups
        .into_iter()
        .for_each(|(ids, sums)| found.push(ids, sums));
    (found, is_last)
}
