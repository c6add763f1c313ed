//! The rows of one bucket: key → two sums, in the order in which the keys first came.
//!
//! A row's place never changes, so that a block is the same rows at every checkpoint, each time with
//! newer sums. Rows loaded from a block remember the LSN it was taken at: replay leaves them alone
//! up to there. No call takes time in proportion to the table, but for a filter that leaves out most
//! of its rows, a coarser group, and the first digest.

use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;

use crate::frame::{COUNTER_MAX, Frame, FrameError};
use crate::hashing::row_digest;
use crate::index::Index;
use crate::names::{NameSet, Numbering};
use crate::order::RowOrder;
use crate::paging::{Found, Question, find_groups, find_rows};
use crate::rows::{BLOCK_ROWS, RowIds, RowSums, Rows};
use crate::slice::{FlowColumns, find_names};

/// Random numbers of a table that spread its rows in the index, so that nobody can aim at a place.
struct HashKeys([u64; 2]);

impl Default for HashKeys {
    fn default() -> Self {
        let random = RandomState::new();
        HashKeys([random.hash_one(1), random.hash_one(2)])
    }
}

impl HashKeys {
    /// Source: folded multiplication as in wyhash, https://github.com/wangyi-fudan/wyhash.
    #[inline]
    fn hash(&self, ids: &RowIds) -> u32 {
        let [src, dest, vpc] = ids.map(u64::from);
        let product = u128::from((src | dest << 32) ^ self.0[0]) * u128::from(vpc ^ self.0[1]);
        let folded = (product >> 64) as u64 ^ product as u64;
        (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
    }
}

/// A block's part of the digest; None since a row of it changed.
type BlockDigest = Option<u128>;

/// How many flows look for their rows together; what they touch fits in the nearest cache.
const LOT: usize = 64;

/// A flow's key, and the row that is likely to have it: the first with its hash.
struct Probe {
    ids: RowIds,
    hash: u32,
    row: Option<u32>,
}

/// Totals of a set of rows; bytes saturate at 2^63 - 1.
#[derive(Debug, PartialEq, Eq)]
pub struct Totals {
    pub rows: usize,
    pub tx: u64,
    pub rx: u64,
}

/// See the module's head.
#[derive(Default)]
pub struct RowTable {
    rows: Rows,
    index: Index,
    hash_keys: HashKeys,
    order: RowOrder,
    /// The exact sums over all rows.
    totals: [u128; 2],
    saturations: u64,
    digests: Vec<BlockDigest>,
    /// (stop, LSN): the rows before `stop` and behind the stop before it came from a block of that
    /// LSN, or were applied if it has none.
    loaded: Vec<(u32, Option<u64>)>,
    loaded_lsn_max: Option<u64>,
}

impl RowTable {
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    pub fn blocks(&self) -> usize {
        self.rows.blocks()
    }

    pub fn saturations(&self) -> u64 {
        self.saturations
    }

    pub fn totals(&self) -> Totals {
        let [tx, rx] = self.totals.map(|sum| sum.min(COUNTER_MAX.into()) as u64);
        let rows = self.rows.len();
        Totals { rows, tx, rx }
    }

    /// Add flows to their rows; gives how many rows are new.
    pub fn apply(&mut self, flows: &FlowColumns, lsn: u64) -> usize {
        let before = self.rows.len();
        let is_replay = self.loaded_lsn_max.is_some_and(|max| lsn <= max);
        let mut probes = Vec::with_capacity(flows.len().min(LOT));
        for start in (0..flows.len()).step_by(LOT) {
            self.probe(flows, start, &mut probes);
            for (at, probe) in (start..).zip(&probes) {
                let sums = [flows.tx[at], flows.rx[at]];
                match self.find_or_insert(probe) {
                    None => self.add_row(probe.ids, sums),
                    Some(row) if is_replay && self.has(row, lsn) => {}
                    Some(row) => self.add(row, sums),
                }
            }
        }
        self.rows.len() - before
    }

