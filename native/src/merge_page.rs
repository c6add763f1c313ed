//! A page that waits to be merged, its columns spread out.

use std::cmp::Ordering;

use crate::frame::{DEST, Frame, RX, SRC, TX, VPC};
use crate::names::prefix_of;
use crate::render::{Cells, Group, NO_NAME};
use crate::sort::SORTED_BY;

/// The names in the order of a frame's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub hour: u32,
    pub names: [Vec<u8>; 3],
}

/// See the module's head.
pub struct Page {
    pub frame: Frame,
    /// Of each name, what `prefix_of` gives.
    prefixes: Vec<u64>,
    pub hours: Vec<u32>,
    /// For each row the index of its name, `NO_NAME` where the page has no such column.
    pub columns: [Vec<u32>; 3],
    pub tx: Vec<u64>,
    pub rx: Vec<u64>,
    pub cells: Cells,
    /// The rows before this one were rendered.
    pub start: usize,
}

impl Page {
    pub fn new(frame: Frame, group: Group) -> Page {
        let rows = frame.rows();
        let mut hours = Vec::with_capacity(rows);
        for &(hour, rows) in &frame.groups {
            hours.resize(hours.len() + rows as usize, hour);
        }
        let columns = [SRC, DEST, VPC].map(|column| {
            let mut indexes = Vec::with_capacity(rows);
            frame.column(column, 0..rows).append_u32(&mut indexes);
            indexes.resize(rows, NO_NAME);
            indexes
        });
        let sums = [TX, RX].map(|column| {
            let mut sums = Vec::with_capacity(rows);
            frame.column(column, 0..rows).append_u64(&mut sums);
            sums
        });
        let [tx, rx] = sums;
        Page {
            prefixes: frame.names().map(prefix_of).collect(),
            cells: Cells::new(frame.name_count(), group),
            frame,
            hours,
            columns,
            tx,
            rx,
            start: 0,
        }
    }

    pub fn rows(&self) -> usize {
        self.hours.len()
    }

    #[inline]
    pub fn name(&self, column: usize, row: usize) -> &[u8] {
        match self.columns[column][row] {
            NO_NAME => b"",
            index => self.frame.name(index as usize),
        }
    }

    #[inline]
    pub fn prefix(&self, column: usize, row: usize) -> u64 {
        match self.columns[column][row] {
            NO_NAME => 0,
            index => self.prefixes[index as usize],
        }
    }

    pub fn key(&self, row: usize) -> Key {
        Key {
            hour: self.hours[row],
            names: [SRC, DEST, VPC].map(|column| self.name(column, row).to_vec()),
        }
    }

    /// How many of the rows from `start` on are at or below a key.
    pub fn count_to(&self, bound: &Key) -> usize {
        let mut low = self.start;
        let mut high = self.rows();
        while low < high {
            let middle = low + (high - low) / 2;
            if self.order_to(middle, bound).is_gt() {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low - self.start
    }

    fn order_to(&self, row: usize, key: &Key) -> Ordering {
        let mut order = self.hours[row].cmp(&key.hour);
        for column in SORTED_BY {
            order = order.then_with(|| self.name(column, row).cmp(&key.names[column]));
        }
        order
    }
}
