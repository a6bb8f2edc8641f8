//! Drawing endpoints by weight.

/// The weights of some endpoints, ready to draw from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// All the same: nothing but how many.
    Even(usize),
    /// The sums of the weights up to and with each.
    Sums(Vec<u64>),
}

impl Weights {
    /// From each endpoint's weight, in order. Nothing is ever drawn that weighs nothing.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<u32> = weights.into_iter().collect();
        let even =
            weights.first().is_none_or(|first| *first > 0 && weights.iter().all(|weight| weight == first));
        if even {
            return Self(Kind::Even(weights.len()));
        }
        let sums = weights.iter().scan(0_u64, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        Self(Kind::Sums(sums.collect()))
    }

    /// One of them; none where none weighs anything.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        match &self.0 {
            Kind::Even(0) => None,
            Kind::Even(count) => Some(rng.usize(..*count)),
            Kind::Sums(sums) => {
                let total = sums.last().copied().filter(|total| *total > 0)?;
                let at = rng.u64(..total);
                Some(sums.partition_point(|sum| *sum <= at))
            }
        }
    }

    /// A second choice beside `first`. Among even weights it is another one; else it is drawn by weight again and may
    /// be the same, which is what makes shares follow the weights where costs are equal.
    pub fn draw_second(&self, rng: &mut fastrand::Rng, first: usize) -> Option<usize> {
        match &self.0 {
            Kind::Even(0 | 1) => None,
            Kind::Even(count) => {
                let other = rng.usize(..count - 1);
                Some(if other >= first { other + 1 } else { other })
            }
            Kind::Sums(_) => self.draw(rng).filter(|second| *second != first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_follows_the_weights() {
        let mut rng = fastrand::Rng::with_seed(3);
        let weights = Weights::new([1, 0, 3]);
        let mut drawn = [0; 3];
        for _ in 0..40_000 {
            drawn[weights.draw(&mut rng).unwrap()] += 1;
        }
        assert_eq!(drawn[1], 0);
        assert!((9_500..10_500).contains(&drawn[0]), "{drawn:?}");
    }

    #[test]
    fn a_second_choice_is_never_the_first_and_never_weightless() {
        let mut rng = fastrand::Rng::with_seed(4);
        for weights in [vec![1, 1], vec![1_000, 0, 1], vec![2, 2, 2, 2]] {
            let even = weights.iter().all(|weight| weight == &weights[0]);
            let drawn = Weights::new(weights.iter().copied());
            for _ in 0..1_000 {
                let first = drawn.draw(&mut rng).unwrap();
                let second = drawn.draw_second(&mut rng, first);
                assert!(second.is_none_or(|second| second != first && weights[second] > 0));
                assert!(second.is_some() || !even);
            }
        }
        assert_eq!(Weights::new([5]).draw_second(&mut rng, 0), None);
        assert_eq!(Weights::new([5, 0]).draw_second(&mut rng, 0), None);
    }
}
