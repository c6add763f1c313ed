//! The hashes that must never change, of shards, rows and batches, and the one that changes with
//! every process, of names in memory.
//!
//! All but the last take names behind their length, so that ("ab", "c") and ("a", "bc") differ; the
//! exact bytes are in docs/frame-format.md.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed, xxh3_128_with_seed};

use crate::flows::Flow;
use crate::frame::NAME_BYTES_MAX;
use crate::interner::Interner;

/// Hash a name for a table in memory; `keys` are random, so that nobody can aim.
#[inline]
pub fn hash_name(keys: &RandomState, name: &[u8]) -> u64 {
    let mut hasher = keys.build_hasher();
    hasher.write(name);
    hasher.finish()
}

/// Give one row's part of a digest, modulo 2^128.
///
/// `key`: src_app, dest_app and vpc_id, each behind its length, 2 bytes little-endian.
pub fn row_digest(key: &[u8], bytes_tx: u64, bytes_rx: u64) -> u128 {
    let of_tx = xxh3_128_with_seed(key, 1).wrapping_mul(u128::from(bytes_tx));
    let of_rx = xxh3_128_with_seed(key, 2).wrapping_mul(u128::from(bytes_rx));
    of_tx
        .wrapping_add(of_rx)
        .wrapping_add(xxh3_128_with_seed(key, 3))
}

/// Name a keyed batch: xxh3_128 of the three, each behind its length in 8 bytes; never 0.
pub fn batch_id(seed: u64, principal: &[u8], key: &[u8], body: &[u8]) -> u128 {
    let mut state = Xxh3::with_seed(seed);
    for part in [principal, key, body] {
        state.update(&(part.len() as u64).to_le_bytes());
        state.update(part);
    }
    state.digest128().max(1)
}

/// How many keys are written before they are hashed: what has just been written byte by byte is slow
/// to read word by word.
pub const KEYS_AT_ONCE: usize = 16;

/// The keys of some flows, one behind the other, and room for what `put_prefixed` writes behind.
pub type KeyBuffer = [u8; KEYS_AT_ONCE * (3 * (2 + NAME_BYTES_MAX) + 4) + 16];

/// Tells the shards of flows: xxh3_64(src_app, dest_app, vpc_id, day; seed) mod shard count.
pub struct Sharder {
    seed: u64,
    shard_count: u64,
    keys: KeyBuffer,
}

impl Sharder {
    /// `seed`: the data directory's; `shard_count`: 1 … 64.
    pub fn new(seed: u64, shard_count: usize) -> Sharder {
        Sharder {
            seed,
            shard_count: shard_count as u64,
            keys: [0; size_of::<KeyBuffer>()],
        }
    }

    /// Give the shards, 0 … shard count - 1, of some flows, at most `KEYS_AT_ONCE`.
    ///
    /// `days`: floor(hour / 24) of each of the hours that the flows name by their ranks.
    pub fn shards(
        &mut self,
        interner: &Interner,
        flows: &[Flow],
        days: &[u32],
    ) -> impl Iterator<Item = usize> {
        let mut ends = [0; KEYS_AT_ONCE];
        let mut size = 0;
        for (flow, end) in flows.iter().zip(&mut ends) {
            for &name in &flow.names {
                size = interner.put_prefixed(name, &mut self.keys, size);
            }
            let day = days[flow.hour as usize];
            self.keys[size..size + 4].copy_from_slice(&day.to_le_bytes());
            size += 4;
            *end = size;
        }
        let mut start = 0;
        ends.into_iter().take(flows.len()).map(move |end| {
            let hash = xxh3_64_with_seed(&self.keys[start..end], self.seed);
            start = end;
            if self.shard_count.is_power_of_two() {
                (hash & (self.shard_count - 1)) as usize
            } else {
                (hash % self.shard_count) as usize
            }
        })
    }
}
