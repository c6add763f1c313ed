//! Text by the word: 16 or 8 bytes at once, without a loop and mostly without a branch.

/// The 16 bytes from a place on; behind the end are zeros, which are part of no plain value.
#[inline(always)]
pub fn load(body: &[u8], place: usize) -> u128 {
    match body.get(place..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => u128::from_le_bytes(*bytes),
        None => load_last(body, place),
    }
}

#[cold]
fn load_last(body: &[u8], place: usize) -> u128 {
    let mut bytes = [0; 16];
    if let Some(rest) = body.get(place..) {
        bytes[..rest.len()].copy_from_slice(rest);
    }
    u128::from_le_bytes(bytes)
}

/// A mask of the first `size` bytes, 0 to 16.
#[inline(always)]
pub fn low_bytes(size: usize) -> u128 {
    static MASKS: [u128; 32] = {
        let mut masks = [u128::MAX; 32];
        let mut size = 0;
        while size < 16 {
            masks[size] = (1 << (8 * size)) - 1;
            size += 1;
        }
        masks
    };
    MASKS[size % MASKS.len()]
}

/// How many bytes come before the first quote, backslash or byte below 0x20; 16 when there is none.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn plain_bytes(bytes: u128) -> usize {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8,
    };
    #[target_feature(enable = "sse2")]
    #[inline]
    fn find(bytes: u128) -> u32 {
        let bytes = _mm_set_epi64x((bytes >> 64) as i64, bytes as i64);
        let quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
        let backslashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
        let controls = _mm_cmpeq_epi8(bytes, _mm_min_epu8(bytes, _mm_set1_epi8(0x1F)));
        let found = _mm_or_si128(_mm_or_si128(quotes, backslashes), controls);
        _mm_movemask_epi8(found) as u32
    }
    // SAFETY: what `find` needs is SSE2, and SSE2 is part of every x86-64 processor.
    let found = unsafe { find(bytes) };
    (found | 1 << 16).trailing_zeros() as usize
}

/// How many bytes come before the first quote, backslash or byte below 0x20; 16 when there is none.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn plain_bytes(bytes: u128) -> usize {
    let special = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
    bytes.to_le_bytes().iter().position(special).unwrap_or(16)
}

const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// How many of 8 bytes are digits before one that is none.
#[inline(always)]
pub fn digits(bytes: u64) -> usize {
    // A digit is 0 to 9 after this; of what is above 9 the sum reaches the uppermost bit, of what is
    // above 127 it is there already. No sum carries: 127 + 118 is below 256.
    let values = bytes ^ each(b'0');
    let others = (((values & each(0x7F)) + each(0x76)) | values) & each(0x80);
    others.trailing_zeros() as usize / 8
}

/// The value of the first `size` digits, 1 to 8, the least significant byte first in the text.
#[inline(always)]
pub fn parse_digits(bytes: u64, size: usize) -> u64 {
    // Digits move up to the end of the text, zeros come before them. Pairs, fours and then all
    // eight are joined by multiplications.
    let shift = (64 - 8 * size as u32) & 63;
    let digits = (bytes << shift) & each(0x0F);
    let pairs = (digits * 10 + (digits >> 8)) & 0x00FF_00FF_00FF_00FF;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_FFFF_0000_FFFF;
    (fours * 10_000 + (fours >> 32)) & 0xFFFF_FFFF
}
