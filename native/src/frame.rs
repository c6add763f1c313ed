//! Frames: the one columnar encoding of batches, bucket blocks and query pages.
//!
//! docs/frame-format.md has every byte. Encoding is canonical; parsing checks every field, so that
//! whoever holds a `Frame` may index its names without looking. What the rows mean, and whether two
//! of them may be equal, is the business of whoever asked for the frame. Knows nothing of Python but
//! that the bytes may belong to it.

use std::fmt;
use std::ops::{Deref, Range};

use foldhash::fast::RandomState;
use pyo3::pybacked::PyBackedBytes;

pub use crate::column::Column;
use crate::hashing::hash_name;

pub const FRAME_VERSION: u8 = 1;
pub const HEADER_BYTES: usize = 32;
pub const NAME_BYTES_MAX: usize = 256;
/// The largest bytes_tx or bytes_rx; sums saturate here.
pub const COUNTER_MAX: u64 = i64::MAX as u64;

/// The columns of a frame, in their order.
pub const SRC: usize = 0;
pub const DEST: usize = 1;
pub const VPC: usize = 2;
pub const TX: usize = 3;
pub const RX: usize = 4;

/// Why bytes are no well-formed frame.
#[derive(Debug, PartialEq, Eq)]
pub struct FrameError(pub String);

impl fmt::Display for FrameError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for FrameError {}

fn refuse<T>(reason: String) -> Result<T, FrameError> {
    Err(FrameError(reason))
}

/// A frame's bytes, whoever keeps them; they never change.
pub enum FrameBytes {
    Python(PyBackedBytes),
    Owned(Vec<u8>),
}

impl Deref for FrameBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FrameBytes::Python(bytes) => bytes,
            FrameBytes::Owned(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for FrameBytes {
    fn from(bytes: Vec<u8>) -> Self {
        FrameBytes::Owned(bytes)
    }
}

impl From<PyBackedBytes> for FrameBytes {
    fn from(bytes: PyBackedBytes) -> Self {
        FrameBytes::Python(bytes)
    }
}

/// What the first 32 bytes tell; `widths` are 0 for a column that is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub widths: [u8; 5],
    pub rows: u32,
    pub names: u32,
    pub name_bytes: u32,
    pub groups: u32,
}

impl Header {
    /// Read and check a header, and the frame's length against it.
    pub fn parse(frame: &[u8]) -> Result<Header, FrameError> {
        let Some(header) = frame.first_chunk::<HEADER_BYTES>() else {
            return refuse(format!(
                "a frame of {} bytes, shorter than its header",
                frame.len()
            ));
        };
        if header[0] != FRAME_VERSION {
            return refuse(format!(
                "frame version {}, this flowd reads {FRAME_VERSION}",
                header[0]
            ));
        }
        if header[1] != 0 || header[7] != 0 || header[24..].iter().any(|&byte| byte != 0) {
            return refuse("frame with a reserved field that is not zero".into());
        }
        let widths = [header[2], header[3], header[4], header[5], header[6]];
        if widths[..TX]
            .iter()
            .any(|width| !matches!(width, 0 | 1 | 2 | 4))
            || widths[TX..]
                .iter()
                .any(|width| !matches!(width, 1 | 2 | 4 | 8))
        {
            return refuse(format!("frame with column widths {widths:?}"));
        }
        let header = Header {
            widths,
            rows: u32_at(frame, 8),
            names: u32_at(frame, 12),
            name_bytes: u32_at(frame, 16),
            groups: u32_at(frame, 20),
        };
        let expected = header.frame_bytes();
        if frame.len() as u64 != expected {
            return refuse(format!(
                "frame of {} bytes, its header says {expected}",
                frame.len()
            ));
        }
        Ok(header)
    }

    fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64
            + 8 * u64::from(self.groups)
            + u64::from(self.names)
            + u64::from(self.name_bytes)
            + u64::from(self.rows) * self.row_bytes()
    }

    fn row_bytes(&self) -> u64 {
        self.widths.iter().map(|&width| u64::from(width)).sum()
    }

    /// Whether all three name columns are there.
    pub fn is_complete(&self) -> bool {
        self.widths.iter().all(|&width| width != 0)
    }
}

/// A parsed frame; every index is sound.
pub struct Frame {
    bytes: FrameBytes,
    pub header: Header,
    /// (hour, rows), by ascending hour.
    pub groups: Vec<(u32, u32)>,
    /// Where each name starts in `bytes`, and how long it is.
    names: Vec<(u32, u16)>,
    /// Where each column starts in `bytes`.
    columns: [usize; 5],
}

impl Frame {
    /// Parse and check a whole frame.
    pub fn parse(bytes: impl Into<FrameBytes>) -> Result<Frame, FrameError> {
        let bytes = bytes.into();
        let header = Header::parse(&bytes)?;
        let groups = parse_groups(&bytes, &header)?;
        let sizes_start = HEADER_BYTES + 8 * groups.len();
        let names = parse_names(&bytes, sizes_start, &header)?;
        let mut columns = [0; 5];
        let mut offset = sizes_start + names.len() + header.name_bytes as usize;
        for (column, &width) in columns.iter_mut().zip(&header.widths) {
            *column = offset;
            offset += header.rows as usize * usize::from(width);
        }
        let frame = Frame {
            bytes,
            header,
            groups,
            names,
            columns,
        };
        for column in SRC..=RX {
            frame.check_column(column)?;
        }
        Ok(frame)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn rows(&self) -> usize {
        self.header.rows as usize
    }

    /// How many distinct names there are.
    pub fn name_count(&self) -> usize {
        self.names.len()
    }

    /// A name by its index, UTF-8.
    pub fn name(&self, index: usize) -> &[u8] {
        let (start, size) = self.names[index];
        &self.bytes[start as usize..][..usize::from(size)]
    }

    /// All names, by ascending index.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let bytes: &[u8] = &self.bytes;
        self.names
            .iter()
            .map(move |&(start, size)| &bytes[start as usize..][..usize::from(size)])
    }

    /// Whether a column is there.
    pub fn has(&self, column: usize) -> bool {
        self.header.widths[column] != 0
    }

    /// Some rows of a column.
    pub fn column(&self, column: usize, rows: Range<usize>) -> Column<'_> {
        let width = usize::from(self.header.widths[column]);
        let all = &self.bytes[self.columns[column]..][..self.rows() * width];
        let bytes = &all[rows.start * width..rows.end * width];
        match width {
            1 => Column::One(bytes),
            2 => Column::Two(bytes.as_chunks().0),
            4 => Column::Four(bytes.as_chunks().0),
            8 => Column::Eight(bytes.as_chunks().0),
            _ => Column::Absent,
        }
    }

    /// The index of a row's name; the column must be there.
    pub fn id(&self, column: usize, row: usize) -> u32 {
        self.column(column, row..row + 1).get(0) as u32
    }

    pub fn tx(&self, row: usize) -> u64 {
        self.column(TX, row..row + 1).get(0)
    }

    pub fn rx(&self, row: usize) -> u64 {
        self.column(RX, row..row + 1).get(0)
    }

    fn check_column(&self, column: usize) -> Result<(), FrameError> {
        let values = self.column(column, 0..self.rows());
        if column < TX {
            let names = self.names.len() as u64;
            // A full table of names has no unsound index of its width: spare the search for one.
            let full = names >= 1 << (8 * self.header.widths[column]);
            if !full && values.len() > 0 && values.max() >= names {
                let index = values.max();
                return refuse(format!("frame with name index {index} of {names} names"));
            }
        } else if matches!(values, Column::Eight(_)) && values.max() > COUNTER_MAX {
            let value = values.max();
            return refuse(format!(
                "frame with {value} bytes in a row, over {COUNTER_MAX}"
            ));
        }
        Ok(())
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes([
        bytes[offset],
        bytes[offset + 1],
        bytes[offset + 2],
        bytes[offset + 3],
    ])
}

