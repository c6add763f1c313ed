//! Rows as JSON, NDJSON and CSV.
//!
//! An answer is a head, rows, and an end. JSON has one row a line: `[`, the rows joined by commas,
//! `]`, so that line tools can read it; `[]` when empty. CSV is RFC 4180 but for its line ends, which
//! are newlines alone. Members come in the order in which flows have them, only those that rows are
//! told apart by, and both sums.

use memchr::{memchr2, memchr2_iter};

use crate::frame::Frame;

/// What an answer is written in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Ndjson,
    Csv,
}

/// What rows are told apart by.
#[derive(Clone, Copy)]
pub struct Group {
    pub hour: bool,
    /// src_app, dest_app, vpc_id.
    pub names: [bool; 3],
}

const NAME_MEMBERS: [&str; 3] = ["src_app", "dest_app", "vpc_id"];

/// The index of a name in a column that is not there: the name is empty.
pub const NO_NAME: u32 = u32::MAX;

/// A name of a page with all that stands around it in a row, made when the first row wants it.
#[derive(Default)]
pub struct Cells {
    /// For each of the three columns and each name, where its cell is; (0, 0) if not made yet.
    places: [Vec<(u32, u32)>; 3],
    text: Vec<u8>,
}

impl Cells {
    pub fn new(names: usize, group: Group) -> Cells {
        let places = group
            .names
            .map(|kept| vec![(0, 0); if kept { names } else { 0 }]);
        Cells {
            places,
            text: Vec::new(),
        }
    }
}

/// One row to render: the indexes of its names in its page, its sums and its hour.
pub struct Row {
    pub names: [u32; 3],
    pub tx: u64,
    pub rx: u64,
    pub hour: u32,
}

/// Renders one answer.
pub struct Renderer {
    format: Format,
    group: Group,
    /// What stands before each name.
    name_leads: [Vec<u8>; 3],
    tx_lead: Vec<u8>,
    rx_lead: Vec<u8>,
    hour_lead: Vec<u8>,
    /// The last hour and all from there to the row's end.
    hour_cell: (u32, Vec<u8>),
    row_end: &'static [u8],
}

impl Renderer {
    pub fn new(format: Format, group: Group) -> Renderer {
        let is_csv = format == Format::Csv;
        let mut is_first = true;
        let mut lead = |member: &str, quote: &str| {
            let before = match (is_first, is_csv) {
                (true, false) => "{",
                (true, true) => "",
                (false, _) => ",",
            };
            is_first = false;
            let text = if is_csv {
                before.to_string()
            } else {
                format!("{before}\"{member}\":{quote}")
            };
            text.into_bytes()
        };
        let mut name_leads: [Vec<u8>; 3] = Default::default();
        for column in (0..3).filter(|&column| group.names[column]) {
            name_leads[column] = lead(NAME_MEMBERS[column], "\"");
        }
        let mut renderer = Renderer {
            format,
            group,
            name_leads,
            tx_lead: lead("bytes_tx", ""),
            rx_lead: lead("bytes_rx", ""),
            hour_lead: lead("hour", ""),
            hour_cell: (0, Vec::new()),
            row_end: match format {
                Format::Json => b"}",
                Format::Ndjson => b"}\n",
                Format::Csv => b"\n",
            },
        };
        renderer.set_hour(0);
        renderer
    }

    /// Put down what comes before all rows.
    pub fn head(&self, out: &mut Vec<u8>) {
        match self.format {
            Format::Json => out.push(b'['),
            Format::Ndjson => {}
            Format::Csv => {
                let names = NAME_MEMBERS.iter().zip(self.group.names);
                let mut members: Vec<&str> =
                    names.filter(|name| name.1).map(|name| *name.0).collect();
                members.extend(["bytes_tx", "bytes_rx"]);
                if self.group.hour {
                    members.push("hour");
                }
                out.extend_from_slice(members.join(",").as_bytes());
                out.push(b'\n');
            }
        }
    }

    /// Put down what comes behind all rows; `empty` when there were none.
    pub fn end(&self, out: &mut Vec<u8>, empty: bool) {
        match self.format {
            Format::Json if empty => out.extend_from_slice(b"]\n"),
            Format::Json => out.extend_from_slice(b"\n]\n"),
            Format::Ndjson | Format::Csv => {}
        }
    }

