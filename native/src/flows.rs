//! The flows of one body as both parsers leave them: numbers instead of names, in the body's order.

use crate::frame::COUNTER_MAX;
use crate::interner::Interner;

/// The members of a flow, in the order of a frame's columns, and the hour.
pub const MEMBERS: [&[u8]; 6] = [
    b"src_app",
    b"dest_app",
    b"vpc_id",
    b"bytes_tx",
    b"bytes_rx",
    b"hour",
];
/// The first of them that is a number; those before it are names.
pub const FIRST_NUMBER: usize = 3;
pub const HOUR: usize = 5;

/// The largest value of each member that is a number.
pub const NUMBER_MAX: [u64; 3] = [COUNTER_MAX, COUNTER_MAX, u32::MAX as u64];

/// One valid flow; names are the interner's numbers.
#[derive(Clone, Copy, Default)]
pub struct Flow {
    pub names: [u32; 3],
    pub hour: u32,
    pub tx: u64,
    pub rx: u64,
}

/// Why a parser stopped: something that is not plain; whether it is wrong is for others to tell.
#[derive(Debug)]
pub struct NotPlain;

/// What parsers fill.
#[derive(Default)]
pub struct Flows {
    pub interner: Interner,
    pub flows: Vec<Flow>,
}
