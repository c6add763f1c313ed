//! split: one body in, one frame out for each shard that any of its flows belongs to.
//!
//! Parses with `scan` or, where a body is not plain, `decode`; whatever is wrong with a body is for
//! the reference to find and to word. Knows nothing of Python.

use crate::decode::{decode_array, decode_lines};
use crate::flows::{Flow, Flows, NotPlain};
use crate::frame;
use crate::hashing::{KEYS_AT_ONCE, Sharder};
use crate::scan::scan;

/// Longer bodies are the reference's: places in what is built from a body are 32-bit numbers.
const BODY_BYTES_MAX: usize = 1 << 30;

/// Larger buffers are given back after the body that wanted them.
const KEPT_FLOWS_MAX: usize = 1 << 17;

/// What becomes of a body.
#[derive(Debug)]
pub enum Outcome {
    /// (shard, frame), by ascending shard, and how many flows they hold.
    Split(Vec<(usize, Vec<u8>)>, usize),
    /// Valid, but of more flows than allowed.
    TooLarge,
    /// Neither parser takes it.
    Refused,
}

/// Splits bodies, one at a time; keeps names and buffers from body to body.
#[derive(Default)]
pub struct Splitter {
    parsed: Flows,
    hours: Hours,
    encoder: Encoder,
    /// For each shard the numbers of its flows.
    rows: Vec<Vec<u32>>,
}

impl Splitter {
    /// Split a body.
    ///
    /// * `lines`: whether it is one object a line, else one array.
    /// * `shard_count`: 1 … 64.
    /// * `seed`: the data directory's.
    pub fn split(
        &mut self,
        body: &[u8],
        lines: bool,
        shard_count: usize,
        seed: u64,
        flows_max: usize,
    ) -> Outcome {
        self.parsed.interner.trim();
        if self.parsed.flows.capacity() > KEPT_FLOWS_MAX {
            let interner = std::mem::take(&mut self.parsed.interner);
            *self = Splitter::default();
            self.parsed.interner = interner;
        }
        if self.parse(body, lines).is_err() {
            return Outcome::Refused;
        }
        let count = self.parsed.flows.len();
        if count > flows_max {
            return Outcome::TooLarge;
        }
        self.hours.rank(&mut self.parsed.flows);
        self.divide(shard_count, seed);
        let frames = self.rows[..shard_count]
            .iter()
            .enumerate()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(shard, rows)| {
                let frame = self.encoder.encode(&self.parsed, rows, &self.hours);
                (shard, frame)
            })
            .collect();
        Outcome::Split(frames, count)
    }

    fn parse(&mut self, body: &[u8], lines: bool) -> Result<(), NotPlain> {
        self.parsed.flows.clear();
        if body.len() > BODY_BYTES_MAX {
            return Err(NotPlain);
        }
        let text = simdutf8::basic::from_utf8(body).map_err(|_| NotPlain)?;
        if scan(body, lines, &mut self.parsed).is_ok() {
            return Ok(());
        }
        self.parsed.flows.clear();
        if lines {
            decode_lines(text, &mut self.parsed)
        } else {
            decode_array(text, &mut self.parsed)
        }
    }

    /// Sort the numbers of all flows by shard.
    fn divide(&mut self, shard_count: usize, seed: u64) {
        let Flows { flows, interner } = &self.parsed;
        if self.rows.len() < shard_count {
            self.rows.resize(shard_count, Vec::new());
        }
        self.rows.iter_mut().for_each(Vec::clear);
        if shard_count == 1 {
            self.rows[0].extend(0..flows.len() as u32);
            return;
        }
        let mut sharder = Sharder::new(seed, shard_count);
        let mut number = 0;
        for some in flows.chunks(KEYS_AT_ONCE) {
            for shard in sharder.shards(interner, some, &self.hours.days) {
                self.rows[shard].push(number);
                number += 1;
            }
        }
    }
}

/// The distinct hours of a body, ascending.
#[derive(Default)]
struct Hours {
    hours: Vec<u32>,
    /// Of each hour its day.
    days: Vec<u32>,
    /// hour → its rank, for spans of hours that are short enough.
    ranks: Vec<u32>,
}

