//! The columns of a table: for each row the ids of its names and its two sums.
//!
//! In blocks, so that growth copies nothing but the first block while that is small. Ids lie beside
//! ids and sums beside sums: a flow that finds its row touches one cache line of each.

/// A row's src_app, dest_app and vpc_id, as ids.
pub type RowIds = [u32; 3];
/// A row's bytes_tx and bytes_rx.
pub type RowSums = [u64; 2];

pub const BLOCK_ROWS: usize = 1 << 16;

#[derive(Default)]
struct Block {
    ids: Vec<RowIds>,
    sums: Vec<RowSums>,
}

/// See the module's head. A row's number never changes.
#[derive(Default)]
pub struct Rows {
    blocks: Vec<Block>,
    len: usize,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many blocks there are, the last one partly filled.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    #[inline]
    pub fn ids(&self, row: u32) -> &RowIds {
        &self.blocks[row as usize / BLOCK_ROWS].ids[row as usize % BLOCK_ROWS]
    }

    #[inline]
    pub fn sums(&self, row: u32) -> &RowSums {
        &self.blocks[row as usize / BLOCK_ROWS].sums[row as usize % BLOCK_ROWS]
    }

    #[inline]
    pub fn sums_mut(&mut self, row: u32) -> &mut RowSums {
        &mut self.blocks[row as usize / BLOCK_ROWS].sums[row as usize % BLOCK_ROWS]
    }

    pub fn block_ids(&self, block: usize) -> &[RowIds] {
        &self.blocks[block].ids
    }

    pub fn block_sums(&self, block: usize) -> &[RowSums] {
        &self.blocks[block].sums
    }

    /// Add a row behind the others.
    pub fn push(&mut self, ids: RowIds, tx: u64, rx: u64) {
        if self.len == self.blocks.len() * BLOCK_ROWS {
            // A table that has a full block is likely to fill another; memory that is not touched
            // costs nothing.
            let rows = if self.len == 0 { 0 } else { BLOCK_ROWS };
            self.blocks.push(Block {
                ids: Vec::with_capacity(rows),
                sums: Vec::with_capacity(rows),
            });
        }
        let block = &mut self.blocks[self.len / BLOCK_ROWS];
        block.ids.push(ids);
        block.sums.push([tx, rx]);
        self.len += 1;
    }
}
