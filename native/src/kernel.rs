//! NativeKernel: the seam that flowd/kernel/interface.py describes, on the parts of this crate.

use std::sync::Mutex;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyBytes, PyDict, PyType};

use crate::classes::{self, FrameSlice, Merger, Names, Table};
use crate::errors::too_large;
use crate::frame::{FrameBytes, Header};
use crate::hashing;
use crate::split::{Outcome, Splitter};

/// Of longer bodies the interpreter lock is let go while they are split.
const LOCKED_BYTES_MAX: usize = 65_536;

/// No more splitters are kept than threads have split bodies at once, and no more than this.
const IDLE_SPLITTERS_MAX: usize = 8;

static SPLIT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static REFERENCE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// See `interface.Kernel`.
#[pyclass(frozen, module = "flowd._native")]
pub struct NativeKernel {
    splitters: Mutex<Vec<Splitter>>,
    /// The kernel that words what is wrong with a body; made when it is first asked to.
    reference: PyOnceLock<Py<PyAny>>,
}

#[pymethods]
impl NativeKernel {
    #[new]
    fn new() -> NativeKernel {
        NativeKernel {
            splitters: Mutex::new(Vec::new()),
            reference: PyOnceLock::new(),
        }
    }

    #[getter]
    fn name(&self) -> &'static str {
        "native"
    }

    #[pyo3(signature = (body, body_format, *, shard_count, seed, flows_max, skip_bad))]
    #[allow(clippy::too_many_arguments)] // the seam has as many
    fn split<'py>(
        &self,
        py: Python<'py>,
        body: &Bound<'py, PyAny>,
        body_format: &Bound<'py, PyAny>,
        shard_count: usize,
        seed: u64,
        flows_max: usize,
        skip_bad: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bytes = frame_bytes(body)?;
        let lines = body_format.eq("ndjson")?;
        let mut splitter = self.take_splitter();
        let mut work = || splitter.split(&bytes, lines, shard_count, seed, flows_max);
        let outcome = if bytes.len() > LOCKED_BYTES_MAX {
            py.detach(work)
        } else {
            work()
        };
        self.keep_splitter(splitter);
        match outcome {
            Outcome::Split(frames, flows) => {
                let by_shard = PyDict::new(py);
                for (shard, frame) in &frames {
                    by_shard.set_item(shard, PyBytes::new(py, frame))?;
                }
                let class = SPLIT.import(py, "flowd.kernel.interface", "Split")?;
                class.call1((by_shard, flows))
            }
            Outcome::TooLarge => Err(too_large(format!(
                "more than {} flows in one batch (limits.flows)",
                with_commas(flows_max)
            ))),
            Outcome::Refused => {
                let options = [
                    ("shard_count", shard_count.into_pyobject(py)?.into_any()),
                    ("seed", seed.into_pyobject(py)?.into_any()),
                    ("flows_max", flows_max.into_pyobject(py)?.into_any()),
                    (
                        "skip_bad",
                        skip_bad.into_pyobject(py)?.to_owned().into_any(),
                    ),
                ];
                self.reference(py)?.call_method(
                    "split",
                    (PyBytes::new(py, &bytes), body_format),
                    Some(&options.into_py_dict(py)?),
                )
            }
        }
    }

    fn batch_id(
        &self,
        py: Python<'_>,
        seed: u64,
        principal: &[u8],
        key: &[u8],
        body: &Bound<'_, PyAny>,
    ) -> PyResult<u128> {
        let body = frame_bytes(body)?;
        let work = || hashing::batch_id(seed, principal, key, &body);
        Ok(if body.len() > LOCKED_BYTES_MAX {
            py.detach(work)
        } else {
            work()
        })
    }

    fn frame_flows(&self, frame: &Bound<'_, PyAny>) -> PyResult<u32> {
        Ok(Header::parse(&frame_bytes(frame)?)?.rows)
    }

    fn buckets(&self, frame: &Bound<'_, PyAny>) -> PyResult<Vec<(u32, FrameSlice)>> {
        classes::buckets(frame)
    }

    fn new_names(&self) -> Names {
        Names::default()
    }

    fn new_table(&self, names: Py<Names>) -> Table {
        Table::make(names)
    }

    fn new_merger(
        &self,
        sources: usize,
        answer_format: &str,
        group: Vec<String>,
        limit: Option<u64>,
    ) -> PyResult<Merger> {
        Merger::make(sources, answer_format, &group, limit)
    }
}

impl NativeKernel {
    fn take_splitter(&self) -> Splitter {
        let mut idle = self
            .splitters
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        idle.pop().unwrap_or_default()
    }

    fn keep_splitter(&self, splitter: Splitter) {
        let mut idle = self
            .splitters
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if idle.len() < IDLE_SPLITTERS_MAX {
            idle.push(splitter);
        }
    }

    fn reference<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        let made = self.reference.get_or_try_init(py, || {
            let class = REFERENCE.import(py, "flowd.kernel.reference", "ReferenceKernel")?;
            class.call0().map(Bound::unbind)
        })?;
        Ok(made.bind(py))
    }
}

/// Take the bytes of a bytes object without a copy, of another buffer with one.
pub fn frame_bytes(object: &Bound<'_, PyAny>) -> PyResult<FrameBytes> {
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Ok(PyBackedBytes::from(bytes.clone()).into());
    }
    let buffer = PyBuffer::<u8>::get(object).map_err(|_| {
        PyTypeError::new_err("bytes or a memoryview of bytes, please, not anything else")
    })?;
    if !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err("a memoryview with gaps is no frame"));
    }
    Ok(buffer.to_vec(object.py())?.into())
}

/// Write a number with its thousands set apart, as Python's format does.
fn with_commas(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