impl Hours {
    /// The widest span of hours that is ranked by a table rather than by sorting.
    const SPAN_MAX: usize = 4_096;

    /// Find the distinct hours of flows, and put into each flow its hour's rank.
    fn rank(&mut self, flows: &mut [Flow]) {
        self.hours.clear();
        let first = flows.iter().map(|flow| flow.hour).min().unwrap_or(0);
        let last = flows.iter().map(|flow| flow.hour).max().unwrap_or(0);
        let span = (last - first) as usize;
        if span < Hours::SPAN_MAX {
            self.ranks.clear();
            self.ranks.resize(span + 1, 0);
            for flow in &*flows {
                self.ranks[(flow.hour - first) as usize] = 1;
            }
            for (hour, rank) in (first..=last).zip(&mut self.ranks) {
                if *rank != 0 {
                    *rank = self.hours.len() as u32;
                    self.hours.push(hour);
                }
            }
            for flow in flows {
                flow.hour = self.ranks[(flow.hour - first) as usize];
            }
        } else {
            self.hours.extend(flows.iter().map(|flow| flow.hour));
            self.hours.sort_unstable();
            self.hours.dedup();
            for flow in flows {
                flow.hour = self.hours.partition_point(|&hour| hour < flow.hour) as u32;
            }
        }
        self.days.clear();
        self.days.extend(self.hours.iter().map(|hour| hour / 24));
    }
}

/// Encodes some flows of a body as a frame.
#[derive(Default)]
struct Encoder {
    /// name → (frame it was last seen in, its index there).
    seen: Vec<(u32, u32)>,
    frame: u32,
    /// The frame's names by index, as the interner's numbers.
    names: Vec<u32>,
    /// Of each hour, where its next row goes.
    next: Vec<u32>,
    groups: Vec<(u32, u32)>,
    /// The columns in the order of the frame's rows.
    ids: [Vec<u32>; 3],
    tx: Vec<u64>,
    rx: Vec<u64>,
}

impl Encoder {
    fn encode(&mut self, parsed: &Flows, rows: &[u32], hours: &Hours) -> Vec<u8> {
        let Flows { flows, interner } = parsed;
        self.start_frame(interner.count());
        self.place_hours(flows, rows, hours);
        for column in &mut self.ids {
            column.resize(rows.len(), 0);
        }
        self.tx.resize(rows.len(), 0);
        self.rx.resize(rows.len(), 0);
        for &row in rows {
            let flow = &flows[row as usize];
            let next = &mut self.next[flow.hour as usize];
            let place = *next as usize;
            *next += 1;
            for (column, &name) in self.ids.iter_mut().zip(&flow.names) {
                let (frame, index) = &mut self.seen[name as usize];
                if *frame != self.frame {
                    (*frame, *index) = (self.frame, self.names.len() as u32);
                    self.names.push(name);
                }
                column[place] = *index;
            }
            self.tx[place] = flow.tx;
            self.rx[place] = flow.rx;
        }
        let names: Vec<&[u8]> = self.names.iter().map(|&name| interner.name(name)).collect();
        let [src, dest, vpc] = &self.ids;
        let columns = [Some(&src[..]), Some(dest), Some(vpc)];
        frame::encode(&names, &self.groups, columns, &self.tx, &self.rx)
    }

    fn start_frame(&mut self, names: usize) {
        // The interner may have forgotten its names since: then it has fewer.
        self.frame = self.frame.wrapping_add(1);
        if self.frame == 0 {
            self.seen.clear(); // marks of 2^32 frames ago would look new
            self.frame = 1;
        }
        self.seen.resize(names, (0, 0));
        self.names.clear();
    }

    fn place_hours(&mut self, flows: &[Flow], rows: &[u32], hours: &Hours) {
        self.next.clear();
        self.next.resize(hours.hours.len(), 0);
        for &row in rows {
            self.next[flows[row as usize].hour as usize] += 1;
        }
        self.groups.clear();
        let mut start = 0;
        for (next, &hour) in self.next.iter_mut().zip(&hours.hours) {
            let count = std::mem::replace(next, start);
            start += count;
            if count > 0 {
                self.groups.push((hour, count));
            }
        }
    }
}
