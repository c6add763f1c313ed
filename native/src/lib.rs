//! flowd's data plane in Rust: the twin of flowd/kernel/reference.py, same meaning, same bytes.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod decode;
pub mod errors;
pub mod flows;
pub mod frame;
pub mod hashing;
pub mod interner;
pub mod kernel;
pub mod scan;
pub mod split;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::kernel::NativeKernel;
}
