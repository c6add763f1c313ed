//! The scanner for plain bodies: every flow with its six members and no other, strings without
//! backslash, plain unsigned integers. Anything else is `NotPlain`, and another parser's business.
//!
//! Clients write all flows of a body alike. So the scanner keeps the bytes that stood between the
//! values of the last flow, and of the next flow compares them as a whole: only the values are looked
//! at byte by byte, 16 or 8 bytes at once. Where those bytes differ it reads the flow token by token
//! and keeps what it then finds. What was compared is equal to what was read, so that it has been
//! checked.
//!
//! Why not a crate: on bodies of 1,000 flows of 136 bytes typed decoding alone takes 260 ns a flow
//! with sonic-rs and simd-json, 310 ns with serde_json; this takes a fifth of that, names interned.

use crate::flows::{FIRST_NUMBER, Flow, Flows, HOUR, MEMBERS, NUMBER_MAX, NotPlain};
use crate::frame::NAME_BYTES_MAX;
use crate::interner::{Interner, SHORT_BYTES_MAX};
use crate::words::{digits, load, low_bytes, parse_digits, plain_bytes};

const MEMBER_COUNT: usize = MEMBERS.len();

/// The longest bytes between two values that are kept for comparison.
const GAP_BYTES_MAX: usize = 32;

/// Parse a plain body into `out`.
///
/// `body` must be UTF-8; names are not checked for that again. With `lines` it holds one object a
/// line, else one array.
pub fn scan(body: &[u8], lines: bool, out: &mut Flows) -> Result<(), NotPlain> {
    let mut scanner = Scanner {
        body,
        place: 0,
        lines,
        layout: Layout::NONE,
        last_end: None,
    };
    if lines {
        scanner.scan_lines(out)
    } else {
        scanner.scan_array(out)
    }
}

/// The bytes before a value, from the end of the value before it, filled up with zeros.
#[derive(Clone, Copy)]
struct Gap {
    bytes: [u128; 2],
    masks: [u128; 2],
    size: usize,
}

impl Gap {
    /// Matches nothing: no UTF-8 has these bytes.
    const NONE: Gap = Gap {
        bytes: [u128::MAX; 2],
        masks: [u128::MAX; 2],
        size: 0,
    };

    /// Make a gap; one that is too long to be kept matches nothing.
    fn new(bytes: &[u8]) -> Gap {
        let size = bytes.len();
        if size > GAP_BYTES_MAX {
            return Gap::NONE;
        }
        let mut filled = [0; GAP_BYTES_MAX];
        filled[..size].copy_from_slice(bytes);
        let (halves, _) = filled.as_chunks();
        Gap {
            bytes: [
                u128::from_le_bytes(halves[0]),
                u128::from_le_bytes(halves[1]),
            ],
            masks: [low_bytes(size.min(16)), low_bytes(size.saturating_sub(16))],
            size,
        }
    }

    /// Give the place behind the gap if it is what stands at `place`.
    #[inline(always)]
    fn step(&self, body: &[u8], place: usize) -> Option<usize> {
        let mut differs = (load(body, place) ^ self.bytes[0]) & self.masks[0];
        if self.size > 16 {
            differs |= (load(body, place + 16) ^ self.bytes[1]) & self.masks[1];
        }
        (differs == 0).then_some(place + self.size)
    }
}

/// The order of the members of a flow and what stands before their values.
struct Layout {
    /// `gaps[0]` starts at the last value of the flow before; it fits no first flow.
    gaps: [Gap; MEMBER_COUNT],
    members: [usize; MEMBER_COUNT],
}

impl Layout {
    const NONE: Layout = Layout {
        gaps: [Gap::NONE; MEMBER_COUNT],
        members: [0; MEMBER_COUNT],
    };

    /// How many bytes of the gap between two flows are the second one's, its brace included.
    fn bytes_from_brace(&self) -> usize {
        let gap = &self.gaps[0];
        let bytes = [gap.bytes[0].to_le_bytes(), gap.bytes[1].to_le_bytes()];
        let bytes = &bytes.as_flattened()[..gap.size];
        let brace = bytes.iter().position(|&byte| byte == b'{');
        gap.size - brace.unwrap_or(0)
    }
}

/// The values of a flow as they are read.
#[derive(Default)]
struct Values {
    names: [u32; 3],
    numbers: [u64; 3],
}