    /// Say how many rows `apply` would make.
    pub fn count_new(&self, flows: &FlowColumns) -> usize {
        let mut new: Vec<RowIds> = Vec::new();
        let mut probes = Vec::with_capacity(flows.len().min(LOT));
        for start in (0..flows.len()).step_by(LOT) {
            self.probe(flows, start, &mut probes);
            let unknown = probes.iter().filter(|probe| self.find(probe).is_none());
            new.extend(unknown.map(|probe| probe.ids));
        }
        new.sort_unstable();
        new.dedup();
        new.len()
    }

    /// Keep the order near to what there is; to be called when rows were added.
    pub fn keep_up(&mut self, names: &NameSet, numbering: &mut Numbering) {
        self.order.keep_up(&self.rows, names, numbering);
    }

    /// Give rows as a page labelled with `hour`, and whether it holds the last row there is.
    pub fn page(
        &mut self,
        hour: u32,
        question: &Question,
        names: &NameSet,
        numbering: &mut Numbering,
    ) -> (Vec<u8>, bool) {
        let (found, is_last) = if question.kept == [true; 3] {
            self.order.catch_up(&self.rows, names, numbering);
            find_rows(&self.rows, &self.order, names, question)
        } else {
            find_groups(&self.rows, names, question)
        };
        (found.encode(hour, question.kept, names, numbering), is_last)
    }

    /// Give a block as a frame; it must be there.
    pub fn dump(&self, block: usize, names: &NameSet, numbering: &mut Numbering) -> Vec<u8> {
        let found = Found::of_block(self.rows.block_ids(block), self.rows.block_sums(block));
        found.encode(0, [true; 3], names, numbering)
    }

    /// Append a dumped block; an error leaves all as it was.
    pub fn load(
        &mut self,
        block: &Frame,
        lsn: u64,
        names: &mut NameSet,
        flows: &mut FlowColumns,
    ) -> Result<(), FrameError> {
        let rows = block.rows();
        let hours_fit = matches!(block.groups[..], [(0, _)]);
        if !block.header.is_complete() || !hours_fit || rows > BLOCK_ROWS {
            let reason = "a frame, but not a block: it wants all columns, hour 0, 65,536 rows";
            return Err(FrameError(reason.into()));
        }
        flows.fill(block, 0, rows, &find_names(block, names));
        if self.holds_any(flows) || has_equal_rows(flows, &self.hash_keys) {
            let reason = "a block with a row that is there already";
            return Err(FrameError(reason.into()));
        }
        let ids: Vec<u32> = block.names().map(|name| names.intern(name)).collect();
        flows.fill(block, 0, rows, &ids);
        let before = self.rows.len() as u32;
        if self.loaded.last().is_some_and(|&(stop, _)| before > stop) {
            self.loaded.push((before, None)); // rows that were applied in between
        }
        let mut probes = Vec::with_capacity(flows.len().min(LOT));
        for start in (0..flows.len()).step_by(LOT) {
            self.hash(flows, start, &mut probes);
            for (at, probe) in (start..).zip(&probes) {
                self.index.insert(probe.hash, self.rows.len() as u32);
                self.add_row(probe.ids, [flows.tx[at], flows.rx[at]]);
            }
        }
        self.loaded.push((self.rows.len() as u32, Some(lsn)));
        self.loaded_lsn_max = self.loaded_lsn_max.max(Some(lsn));
        Ok(())
    }

    /// See `interface.Table.digest`; of blocks that did not change it is kept.
    pub fn digest(&mut self, names: &NameSet) -> u128 {
        let mut total = 0_u128;
        for block in 0..self.digests.len() {
            let digest = self.digests[block].unwrap_or_else(|| self.block_digest(block, names));
            self.digests[block] = Some(digest);
            total = total.wrapping_add(digest);
        }
        total
    }

    fn block_digest(&self, block: usize, names: &NameSet) -> u128 {
        let mut key = Vec::new();
        let mut total = 0_u128;
        let ids = self.rows.block_ids(block).iter();
        for (ids, &[tx, rx]) in ids.zip(self.rows.block_sums(block)) {
            key.clear();
            for &id in ids {
                let name = names.get(id);
                key.extend_from_slice(&(name.len() as u16).to_le_bytes());
                key.extend_from_slice(name);
            }
            total = total.wrapping_add(row_digest(&key, tx, rx));
        }
        total
    }

