//! The classes that Python sees besides the kernel's own: thin wrappings of this crate's parts.

use std::cell::RefCell;

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyString, PyType};

use crate::filter::{Allowed, Filter};
use crate::frame::Frame;
use crate::kernel::frame_bytes;
use crate::merge::Merge;
use crate::merge_page::Key;
use crate::names::{NameSet, Numbering};
use crate::order::KeyNames;
use crate::paging::Question;
use crate::render::{Format, Group};
use crate::slice::{FlowColumns, Slice, slices_by_hour};
use crate::table::RowTable;

static SUMS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static ROW_KEY: PyOnceLock<Py<PyType>> = PyOnceLock::new();

thread_local! {
    /// A slice's flows while they are applied.
    static FLOWS: RefCell<FlowColumns> = RefCell::default();
}

/// See `interface.Slice`.
#[pyclass(frozen, module = "flowd._native")]
pub struct FrameSlice(Slice);

#[pymethods]
impl FrameSlice {
    #[getter]
    fn flows(&self) -> usize {
        self.0.flows
    }
}

impl FrameSlice {
    fn with_flows<T>(&self, ids: &[u32], work: impl FnOnce(&FlowColumns) -> T) -> T {
        let Slice {
            frame,
            start,
            flows,
        } = &self.0;
        FLOWS.with_borrow_mut(|columns| {
            columns.fill(&frame.frame, *start, *flows, ids);
            work(columns)
        })
    }
}

/// See `interface.Kernel.buckets`.
pub fn buckets(frame: &Bound<'_, PyAny>) -> PyResult<Vec<(u32, FrameSlice)>> {
    let slices = slices_by_hour(Frame::parse(frame_bytes(frame)?)?)?;
    let slices = slices.into_iter();
    Ok(slices
        .map(|(hour, part)| (hour, FrameSlice(part)))
        .collect())
}

/// See `interface.Names`.
#[pyclass(module = "flowd._native")]
#[derive(Default)]
pub struct Names {
    set: NameSet,
    /// For whichever table works with these names just now.
    numbering: Numbering,
}

#[pymethods]
impl Names {
    #[getter]
    fn count(&self) -> usize {
        self.set.count()
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.set.bytes()
    }
}

/// A `flow.RowKey` of a question: the hour and the names of vpc_id, src_app and dest_app.
type RowKey<'py> = (
    i64,
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    Bound<'py, PyString>,
);

/// See `interface.Table`.
#[pyclass(module = "flowd._native")]
pub struct Table {
    names: Py<Names>,
    table: RowTable,
}

impl Table {
    pub fn make(names: Py<Names>) -> Table {
        let table = RowTable::default();
        Table { names, table }
    }
}

#[pymethods]
impl Table {
    #[getter]
    fn rows(&self) -> usize {
        self.table.rows()
    }

    #[getter]
    fn blocks(&self) -> usize {
        self.table.blocks()
    }

    #[getter]
    fn saturations(&self) -> u64 {
        self.table.saturations()
    }

    fn apply(&mut self, py: Python<'_>, part: &FrameSlice, lsn: u64) -> usize {
        let mut names = self.names.borrow_mut(py);
        let Names { set, numbering } = &mut *names;
        let ids = part.0.frame.intern(set);
        let new = part.with_flows(&ids, |flows| self.table.apply(flows, lsn));
        self.table.keep_up(set, numbering);
        new
    }

    fn count_new(&self, py: Python<'_>, part: &FrameSlice) -> usize {
        let ids = part.0.frame.find(&self.names.borrow(py).set);
        part.with_flows(&ids, |flows| self.table.count_new(flows))
    }

    fn page<'py>(
        &mut self,
        py: Python<'py>,
        hour: u32,
        filters: [Vec<Bound<'py, PyString>>; 3],
        group: Vec<String>,
        after: Option<RowKey<'py>>,
        limit: usize,
    ) -> PyResult<(Bound<'py, PyBytes>, bool)> {
        let mut names = self.names.borrow_mut(py);
        let Names { set, numbering } = &mut *names;
        let group = parse_group(&group)?;
        let kept = group.names;
        let mut question = Question {
            filter: find_filter(&filters, set)?,
            kept,
            after: None,
            limit,
        };
        let label = if group.hour { hour } else { 0 };
        if let Some((after_hour, vpc, src, dest)) = after {
            let place = after_hour.cmp(&i64::from(hour));
            if group.hour && place.is_gt() {
                question.filter = Filter([const { Allowed::Few(Vec::new()) }; 3]);
            } else if !group.hour || place.is_eq() {
                let key = [utf8(&src)?, utf8(&dest)?, utf8(&vpc)?];
                question.after = Some(keep_names(key, kept));
            }
        }
        let (page, is_last) = self.table.page(label, &question, set, numbering);
        Ok((PyBytes::new(py, &page), is_last))
    }

