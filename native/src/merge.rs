//! Merges sorted pages of several sources to one answer, row by row in key order, as they come.
//!
//! A row is certain when no source can still send its key or a smaller one: at or below the last key
//! in hand of every source that has more. Memory holds the pages in hand, one a source if the caller
//! feeds what is wanted.

use std::cmp::Ordering;
use std::collections::VecDeque;

use crate::frame::{COUNTER_MAX, DEST, Frame, SRC, VPC};
use crate::merge_page::{Key, Page};
use crate::render::{Format, Group, Renderer, Row};
use crate::sort::SORTED_BY;
use crate::tournament::Tournament;

#[derive(Default)]
struct Source {
    /// None is rendered to its end.
    pages: VecDeque<Page>,
    last: bool,
    fed_to: Option<Key>,
}

impl Source {
    /// Forget rows that were rendered.
    fn let_go(&mut self, mut rows: usize) {
        while let Some(page) = self.pages.front_mut() {
            let rest = page.rows() - page.start;
            if rows < rest {
                page.start += rows;
                return;
            }
            rows -= rest;
            self.pages.pop_front();
        }
    }
}

/// Where a row is.
#[derive(Clone, Copy)]
struct Place {
    source: usize,
    page: usize,
    row: usize,
}

/// A row and what decides most comparisons with others.
#[derive(Clone, Copy)]
struct Item {
    at: Place,
    hour: u32,
    prefixes: [u64; 3],
}

/// The next row of a source that is to be merged, and how many rows are, itself included.
struct Head {
    next: Item,
    rows_left: usize,
}

/// See `interface.Merger`.
pub struct Merge {
    sources: Vec<Source>,
    group: Group,
    renderer: Renderer,
    limit: Option<u64>,
    pub rows: u64,
    pub last_key: Option<Key>,
    pub done: bool,
    pub more: bool,
    started: bool,
    /// The last row that this `drain` rendered.
    last_at: Option<Place>,
}

impl Merge {
    pub fn new(sources: usize, format: Format, group: Group, limit: Option<u64>) -> Merge {
        Merge {
            sources: (0..sources).map(|_| Source::default()).collect(),
            group,
            renderer: Renderer::new(format, group),
            limit,
            rows: 0,
            last_key: None,
            done: false,
            more: false,
            started: false,
            last_at: None,
        }
    }

    /// How many sources there are.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// The sources to feed before the next row can be told.
    pub fn wanted(&self) -> Vec<usize> {
        let sources = self.sources.iter().enumerate();
        sources
            .filter(|(_, source)| !self.done && !source.last && source.pages.is_empty())
            .map(|(number, _)| number)
            .collect()
    }

    /// Add the next rows of a source.
    pub fn feed(&mut self, source: usize, pages: Vec<Frame>, last: bool) {
        let fed = &mut self.sources[source];
        let pages = pages.into_iter().filter(|page| page.rows() > 0);
        fed.pages
            .extend(pages.map(|page| Page::new(page, self.group)));
        fed.last = last;
        if let Some(page) = fed.pages.back() {
            fed.fed_to = Some(page.key(page.rows() - 1));
        }
    }

    /// The key of the last row fed from a source.
    pub fn fed_to(&self, source: usize) -> Option<&Key> {
        self.sources[source].fed_to.as_ref()
    }

    /// Render the rows that are certain, and the answer's head or end when it is their turn.
    pub fn drain(&mut self, out: &mut Vec<u8>) {
        if self.done {
            return;
        }
        if !self.started {
            self.renderer.head(out);
            self.started = true;
        }
        let heads = self.certain();
        let taken: Vec<(usize, usize)> = heads
            .iter()
            .map(|head| (head.next.at.source, head.rows_left))
            .collect();
        self.last_at = None;
        match heads.len() {
            0 => {}
            1 => self.render_run(out, &heads[0]),
            _ => self.merge(out, heads),
        }
        if let Some(at) = self.last_at {
            self.last_key = Some(self.page(at).key(at.row));
        }
        for (source, rows) in taken {
            self.sources[source].let_go(rows);
        }
        let in_hand = self.sources.iter().any(|source| !source.pages.is_empty());
        if in_hand && self.limit == Some(self.rows) {
            self.more = true;
        }
        let ended = !in_hand && self.sources.iter().all(|source| source.last);
        if self.more || ended {
            self.renderer.end(out, self.rows == 0);
            self.done = true;
        }
    }

