//! flowd's data plane in Rust: the twin of flowd/kernel/reference.py, same meaning, same bytes.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod classes;
pub mod column;
pub mod decode;
pub mod errors;
pub mod filter;
pub mod flows;
pub mod frame;
pub mod hashing;
pub mod index;
pub mod interner;
pub mod kernel;
pub mod merge;
pub mod merge_page;
pub mod names;
pub mod order;
pub mod paging;
pub mod render;
pub mod rows;
pub mod scan;
pub mod slice;
pub mod sort;
pub mod split;
pub mod table;
pub mod tournament;
pub mod words;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::classes::{FrameSlice, Merger, Names, Table};
    #[pymodule_export]
    use crate::kernel::NativeKernel;
}
