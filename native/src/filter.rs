//! Which rows a question lets pass, by the ids of their names.

use crate::rows::RowIds;

/// How many ids are compared one by one.
const FEW: usize = 8;

/// Ids of one column.
pub enum Allowed {
    All,
    Few(Vec<u32>),
    /// A bit for each id; those behind the last are not allowed.
    Many(Vec<u64>),
}

impl Allowed {
    /// Let some ids pass, no other; there are many of them only if the names are many.
    pub fn these(ids: Vec<u32>) -> Allowed {
        if ids.len() <= FEW {
            return Allowed::Few(ids);
        }
        let largest = ids.iter().fold(0, |most, &id| most.max(id));
        let mut bits = vec![0; largest as usize / 64 + 1];
        for id in ids {
            bits[id as usize / 64] |= 1 << (id % 64);
        }
        Allowed::Many(bits)
    }

    #[inline]
    fn has(&self, id: u32) -> bool {
        match self {
            Allowed::All => true,
            Allowed::Few(ids) => ids.contains(&id),
            Allowed::Many(bits) => bits
                .get(id as usize / 64)
                .is_some_and(|word| word >> (id % 64) & 1 == 1),
        }
    }

    fn is_none(&self) -> bool {
        matches!(self, Allowed::Few(ids) if ids.is_empty())
    }
}

/// What is allowed in each column, in the order of `RowIds`.
pub struct Filter(pub [Allowed; 3]);

impl Filter {
    pub fn passes_all(&self) -> bool {
        self.0.iter().all(|ids| matches!(ids, Allowed::All))
    }

    pub fn passes_none(&self) -> bool {
        self.0.iter().any(Allowed::is_none)
    }

    #[inline]
    pub fn passes(&self, ids: &RowIds) -> bool {
        self.0.iter().zip(ids).all(|(allowed, &id)| allowed.has(id))
    }

    /// Tell for each of some rows, a bit each, whether it passes.
    pub fn mark(&self, rows: &[RowIds]) -> Vec<u64> {
        let mut passing = vec![u64::MAX; rows.len().div_ceil(64)];
        for (column, allowed) in self.0.iter().enumerate() {
            match allowed {
                Allowed::All => {}
                // One is the rule, and worth a loop of its own.
                Allowed::Few(ids) if ids.len() == 1 => {
                    keep(&mut passing, rows, |row| row[column] == ids[0]);
                }
                _ => keep(&mut passing, rows, |row| allowed.has(row[column])),
            }
        }
        passing
    }
}

fn keep(passing: &mut [u64], rows: &[RowIds], passes: impl Fn(&RowIds) -> bool) {
    for (word, rows) in passing.iter_mut().zip(rows.chunks(64)) {
        let bits = rows.iter().enumerate();
        *word &= bits.fold(0, |word, (bit, row)| word | u64::from(passes(row)) << bit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_allowed_ids_pass_be_they_few_or_many() {
        for count in [0, 1, 8, 9, 200] {
            let allowed = Allowed::these((0..count).map(|id| id * 3).collect());
            for id in 0..1_000 {
                assert_eq!(allowed.has(id), id % 3 == 0 && id / 3 < count);
            }
        }
    }

    #[test]
    fn rows_are_marked_as_they_pass() {
        let rows: Vec<RowIds> = (0..200).map(|row| [row % 3, row % 20, row % 7]).collect();
        let one = || Allowed::these(vec![1]);
        let many = || Allowed::these((0..10).collect());
        for filter in [
            Filter([one(), Allowed::All, Allowed::All]),
            Filter([Allowed::All, many(), Allowed::these(vec![2, 5])]),
            Filter([one(), many(), one()]),
        ] {
            let marks = filter.mark(&rows);
            for (place, row) in rows.iter().enumerate() {
                assert_eq!(
                    marks[place / 64] >> (place % 64) & 1 == 1,
                    filter.passes(row)
                );
            }
        }
    }

    #[test]
    fn a_row_passes_by_all_of_its_names() {
        let some = || Allowed::these(vec![5]);
        let filter = Filter([some(), Allowed::All, some()]);
        assert!(filter.passes(&[5, 1, 5]));
        assert!(!filter.passes(&[5, 5, 1]));
        assert!(!filter.passes_none());
        assert!(Filter([Allowed::All, Allowed::these(vec![]), some()]).passes_none());
    }
}