    /// Tell for each source that has any which rows are certain.
    fn certain(&self) -> Vec<Head> {
        let mut open = self.sources.iter().filter(|source| !source.last);
        if open.any(|source| source.pages.is_empty()) {
            return Vec::new();
        }
        let sources = self.sources.iter().enumerate();
        let bound = sources
            .filter(|(_, source)| !source.last)
            .map(|(number, source)| {
                let page = source.pages.len() - 1;
                let row = source.pages[page].rows() - 1;
                self.item(Place {
                    source: number,
                    page,
                    row,
                })
            })
            .min_by(|one, other| self.compare(one, other))
            .map(|item| self.page(item.at).key(item.at.row));
        let mut heads = Vec::new();
        for (number, source) in self.sources.iter().enumerate() {
            let mut certain = 0;
            for page in &source.pages {
                let rest = page.rows() - page.start;
                let count = bound.as_ref().map_or(rest, |bound| page.count_to(bound));
                certain += count;
                if count < rest {
                    break;
                }
            }
            if certain > 0 {
                let at = Place {
                    source: number,
                    page: 0,
                    row: source.pages[0].start,
                };
                heads.push(Head {
                    next: self.item(at),
                    rows_left: certain,
                });
            }
        }
        heads
    }

    #[inline]
    fn page(&self, at: Place) -> &Page {
        &self.sources[at.source].pages[at.page]
    }

    #[inline]
    fn item(&self, at: Place) -> Item {
        let page = self.page(at);
        Item {
            at,
            hour: page.hours[at.row],
            prefixes: [SRC, DEST, VPC].map(|column| page.prefix(column, at.row)),
        }
    }

    /// Compare the keys of two rows.
    #[inline]
    fn compare(&self, one: &Item, other: &Item) -> Ordering {
        let order = one.hour.cmp(&other.hour);
        if order.is_ne() {
            return order;
        }
        for column in SORTED_BY {
            let prefix = one.prefixes[column];
            let mut order = prefix.cmp(&other.prefixes[column]);
            // A prefix that ends in a zero is the whole name.
            if order.is_eq() && prefix & 0xFF != 0 {
                let name = |item: &Item| self.page(item.at).name(column, item.at.row);
                order = name(one).cmp(name(other));
            }
            if order.is_ne() {
                return order;
            }
        }
        Ordering::Equal
    }

    /// Tell which of two sources is to go first; one at its end is not.
    #[inline]
    fn is_before(&self, heads: &[Head], one: usize, other: usize) -> bool {
        let (one, other) = (&heads[one], &heads[other]);
        one.rows_left > 0 && (other.rows_left == 0 || self.compare(&one.next, &other.next).is_lt())
    }

    /// Render rows of one source.
    fn render_run(&mut self, out: &mut Vec<u8>, head: &Head) {
        let mut at = head.next.at;
        for _ in 0..head.rows_left {
            if at.row == self.page(at).rows() {
                at.page += 1;
                at.row = 0;
            }
            let page = self.page(at);
            let sums = [page.tx[at.row], page.rx[at.row]];
            if !self.render(out, at, sums) {
                return;
            }
            at.row += 1;
        }
    }

    /// Render rows of several sources by ascending key, one for all of the same key.
    fn merge(&mut self, out: &mut Vec<u8>, mut heads: Vec<Head>) {
        let rows: usize = heads.iter().map(|head| head.rows_left).sum();
        let mut tournament =
            Tournament::new(heads.len(), |one, other| self.is_before(&heads, one, other));
        // The row at hand, to which others of its key may be added, and its sums.
        let mut pending: Option<(Item, [u64; 2])> = None;
        for _ in 0..rows {
            let head = &mut heads[tournament.winner()];
            let item = head.next;
            let mut at = item.at;
            let page = self.page(at);
            let mut sums = [page.tx[at.row], page.rx[at.row]];
            at.row += 1;
            if at.row == page.rows() {
                at.page += 1;
                at.row = 0;
            }
            head.rows_left -= 1;
            if head.rows_left > 0 {
                head.next = self.item(at);
            }
            tournament.replay(|one, other| self.is_before(&heads, one, other));
            if let Some((before, sums_before)) = pending {
                if self.compare(&before, &item).is_eq() {
                    for (sum, before) in sums.iter_mut().zip(sums_before) {
                        *sum = (*sum + before).min(COUNTER_MAX); // neither is over COUNTER_MAX
                    }
                } else if !self.render(out, before.at, sums_before) {
                    return;
                }
            }
            pending = Some((item, sums));
        }
        if let Some((item, sums)) = pending {
            self.render(out, item.at, sums);
        }
    }

