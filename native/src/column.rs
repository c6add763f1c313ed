//! The columns of a frame, read in place: little-endian integers of 1, 2, 4 or 8 bytes.

/// Consecutive values of one column, as they lie in the frame.
#[derive(Clone, Copy)]
pub enum Column<'a> {
    Absent,
    One(&'a [u8]),
    Two(&'a [[u8; 2]]),
    Four(&'a [[u8; 4]]),
    Eight(&'a [[u8; 8]]),
}

/// Run `$body` with an iterator over a column's values as u64, once compiled for each width.
macro_rules! with_values {
    ($column:expr, |$values:ident| $body:expr) => {
        match $column {
            Column::Absent => {
                let $values = std::iter::empty::<u64>();
                $body
            }
            Column::One(values) => {
                let $values = values.iter().map(|&value| u64::from(value));
                $body
            }
            Column::Two(values) => {
                let $values = values.iter().map(|&v| u64::from(u16::from_le_bytes(v)));
                $body
            }
            Column::Four(values) => {
                let $values = values.iter().map(|&v| u64::from(u32::from_le_bytes(v)));
                $body
            }
            Column::Eight(values) => {
                let $values = values.iter().map(|&v| u64::from_le_bytes(v));
                $body
            }
        }
    };
}
impl Column<'_> {
    /// How many values there are, 0 when the column is absent.
    #[allow(clippy::len_without_is_empty)] // an empty run of rows is not a case of its own
    pub fn len(&self) -> usize {
        match self {
            Column::Absent => 0,
            Column::One(values) => values.len(),
            Column::Two(values) => values.len(),
            Column::Four(values) => values.len(),
            Column::Eight(values) => values.len(),
        }
    }

    pub fn get(&self, place: usize) -> u64 {
        match self {
            Column::Absent => panic!("a column that is not in the frame"),
            Column::One(values) => u64::from(values[place]),
            Column::Two(values) => u64::from(u16::from_le_bytes(values[place])),
            Column::Four(values) => u64::from(u32::from_le_bytes(values[place])),
            Column::Eight(values) => u64::from_le_bytes(values[place]),
        }
    }

    /// The largest value, 0 when there is none.
    pub fn max(&self) -> u64 {
        with_values!(*self, |values| values.fold(0, u64::max))
    }

    /// Put all values behind those of `out`; names' indexes fit in 32 bits.
    pub fn append_u32(&self, out: &mut Vec<u32>) {
        with_values!(*self, |values| out.extend(values.map(|value| value as u32)));
    }

    /// Put all values behind those of `out`.
    pub fn append_u64(&self, out: &mut Vec<u64>) {
        with_values!(*self, |values| out.extend(values));
    }

    /// Put `map[value]` for each value behind those of `out`: a frame's name indexes → a table's.
    pub fn append_mapped(&self, map: &[u32], out: &mut Vec<u32>) {
        with_values!(*self, |values| out
            .extend(values.map(|value| map[value as usize])));
    }
}
