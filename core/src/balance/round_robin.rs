//! Each in its turn, the heavier ones more often, spread evenly over the round.

/// Whose turn it is.
///
/// Every endpoint has a time at which it is due next; the earliest is chosen, and due again after the inverse of its
/// weight. The first times are drawn by chance, so that many callers do not all begin with the same endpoint.
#[derive(Debug, Clone)]
pub struct RoundRobin {
    turns: Vec<Turn>,
}

#[derive(Debug, Clone)]
struct Turn {
    due: f64,
    every: f64,
}

impl RoundRobin {
    /// From each endpoint's weight, in order. What weighs nothing never has its turn.
    pub fn new(weights: impl IntoIterator<Item = u32>, rng: &mut fastrand::Rng) -> Self {
        let turn = |weight: u32| {
            let every = if weight > 0 { 1.0 / f64::from(weight) } else { f64::INFINITY };
            // Nothing times infinity would be no number.
            let due = if weight > 0 { every * rng.f64() } else { f64::INFINITY };
            Turn { due, every }
        };
        Self { turns: weights.into_iter().map(turn).collect() }
    }

    /// The next one; none where none weighs anything.
    pub fn take(&mut self) -> Option<usize> {
        let due = self.turns.iter().enumerate().min_by(|(_, a), (_, b)| a.due.total_cmp(&b.due));
        let (index, _) = due.filter(|(_, turn)| turn.due.is_finite())?;
        let turn = self.turns.get_mut(index)?;
        let now = turn.due;
        turn.due += turn.every;
        // Kept small, for large numbers would lose the difference of a turn.
        if now >= 1e6 {
            for turn in &mut self.turns {
                turn.due -= now;
            }
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u32], count: usize) -> Vec<usize> {
        let mut rng = fastrand::Rng::with_seed(9);
        let mut round = RoundRobin::new(weights.iter().copied(), &mut rng);
        (0..count).filter_map(|_| round.take()).collect()
    }

    #[test]
    fn equal_endpoints_alternate_without_exception() {
        let turns = turns(&[1; 4], 400);
        for round in turns.chunks(4) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3]);
        }
    }

    #[test]
    fn the_heavier_are_chosen_more_often_and_not_in_a_row() {
        let turns = turns(&[5, 1, 0, 2], 800);
        let count = |index| turns.iter().filter(|turn| **turn == index).count();
        assert_eq!((count(0), count(1), count(2), count(3)), (500, 100, 0, 200));
        let longest = turns.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
        assert!(longest <= Some(4), "{longest:?}");
    }

    #[test]
    fn callers_begin_in_different_places() {
        let mut first = [0; 4];
        for seed in 0..400 {
            let mut rng = fastrand::Rng::with_seed(seed);
            first[RoundRobin::new([1; 4], &mut rng).take().unwrap()] += 1;
        }
        assert!(first.iter().all(|count| (60..=140).contains(count)), "{first:?}");
    }

    #[test]
    fn a_long_life_does_not_wear_it_out() {
        let mut round = RoundRobin::new([1, 1], &mut fastrand::Rng::with_seed(1));
        let mut count = [0_u32; 2];
        for _ in 0..3_000_000 {
            count[round.take().unwrap()] += 1;
        }
        assert_eq!(count, [1_500_000; 2]);
        assert_eq!(RoundRobin::new([0, 0], &mut fastrand::Rng::with_seed(1)).take(), None);
    }
}
