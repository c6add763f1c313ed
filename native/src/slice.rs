//! The flows of one hour in one frame, and the ids of the frame's names, looked up once for all of
//! its hours.

use std::sync::{Arc, Mutex, PoisonError};

use crate::frame::{DEST, Frame, FrameError, RX, SRC, TX, VPC};
use crate::names::NameSet;
use crate::rows::RowIds;

type Ids = Arc<[u32]>;

/// A frame and what its names are called in one set of names.
pub struct SharedFrame {
    pub frame: Frame,
    /// Of the set with this serial.
    interned: Mutex<Option<(u64, Ids)>>,
}

/// For ids of names that the set does not have: these count down from here.
const UNKNOWN_MAX: u32 = u32::MAX - 1;

impl SharedFrame {
    pub fn new(frame: Frame) -> Self {
        SharedFrame {
            frame,
            interned: Mutex::new(None),
        }
    }

    fn known(&self, names: &NameSet) -> Option<Ids> {
        let interned = self.interned.lock().unwrap_or_else(PoisonError::into_inner);
        match &*interned {
            Some((serial, ids)) if *serial == names.serial => Some(Arc::clone(ids)),
            _ => None,
        }
    }

    /// Give the id of each of the frame's names, interning those that are new.
    pub fn intern(&self, names: &mut NameSet) -> Ids {
        if let Some(ids) = self.known(names) {
            return ids;
        }
        let ids: Ids = self.frame.names().map(|name| names.intern(name)).collect();
        let mut interned = self.interned.lock().unwrap_or_else(PoisonError::into_inner);
        *interned = Some((names.serial, Arc::clone(&ids)));
        ids
    }

    /// Give the id of each of the frame's names; one that is not held has one that no other has.
    pub fn find(&self, names: &NameSet) -> Ids {
        self.known(names)
            .unwrap_or_else(|| find_names(&self.frame, names))
    }
}

/// See `SharedFrame::find`.
pub fn find_names(frame: &Frame, names: &NameSet) -> Ids {
    let unknown = (0..).map(|index| UNKNOWN_MAX - index);
    let found = frame.names().zip(unknown);
    found
        .map(|(name, unknown)| names.find(name).unwrap_or(unknown))
        .collect()
}

/// Give a frame's parts by hour, ascending.
pub fn slices_by_hour(frame: Frame) -> Result<Vec<(u32, Slice)>, FrameError> {
    if !frame.header.is_complete() {
        let reason = "a frame, but not a batch: a name column is missing";
        return Err(FrameError(reason.into()));
    }
    let frame = Arc::new(SharedFrame::new(frame));
    let mut start = 0;
    let mut slices = Vec::with_capacity(frame.frame.groups.len());
    for &(hour, flows) in &frame.frame.groups {
        let flows = flows as usize;
        let part = Slice {
            frame: Arc::clone(&frame),
            start,
            flows,
        };
        slices.push((hour, part));
        start += flows;
    }
    Ok(slices)
}

/// `flows` rows of a complete frame from row `start` on, all of one hour.
pub struct Slice {
    pub frame: Arc<SharedFrame>,
    pub start: usize,
    pub flows: usize,
}

/// FlowColumns in columns, the names as ids of a set; kept from use to use.
#[derive(Default)]
pub struct FlowColumns {
    pub src: Vec<u32>,
    pub dest: Vec<u32>,
    pub vpc: Vec<u32>,
    pub tx: Vec<u64>,
    pub rx: Vec<u64>,
}

impl FlowColumns {
    /// Take the rows of a complete frame in place of what is here; `ids`: of its names.
    pub fn fill(&mut self, frame: &Frame, start: usize, flows: usize, ids: &[u32]) {
        self.clear();
        let rows = || start..start + flows;
        frame.column(SRC, rows()).append_mapped(ids, &mut self.src);
        frame
            .column(DEST, rows())
            .append_mapped(ids, &mut self.dest);
        frame.column(VPC, rows()).append_mapped(ids, &mut self.vpc);
        frame.column(TX, rows()).append_u64(&mut self.tx);
        frame.column(RX, rows()).append_u64(&mut self.rx);
    }

    fn clear(&mut self) {
        for column in [&mut self.src, &mut self.dest, &mut self.vpc] {
            column.clear();
        }
        self.tx.clear();
        self.rx.clear();
    }

    #[inline]
    pub fn ids(&self, at: usize) -> RowIds {
        [self.src[at], self.dest[at], self.vpc[at]]
    }

    pub fn len(&self) -> usize {
        self.tx.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tx.is_empty()
    }
}
