//! The classes of flowd.errors, imported once.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::frame::FrameError;

static FRAME_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static TOO_LARGE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

fn raise(class: &PyOnceLock<Py<PyType>>, name: &str, text: String) -> PyErr {
    Python::attach(|py| match class.import(py, "flowd.errors", name) {
        Ok(class) => PyErr::from_type(class.clone(), text),
        Err(error) => PyRuntimeError::new_err(format!("{text} ({error})")),
    })
}

impl From<FrameError> for PyErr {
    fn from(error: FrameError) -> PyErr {
        raise(&FRAME_ERROR, "FrameError", error.0)
    }
}

/// Make a flowd.errors.TooLarge.
pub fn too_large(text: String) -> PyErr {
    raise(&TOO_LARGE, "TooLarge", text)
}