fn parse_groups(bytes: &[u8], header: &Header) -> Result<Vec<(u32, u32)>, FrameError> {
    let directory = &bytes[HEADER_BYTES..][..8 * header.groups as usize];
    let groups: Vec<(u32, u32)> = directory
        .chunks_exact(8)
        .map(|group| (u32_at(group, 0), u32_at(group, 4)))
        .collect();
    let rows: u64 = groups.iter().map(|&(_, rows)| u64::from(rows)).sum();
    if rows != u64::from(header.rows) || groups.iter().any(|&(_, rows)| rows == 0) {
        return refuse(format!(
            "frame of {} rows whose groups do not add up to them",
            header.rows
        ));
    }
    if groups.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return refuse("frame whose hours do not ascend".into());
    }
    Ok(groups)
}

fn parse_names(
    bytes: &[u8],
    sizes_start: usize,
    header: &Header,
) -> Result<Vec<(u32, u16)>, FrameError> {
    let count = header.names as usize;
    let names_start = sizes_start + count;
    let sizes = &bytes[sizes_start..names_start];
    let total: u64 = sizes.iter().map(|&size| u64::from(size) + 1).sum();
    if total != u64::from(header.name_bytes) {
        return refuse(format!(
            "frame with {} bytes of names that end at {total}",
            header.name_bytes
        ));
    }
    if names_start as u64 + total > u64::from(u32::MAX) {
        return refuse("frame with names behind its first 4 GiB".into());
    }
    let joined = &bytes[names_start..][..header.name_bytes as usize];
    if let Err(error) = simdutf8::compat::from_utf8(joined) {
        return refuse(format!("frame with a name that is not UTF-8: {error}"));
    }
    if has_control(joined) {
        return refuse("frame with a control character in a name".into());
    }
    let mut names = Vec::with_capacity(count);
    let mut offset = names_start;
    let mut cut = false;
    for &size in sizes {
        let size = usize::from(size) + 1;
        // What is UTF-8 as a whole may still be cut inside of a character: then a name starts with
        // 10xxxxxx.
        cut |= bytes[offset] & 0xC0 == 0x80;
        names.push((offset as u32, size as u16));
        offset += size;
    }
    if cut {
        return refuse("frame with a name cut inside of a character".into());
    }
    if !all_distinct(bytes, &names) {
        return refuse("frame that has a name twice".into());
    }
    Ok(names)
}

/// Whether UTF-8 has a character of the Unicode category Cc: U+0000 to U+001F, U+007F to U+009F.
pub fn has_control(text: &[u8]) -> bool {
    let mut ascii_control = false;
    let mut beyond_ascii = false;
    for &byte in text {
        ascii_control |= byte < 0x20 || byte == 0x7F;
        beyond_ascii |= byte >= 0x80;
    }
    // U+0080 to U+009F are C2 80 to C2 9F, and C2 stands nowhere else than at a character's start.
    ascii_control
        || (beyond_ascii
            && text
                .windows(2)
                .any(|pair| pair[0] == 0xC2 && pair[1] < 0xA0))
}

fn all_distinct(bytes: &[u8], names: &[(u32, u16)]) -> bool {
    let places = (names.len() * 2).next_power_of_two();
    let keys = RandomState::default();
    // Of each entry, the upper half tells some of the hash, the lower half is a name's number + 1.
    let mut table = vec![0_u64; places];
    for (number, &(start, size)) in names.iter().enumerate() {
        let name = &bytes[start as usize..][..usize::from(size)];
        let hash = hash_name(&keys, name);
        let mut place = hash as usize & (places - 1);
        while table[place] != 0 {
            if table[place] >> 32 == hash >> 32 {
                let (start, size) = names[(table[place] as u32 - 1) as usize];
                if name == &bytes[start as usize..][..usize::from(size)] {
                    return false;
                }
            }
            place = (place + 1) & (places - 1);
        }
        table[place] = hash >> 32 << 32 | (number as u64 + 1);
    }
    true
}

