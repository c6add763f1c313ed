//! flowd's data plane in Rust: the twin of flowd/kernel/reference.py, same meaning, same bytes.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod errors;
pub mod frame;
pub mod hashing;