    /// Put down a row of a page; `first` if it is the answer's first.
    #[inline]
    pub fn row(
        &mut self,
        out: &mut Vec<u8>,
        page: &Frame,
        cells: &mut Cells,
        row: &Row,
        first: bool,
    ) {
        if self.format == Format::Json {
            out.extend_from_slice(if first { b"\n" } else { b",\n" });
        }
        for column in (0..3).filter(|&column| self.group.names[column]) {
            let (start, end) = self.cell(page, cells, column, row.names[column]);
            out.extend_from_slice(&cells.text[start as usize..end as usize]);
        }
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(&self.tx_lead);
        out.extend_from_slice(digits.format(row.tx).as_bytes());
        out.extend_from_slice(&self.rx_lead);
        out.extend_from_slice(digits.format(row.rx).as_bytes());
        if self.hour_cell.0 != row.hour {
            self.set_hour(row.hour);
        }
        out.extend_from_slice(&self.hour_cell.1);
    }

    fn set_hour(&mut self, hour: u32) {
        let cell = &mut self.hour_cell.1;
        cell.clear();
        if self.group.hour {
            cell.extend_from_slice(&self.hour_lead);
            cell.extend_from_slice(itoa::Buffer::new().format(hour).as_bytes());
        }
        cell.extend_from_slice(self.row_end);
        self.hour_cell.0 = hour;
    }

    #[inline]
    fn cell(&self, page: &Frame, cells: &mut Cells, column: usize, index: u32) -> (u32, u32) {
        match cells.places[column].get(index as usize) {
            Some(&place) if place.1 != 0 => place,
            _ => self.make_cell(page, cells, column, index),
        }
    }

    #[cold]
    fn make_cell(&self, page: &Frame, cells: &mut Cells, column: usize, index: u32) -> (u32, u32) {
        let name: &[u8] = if index == NO_NAME {
            b""
        } else {
            page.name(index as usize)
        };
        let start = cells.text.len() as u32;
        let text = &mut cells.text;
        text.extend_from_slice(&self.name_leads[column]);
        match self.format {
            Format::Json | Format::Ndjson => {
                put_escaped(text, name);
                text.push(b'"');
            }
            Format::Csv if memchr2(b'"', b',', name).is_some() => put_quoted(text, name),
            Format::Csv => text.extend_from_slice(name),
        }
        let place = (start, text.len() as u32);
        if let Some(known) = cells.places[column].get_mut(index as usize) {
            *known = place;
        }
        place
    }
}

/// Escape for JSON; names have no control characters.
fn put_escaped(out: &mut Vec<u8>, name: &[u8]) {
    let mut done = 0;
    for place in memchr2_iter(b'"', b'\\', name) {
        out.extend_from_slice(&name[done..place]);
        out.push(b'\\');
        done = place;
    }
    out.extend_from_slice(&name[done..]);
}

/// Quote for CSV.
fn put_quoted(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'"');
    for &byte in name {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::encode;

    fn render(format: Format, group: Group) -> String {
        let names: [&[u8]; 2] = [b"a\"b\\c", b"x,y"];
        let columns = [Some(&[0_u32][..]), Some(&[1][..]), Some(&[0][..])];
        let page = Frame::parse(encode(&names, &[(9, 1)], columns, &[1], &[2])).unwrap();
        let mut renderer = Renderer::new(format, group);
        let mut cells = Cells::new(2, group);
        let mut out = Vec::new();
        renderer.head(&mut out);
        for first in [true, false] {
            let row = Row {
                names: [0, 1, 0],
                tx: 1,
                rx: u64::MAX / 2,
                hour: 9,
            };
            renderer.row(&mut out, &page, &mut cells, &row, first);
        }
        renderer.end(&mut out, false);
        String::from_utf8(out).unwrap()
    }

    const ALL: Group = Group {
        hour: true,
        names: [true; 3],
    };

    #[test]
    fn json_escapes_quotes_and_backslashes() {
        let row = r#"{"src_app":"a\"b\\c","dest_app":"x,y","vpc_id":"a\"b\\c","bytes_tx":1,"bytes_rx":9223372036854775807,"hour":9}"#;
        assert_eq!(render(Format::Json, ALL), format!("[\n{row},\n{row}\n]\n"));
        assert_eq!(render(Format::Ndjson, ALL), format!("{row}\n{row}\n"));
    }

    #[test]
    fn csv_quotes_what_has_a_quote_or_a_comma() {
        let row = r#""a""b\c","x,y","a""b\c",1,9223372036854775807,9"#;
        let head = "src_app,dest_app,vpc_id,bytes_tx,bytes_rx,hour";
        assert_eq!(render(Format::Csv, ALL), format!("{head}\n{row}\n{row}\n"));
    }

    #[test]
    fn members_that_are_not_kept_are_left_out() {
        let group = Group {
            hour: false,
            names: [false; 3],
        };
        let row = r#"{"bytes_tx":1,"bytes_rx":9223372036854775807}"#;
        assert_eq!(render(Format::Ndjson, group), format!("{row}\n{row}\n"));
    }
}