/// Encode rows in the canonical form.
///
/// * `names`: the distinct names, 1 to 256 bytes of UTF-8 each, in the order in which the rows use
///   them.
/// * `groups`: (hour, rows) by ascending hour, rows 1 or more, their sum the number of rows.
/// * `name_columns`: src_app, dest_app, vpc_id as indexes into `names`; None leaves a column out.
/// * `tx`, `rx`: the sums of each row, 0 … 2^63 - 1.
pub fn encode(
    names: &[&[u8]],
    groups: &[(u32, u32)],
    name_columns: [Option<&[u32]>; 3],
    tx: &[u64],
    rx: &[u64],
) -> Vec<u8> {
    let mut widths = [0; 5];
    for (width, column) in widths.iter_mut().zip(name_columns) {
        if let Some(column) = column {
            *width = width_of(column.iter().fold(0, |most, &index| most.max(index)).into());
        }
    }
    widths[TX] = width_of(tx.iter().fold(0, |most, &value| most.max(value)));
    widths[RX] = width_of(rx.iter().fold(0, |most, &value| most.max(value)));
    let header = Header {
        widths,
        rows: tx.len() as u32,
        names: names.len() as u32,
        name_bytes: names.iter().map(|name| name.len() as u32).sum(),
        groups: groups.len() as u32,
    };
    let mut out = Vec::with_capacity(header.frame_bytes() as usize);
    put_header(&mut out, &header);
    for &(hour, rows) in groups {
        out.extend_from_slice(&hour.to_le_bytes());
        out.extend_from_slice(&rows.to_le_bytes());
    }
    out.extend(names.iter().map(|name| (name.len() - 1) as u8));
    for name in names {
        out.extend_from_slice(name);
    }
    for (column, &width) in name_columns.iter().zip(&widths) {
        put_column(&mut out, column.unwrap_or(&[]), width, u64::from);
    }
    put_column(&mut out, tx, widths[TX], |value| value);
    put_column(&mut out, rx, widths[RX], |value| value);
    out
}

pub fn put_header(out: &mut Vec<u8>, header: &Header) {
    out.extend_from_slice(&[FRAME_VERSION, 0]);
    out.extend_from_slice(&header.widths);
    out.push(0);
    for field in [
        header.rows,
        header.names,
        header.name_bytes,
        header.groups,
        0,
        0,
    ] {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

fn put_column<T: Copy>(out: &mut Vec<u8>, column: &[T], width: u8, value: impl Fn(T) -> u64) {
    match width {
        0 => {}
        1 => out.extend(column.iter().map(|&item| value(item) as u8)),
        2 => put_wide(out, column, |item| (value(item) as u16).to_le_bytes()),
        4 => put_wide(out, column, |item| (value(item) as u32).to_le_bytes()),
        _ => put_wide(out, column, |item| value(item).to_le_bytes()),
    }
}

fn put_wide<T: Copy, const WIDTH: usize>(
    out: &mut Vec<u8>,
    column: &[T],
    bytes_of: impl Fn(T) -> [u8; WIDTH],
) {
    let start = out.len();
    out.resize(start + WIDTH * column.len(), 0);
    let (places, _) = out[start..].as_chunks_mut();
    for (place, &item) in places.iter_mut().zip(column) {
        *place = bytes_of(item);
    }
}

/// The narrowest width that holds a value.
pub fn width_of(largest: u64) -> u8 {
    match largest {
        0..=0xFF => 1,
        0x100..=0xFFFF => 2,
        0x1_0000..=0xFFFF_FFFF => 4,
        _ => 8,
    }
}