    /// Hash the next `LOT` flows or fewer, and read where their searches start.
    ///
    /// All that is read for one of them is read for all before it is needed for any, so that they
    /// wait for memory together and not one after another.
    fn hash(&self, flows: &FlowColumns, start: usize, probes: &mut Vec<Probe>) {
        let end = flows.len().min(start + LOT);
        probes.clear();
        probes.extend((start..end).map(|at| {
            let ids = flows.ids(at);
            let hash = self.hash_keys.hash(&ids);
            let row = None;
            Probe { ids, hash, row }
        }));
        let slots = probes.iter().map(|probe| self.index.touch(probe.hash));
        black_box(slots.fold(0, |all, slot| all ^ slot));
    }

    /// Hash the next `LOT` flows or fewer and look for their rows.
    fn probe(&self, flows: &FlowColumns, start: usize, probes: &mut Vec<Probe>) {
        self.hash(flows, start, probes);
        for probe in &mut *probes {
            probe.row = self.index.find(probe.hash, |_| true);
        }
        let rows = probes.iter().filter_map(|probe| probe.row);
        let touched = rows.map(|row| u64::from(self.rows.ids(row)[0]) ^ self.rows.sums(row)[0]);
        black_box(touched.fold(0, |all, part| all ^ part));
    }

    /// Tell the row of a flow.
    #[inline]
    fn find(&self, probe: &Probe) -> Option<u32> {
        // A row that has the hash is most likely the one; rows that came since have other numbers.
        let is_row = |row: &u32| *self.rows.ids(*row) == probe.ids;
        probe
            .row
            .filter(is_row)
            .or_else(|| self.index.find(probe.hash, |row| is_row(&row)))
    }

    /// Tell the row of a flow, or index the next one for it and give None.
    #[inline]
    fn find_or_insert(&mut self, probe: &Probe) -> Option<u32> {
        let found = self.find(probe);
        if found.is_none() {
            self.index.insert(probe.hash, self.rows.len() as u32);
        }
        found
    }

    #[inline]
    fn add(&mut self, row: u32, more: RowSums) {
        self.digests[row as usize / BLOCK_ROWS] = None;
        let sums = self.rows.sums_mut(row);
        for ((sum, more), total) in sums.iter_mut().zip(more).zip(&mut self.totals) {
            let grown = *sum + more; // neither is over 2^63 - 1
            let kept = grown.min(COUNTER_MAX);
            *total += u128::from(kept - *sum);
            self.saturations += u64::from(grown > COUNTER_MAX);
            *sum = kept;
        }
    }

    #[inline]
    fn add_row(&mut self, ids: RowIds, sums: RowSums) {
        self.rows.push(ids, sums[0], sums[1]);
        for (total, sum) in self.totals.iter_mut().zip(sums) {
            *total += u128::from(sum);
        }
        self.digests.resize(self.rows.blocks(), None);
        if let Some(digest) = self.digests.last_mut() {
            *digest = None;
        }
    }

    /// Tell whether a row was loaded with what log record `lsn` did to it.
    fn has(&self, row: u32, lsn: u64) -> bool {
        let block = self.loaded.partition_point(|&(stop, _)| stop <= row);
        let loaded = self.loaded.get(block).and_then(|&(_, lsn)| lsn);
        loaded.is_some_and(|loaded| loaded >= lsn)
    }

    fn holds_any(&self, flows: &FlowColumns) -> bool {
        let mut probes = Vec::with_capacity(flows.len().min(LOT));
        (0..flows.len()).step_by(LOT).any(|start| {
            self.probe(flows, start, &mut probes);
            probes.iter().any(|probe| self.find(probe).is_some())
        })
    }
}

fn has_equal_rows(flows: &FlowColumns, hash_keys: &HashKeys) -> bool {
    let mut seen = Index::default();
    (0..flows.len()).any(|at| {
        let ids = flows.ids(at);
        let is_equal = |other: u32| flows.ids(other as usize) == ids;
        seen.find_or_insert(hash_keys.hash(&ids), at as u32, is_equal)
            .is_some()
    })
}