impl Values {
    fn flow(&self) -> Flow {
        let [tx, rx, hour] = self.numbers;
        Flow {
            names: self.names,
            hour: hour as u32,
            tx,
            rx,
        }
    }
}

struct Scanner<'a> {
    body: &'a [u8],
    place: usize,
    lines: bool,
    layout: Layout,
    /// Where the last value of the last flow that was read token by token ends.
    last_end: Option<usize>,
}

impl Scanner<'_> {
    fn scan_array(&mut self, out: &mut Flows) -> Result<(), NotPlain> {
        self.skip_space();
        self.take(b'[')?;
        self.skip_space();
        if self.peek() == b']' {
            self.place += 1;
        } else {
            loop {
                self.read_flow(out)?;
                self.scan_alike(out)?;
                self.end_flow()?;
                self.skip_space();
                match self.next() {
                    b',' => self.skip_space(),
                    b']' => break,
                    _ => return Err(NotPlain),
                }
            }
        }
        self.skip_space();
        self.at_end().then_some(()).ok_or(NotPlain)
    }

    fn scan_lines(&mut self, out: &mut Flows) -> Result<(), NotPlain> {
        self.skip_lines();
        while !self.at_end() {
            self.read_flow(out)?;
            self.scan_alike(out)?;
            self.end_flow()?;
            self.skip_space();
            if !self.at_end() && self.next() != b'\n' {
                return Err(NotPlain);
            }
            self.skip_lines();
        }
        Ok(())
    }

    /// Read flows for as long as each looks like the one before it, in whichever way.
    ///
    /// Starts and stops behind the last value of a flow.
    fn scan_alike(&mut self, out: &mut Flows) -> Result<(), NotPlain> {
        loop {
            let (place, differs_at) = read_alike(self.body, self.place, &self.layout, out)?;
            self.place = place;
            self.last_end = Some(place);
            let Some(flow) = differs_at else {
                return Ok(());
            };
            self.place = flow;
            self.read_flow(out)?;
        }
    }

    /// Read one flow token by token up to behind its last value, and keep how it looks.
    #[cold]
    fn read_flow(&mut self, out: &mut Flows) -> Result<(), NotPlain> {
        let mut values = Values::default();
        let mut layout = Layout::NONE;
        let mut seen = [false; MEMBER_COUNT];
        let mut gap_start = self.last_end;
        self.take(b'{')?;
        for number in 0..MEMBER_COUNT {
            if number > 0 {
                self.skip_space();
                self.take(b',')?;
            }
            self.skip_space();
            self.take(b'"')?;
            let member = self.read_key()?;
            if seen[member] {
                return Err(NotPlain);
            }
            seen[member] = true;
            self.skip_space();
            self.take(b':')?;
            self.skip_space();
            if member < FIRST_NUMBER {
                self.take(b'"')?;
            }
            layout.members[number] = member;
            if let Some(start) = gap_start {
                layout.gaps[number] = Gap::new(&self.body[start..self.place]);
            }
            let interner = &mut out.interner;
            self.place = read_value(self.body, self.place, member, &mut values, interner)?;
            gap_start = Some(self.place);
        }
        self.last_end = gap_start;
        self.layout = layout;
        out.flows.push(values.flow());
        Ok(())
    }

    fn end_flow(&mut self) -> Result<(), NotPlain> {
        self.skip_space();
        self.take(b'}')
    }

    fn read_key(&mut self) -> Result<usize, NotPlain> {
        let rest = &self.body[self.place..];
        for (member, key) in MEMBERS.iter().enumerate() {
            if rest.starts_with(key) && rest.get(key.len()) == Some(&b'"') {
                self.place += key.len() + 1;
                return Ok(member);
            }
        }
        Err(NotPlain)
    }

    fn skip_space(&mut self) {
        while let b' ' | b'\t' | b'\r' | b'\n' = self.peek() {
            // A line is a flow of its own, so that it ends nowhere else.
            if self.lines && self.peek() == b'\n' {
                return;
            }
            self.place += 1;
        }
    }

    fn skip_lines(&mut self) {
        while let b' ' | b'\t' | b'\r' | b'\n' = self.peek() {
            self.place += 1;
        }
    }

    fn at_end(&self) -> bool {
        self.place >= self.body.len()
    }

    /// The next byte, 0 behind the end.
    fn peek(&self) -> u8 {
        self.body.get(self.place).copied().unwrap_or(0)
    }

    fn next(&mut self) -> u8 {
        let byte = self.peek();
        self.place += 1;
        byte
    }

    fn take(&mut self, byte: u8) -> Result<(), NotPlain> {
        if self.next() == byte {
            Ok(())
        } else {
            Err(NotPlain)
        }
    }
}