    fn dump<'py>(&self, py: Python<'py>, block: isize) -> PyResult<Bound<'py, PyBytes>> {
        let blocks = self.table.blocks();
        match usize::try_from(block) {
            Ok(block) if block < blocks => {
                let mut names = self.names.borrow_mut(py);
                let Names { set, numbering } = &mut *names;
                Ok(PyBytes::new(py, &self.table.dump(block, set, numbering)))
            }
            _ => Err(PyIndexError::new_err(format!("block {block} of {blocks}"))),
        }
    }

    fn load(&mut self, py: Python<'_>, block: &Bound<'_, PyAny>, lsn: u64) -> PyResult<()> {
        let frame = Frame::parse(frame_bytes(block)?)?;
        let mut names = self.names.borrow_mut(py);
        let Names { set, numbering } = &mut *names;
        FLOWS.with_borrow_mut(|flows| self.table.load(&frame, lsn, set, flows))?;
        self.table.keep_up(set, numbering);
        Ok(())
    }

    fn sums<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let totals = self.table.totals();
        let class = SUMS.import(py, "flowd.kernel.interface", "Sums")?;
        class.call1((totals.rows, totals.tx, totals.rx))
    }

    fn digest(&mut self, py: Python<'_>) -> u128 {
        self.table.digest(&self.names.borrow(py).set)
    }
}

/// See `interface.Merger`.
#[pyclass(module = "flowd._native")]
pub struct Merger {
    merge: Merge,
    /// What `drain` renders into.
    text: Vec<u8>,
}

impl Merger {
    /// `answer_format`: a `query.AnswerFormat`, which is a string.
    pub fn make(
        sources: usize,
        answer_format: &str,
        group: &[String],
        limit: Option<u64>,
    ) -> PyResult<Merger> {
        let format = match answer_format {
            "json" => Format::Json,
            "ndjson" => Format::Ndjson,
            "csv" => Format::Csv,
            other => return Err(PyValueError::new_err(format!("no format: {other}"))),
        };
        Ok(Merger {
            merge: Merge::new(sources, format, parse_group(group)?, limit),
            text: Vec::new(),
        })
    }

    fn check(&self, source: usize) -> PyResult<()> {
        let sources = self.merge.sources();
        if source < sources {
            return Ok(());
        }
        let reason = format!("source {source} of {sources}");
        Err(PyIndexError::new_err(reason))
    }
}

#[pymethods]
impl Merger {
    #[getter]
    fn rows(&self) -> u64 {
        self.merge.rows
    }

    #[getter]
    fn done(&self) -> bool {
        self.merge.done
    }

    #[getter]
    fn more(&self) -> bool {
        self.merge.more
    }

    #[getter]
    fn last_key<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let key = self.merge.last_key.as_ref();
        key.map(|key| make_row_key(py, key)).transpose()
    }

    fn wanted(&self) -> Vec<usize> {
        self.merge.wanted()
    }

    fn feed(&mut self, source: usize, pages: Vec<Bound<'_, PyAny>>, last: bool) -> PyResult<()> {
        self.check(source)?;
        let mut frames = Vec::with_capacity(pages.len());
        for page in &pages {
            frames.push(Frame::parse(frame_bytes(page)?)?);
        }
        self.merge.feed(source, frames, last);
        Ok(())
    }

    fn fed_to<'py>(&self, py: Python<'py>, source: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.check(source)?;
        let key = self.merge.fed_to(source);
        key.map(|key| make_row_key(py, key)).transpose()
    }

    fn drain<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.text.clear();
        self.merge.drain(&mut self.text);
        PyBytes::new(py, &self.text)
    }
}

fn make_row_key<'py>(py: Python<'py>, key: &Key) -> PyResult<Bound<'py, PyAny>> {
    let class = ROW_KEY.import(py, "flowd.flow", "RowKey")?;
    let [src, dest, vpc] = &key.names;
    let text = |name: &[u8]| PyString::from_bytes(py, name);
    class.call1((key.hour, text(vpc)?, text(src)?, text(dest)?))
}

fn parse_group(members: &[String]) -> PyResult<Group> {
    let has = |member: &str| members.iter().any(|other| other == member);
    Ok(Group {
        hour: has("hour"),
        names: ["src_app", "dest_app", "vpc_id"].map(has),
    })
}

fn keep_names(key: KeyNames, kept: [bool; 3]) -> KeyNames {
    let mut kept = kept.into_iter();
    key.map(|name| {
        if kept.next() == Some(true) {
            name
        } else {
            Vec::new()
        }
    })
}

/// Encode text that came with a query; what is not Unicode becomes bytes that no name has.
fn utf8(text: &Bound<'_, PyString>) -> PyResult<Vec<u8>> {
    if let Ok(text) = text.to_str() {
        return Ok(text.as_bytes().to_vec());
    }
    text.call_method1("encode", ("utf-8", "surrogatepass"))?
        .extract()
}

fn find_filter(filters: &[Vec<Bound<'_, PyString>>; 3], names: &NameSet) -> PyResult<Filter> {
    let mut allowed = [const { Allowed::All }; 3];
    for (allowed, texts) in allowed.iter_mut().zip(filters) {
        if !texts.is_empty() {
            let mut ids = Vec::with_capacity(texts.len());
            for text in texts {
                ids.extend(names.find(&utf8(text)?));
            }
            *allowed = Allowed::these(ids);
        }
    }
    Ok(Filter(allowed))
}
