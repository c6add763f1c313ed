//! Which of several sorted runs has the next item: a tree of losers.
//!
//! The runs are the caller's, who compares their next items by the runs' numbers; when the winner
//! has moved on, one comparison a level finds the next.
//!
//! Source: D. Knuth, The Art of Computer Programming, volume 3, 5.4.1.

/// See the module's head.
pub struct Tournament {
    /// Node i has the children 2 · i and 2 · i + 1; run r is the leaf at r + the number of runs.
    losers: Vec<usize>,
    winner: usize,
}

impl Tournament {
    /// Play all runs, of which there is one at least.
    ///
    /// `is_before`: whether a run's next item comes before another's; a run at its end has none and
    /// comes before no other.
    pub fn new(runs: usize, is_before: impl Fn(usize, usize) -> bool) -> Tournament {
        let mut losers = vec![0; runs];
        let mut winners: Vec<usize> = (0..runs).chain(0..runs).collect();
        for node in (1..runs).rev() {
            let (one, other) = (winners[2 * node], winners[2 * node + 1]);
            let (winner, loser) = if is_before(other, one) {
                (other, one)
            } else {
                (one, other)
            };
            winners[node] = winner;
            losers[node] = loser;
        }
        let winner = winners[1];
        Tournament { losers, winner }
    }

    /// The run whose next item comes first.
    #[inline]
    pub fn winner(&self) -> usize {
        self.winner
    }

    /// Play again what the winner played, as its next item is another.
    #[inline]
    pub fn replay(&mut self, is_before: impl Fn(usize, usize) -> bool) {
        let mut winner = self.winner;
        let mut node = (winner + self.losers.len()) / 2;
        while node > 0 {
            let loser = &mut self.losers[node];
            if is_before(*loser, winner) {
                std::mem::swap(loser, &mut winner);
            }
            node /= 2;
        }
        self.winner = winner;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_from_any_number_of_runs() {
        for runs in 1..40 {
            let mut items: Vec<Vec<u32>> = vec![Vec::new(); runs];
            let all: Vec<u32> = (0..500).map(|item| item * 7 % 500).collect();
            for (place, item) in all.into_iter().enumerate() {
                items[place * place % runs].push(item);
            }
            items
                .iter_mut()
                .for_each(|run| run.sort_unstable_by(|a, b| b.cmp(a)));
            let next = |items: &[Vec<u32>], run: usize| *items[run].last().unwrap_or(&u32::MAX);
            let mut tournament =
                Tournament::new(runs, |one, other| next(&items, one) < next(&items, other));
            for expected in 0..500 {
                assert_eq!(items[tournament.winner()].pop(), Some(expected));
                tournament.replay(|one, other| next(&items, one) < next(&items, other));
            }
        }
    }
}