/// Read flows for as long as they are laid out like the last one.
///
/// Gives the place behind the last value that belongs to a whole flow and, when it is a flow that is
/// laid out otherwise that follows, where that starts.
fn read_alike(
    body: &[u8],
    mut place: usize,
    layout: &Layout,
    out: &mut Flows,
) -> Result<(usize, Option<usize>), NotPlain> {
    while let Some(first) = layout.gaps[0].step(body, place) {
        let mut values = Values::default();
        let mut next = first;
        for number in 0..MEMBER_COUNT {
            if number > 0 {
                let Some(behind) = layout.gaps[number].step(body, next) else {
                    return Ok((place, Some(first - layout.bytes_from_brace())));
                };
                next = behind;
            }
            let member = layout.members[number];
            next = read_value(body, next, member, &mut values, &mut out.interner)?;
        }
        place = next;
        out.flows.push(values.flow());
    }
    Ok((place, None))
}

/// Read a value, a string from behind its first quote on, and give the place behind it.
#[inline(always)]
fn read_value(
    body: &[u8],
    place: usize,
    member: usize,
    values: &mut Values,
    interner: &mut Interner,
) -> Result<usize, NotPlain> {
    if member < FIRST_NUMBER {
        let (name, place) = read_name(body, place, interner)?;
        values.names[member] = name;
        Ok(place)
    } else {
        let (number, place) = read_number(body, place)?;
        let member = (member - FIRST_NUMBER) % NUMBER_MAX.len(); // spares a check of bounds
        if number > NUMBER_MAX[member] {
            return Err(NotPlain);
        }
        values.numbers[member] = number;
        Ok(place)
    }
}

#[inline(always)]
fn read_name(body: &[u8], place: usize, interner: &mut Interner) -> Result<(u32, usize), NotPlain> {
    let bytes = load(body, place);
    let size = plain_bytes(bytes);
    if size > SHORT_BYTES_MAX {
        return read_long_name(body, place, interner);
    }
    if body.get(place + size) != Some(&b'"') {
        return Err(NotPlain);
    }
    let name = interner.short(bytes & low_bytes(size)).ok_or(NotPlain)?;
    Ok((name, place + size + 1))
}

#[inline(never)]
fn read_long_name(
    body: &[u8],
    place: usize,
    interner: &mut Interner,
) -> Result<(u32, usize), NotPlain> {
    let mut size = 0;
    loop {
        let plain = plain_bytes(load(body, place + size));
        size += plain;
        if plain < 16 {
            break;
        }
        if size > NAME_BYTES_MAX {
            return Err(NotPlain);
        }
    }
    if body.get(place + size) != Some(&b'"') {
        return Err(NotPlain);
    }
    let name = interner.number(&body[place..place + size]);
    Ok((name.ok_or(NotPlain)?, place + size + 1))
}

/// Read digits; what follows them is not looked at.
#[inline(always)]
fn read_number(body: &[u8], place: usize) -> Result<(u64, usize), NotPlain> {
    let bytes = load(body, place);
    let size = digits(bytes as u64);
    if size == 0 || (size > 1 && bytes as u8 == b'0') {
        return Err(NotPlain);
    }
    let number = parse_digits(bytes as u64, size);
    if size == 8 {
        return read_long_number(body, place + 8, number);
    }
    Ok((number, place + size))
}

/// Go on with a number behind its first 8 digits.
#[inline(never)]
fn read_long_number(
    body: &[u8],
    mut place: usize,
    mut number: u64,
) -> Result<(u64, usize), NotPlain> {
    let bytes = load(body, place) as u64;
    let size = digits(bytes);
    place += size;
    if size > 0 {
        number = number * 10_u64.pow(size as u32) + parse_digits(bytes, size);
    }
    if size == 8 {
        while let Some(digit @ b'0'..=b'9') = body.get(place) {
            let tens = number.checked_mul(10).ok_or(NotPlain)?;
            number = tens.checked_add(u64::from(digit - b'0')).ok_or(NotPlain)?;
            place += 1;
        }
    }
    Ok((number, place))
}

const _: () = assert!(HOUR - FIRST_NUMBER == NUMBER_MAX.len() - 1);
const _: () = assert!(SHORT_BYTES_MAX < 16);