    /// Render a row with these sums, unless that is one too many: then give false.
    #[inline]
    fn render(&mut self, out: &mut Vec<u8>, at: Place, [tx, rx]: [u64; 2]) -> bool {
        if self.limit == Some(self.rows) {
            self.more = true;
            return false;
        }
        let page = &mut self.sources[at.source].pages[at.page];
        let row = Row {
            names: [SRC, DEST, VPC].map(|column| page.columns[column][at.row]),
            tx,
            rx,
            hour: page.hours[at.row],
        };
        let first = self.rows == 0;
        self.renderer
            .row(out, &page.frame, &mut page.cells, &row, first);
        self.rows += 1;
        self.last_at = Some(at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::encode;

    const ALL: Group = Group {
        hour: true,
        names: [true; 3],
    };

    fn page(hour: u32, rows: &[(&str, u64)]) -> Frame {
        let mut names = vec![b"-".as_slice()];
        names.extend(rows.iter().map(|row| row.0.as_bytes()));
        let dest: Vec<u32> = (1..=rows.len() as u32).collect();
        let same = vec![0; rows.len()];
        let sums: Vec<u64> = rows.iter().map(|row| row.1).collect();
        let columns = [Some(&same[..]), Some(&dest), Some(&same)];
        let groups = [(hour, rows.len() as u32)];
        Frame::parse(encode(&names, &groups, columns, &sums, &sums)).unwrap()
    }

    fn drain(merge: &mut Merge) -> String {
        let mut out = Vec::new();
        merge.drain(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn equal_keys_add_up_and_wait_for_every_source() {
        let mut merge = Merge::new(2, Format::Csv, ALL, None);
        assert_eq!(merge.wanted(), [0, 1]);
        merge.feed(
            0,
            vec![page(1, &[("a", 1), ("b", 2)]), page(1, &[("d", 3)])],
            false,
        );
        merge.feed(1, vec![page(1, &[("b", COUNTER_MAX), ("c", 5)])], false);
        let head = "src_app,dest_app,vpc_id,bytes_tx,bytes_rx,hour\n";
        let rows = format!("-,a,-,1,1,1\n-,b,-,{COUNTER_MAX},{COUNTER_MAX},1\n-,c,-,5,5,1\n");
        assert_eq!(drain(&mut merge), format!("{head}{rows}"));
        assert_eq!(merge.wanted(), [1]);
        assert_eq!(drain(&mut merge), "");
        merge.feed(1, vec![], true);
        assert_eq!(drain(&mut merge), "-,d,-,3,3,1\n");
        assert!(!merge.done);
        merge.feed(0, vec![page(2, &[("a", 1)])], true);
        assert_eq!(drain(&mut merge), "-,a,-,1,1,2\n");
        assert!(merge.done && !merge.more);
        assert_eq!(merge.rows, 5);
        let names = ["-", "a", "-"].map(|name| name.as_bytes().to_vec());
        assert_eq!(merge.last_key, Some(Key { hour: 2, names }));
    }

    #[test]
    fn a_limit_ends_the_answer() {
        for (limit, more) in [(1, true), (2, true), (3, false), (4, false)] {
            let mut merge = Merge::new(2, Format::Ndjson, ALL, Some(limit));
            merge.feed(0, vec![page(1, &[("a", 1), ("b", 2)])], true);
            merge.feed(1, vec![page(1, &[("a", 1), ("c", 2)])], true);
            let lines = drain(&mut merge).lines().count();
            assert_eq!(lines as u64, limit.min(3));
            assert!(merge.done);
            assert_eq!(merge.more, more);
        }
    }
}
