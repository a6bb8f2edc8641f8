//! The same key to the same endpoint, by rendezvous hashing: each endpoint draws a lot for the key, the best lot wins.
//!
//! There is no ring to build, every sidecar comes to the same result, and when an endpoint leaves, only the keys that it
//! had go elsewhere. Bounded load (Mirrokni, Thorup, Zadimoghaddam, 2016): an endpoint that is busier than its share
//! allows is passed over, for as long as it is.

/// How much busier than the average an endpoint may be.
const BOUND: f64 = 1.25;

/// An endpoint as lots are drawn for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// What tells it from others, the same for all callers: see [`hash`].
    pub id: u64,
    /// Its share, against others'.
    pub weight: u32,
    /// Requests in flight.
    pub in_flight: u32,
}

/// The candidate for a key; none where none weighs anything. One that `avoid`s is taken only if there is no other.
pub fn consistent<I>(key: u64, candidates: I, avoid: impl Fn(usize) -> bool) -> Option<usize>
where
    I: Iterator<Item = Candidate> + Clone,
{
    let (weight, in_flight) = candidates.clone().fold((0_u64, 0_u64), |(weight, in_flight), candidate| {
        (weight + u64::from(candidate.weight), in_flight + u64::from(candidate.in_flight))
    });
    let per_weight = BOUND * (count(in_flight) + 1.0) / count(weight.max(1));
    // Lexicographic: who may be taken goes before who is too busy, and that before who is to be avoided.
    let mut best: Option<((bool, bool, f64), usize)> = None;
    for (index, candidate) in candidates.enumerate().filter(|(_, candidate)| candidate.weight > 0) {
        let share = (per_weight * f64::from(candidate.weight)).max(1.0);
        let has_room = f64::from(candidate.in_flight) + 1.0 <= libm::ceil(share);
        let rank = (!avoid(index), has_room, lot(key, candidate));
        if best.is_none_or(|(other, _)| rank > other) {
            best = Some((rank, index));
        }
    }
    best.map(|(_, index)| index)
}

/// A text's hash, the same in every version and on every machine (FNV-1a, mixed).
pub fn hash(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// The lot of a candidate: with it the chance to be the best is as the weights are (Schindelhauer, Schomaker, 2005).
fn lot(key: u64, candidate: Candidate) -> f64 {
    // 53 bits are what a f64 holds; never 0, whose logarithm is none.
    let drawn = (count(mix(key ^ mix(candidate.id)) >> 11) + 0.5) / count(1 << 53);
    f64::from(candidate.weight) / -libm::log(drawn)
}

/// The finaliser of SplitMix64: every bit of the input moves every bit of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[expect(clippy::cast_precision_loss, reason = "shares, not sums of money")]
fn count(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        let one = |(index, weight): (usize, &u32)| Candidate {
            id: hash(format!("default/orders-{index}").as_bytes()),
            weight: *weight,
            in_flight: 0,
        };
        weights.iter().enumerate().map(one).collect()
    }

    fn pick(key: u64, candidates: &[Candidate]) -> Option<usize> {
        consistent(hash(&key.to_be_bytes()), candidates.iter().copied(), |_| false)
    }

    #[test]
    fn keys_spread_evenly_within_five_percent() {
        let candidates = candidates(&[1; 10]);
        let mut served = [0; 10];
        for key in 0..100_000 {
            served[pick(key, &candidates).unwrap()] += 1;
        }
        assert!(served.iter().all(|count| (9_500..=10_500).contains(count)), "{served:?}");
    }

    #[test]
    fn weights_are_shares() {
        let candidates = candidates(&[3, 1, 0]);
        let mut served = [0; 3];
        for key in 0..40_000 {
            served[pick(key, &candidates).unwrap()] += 1;
        }
        assert!((29_000..=31_000).contains(&served[0]) && served[2] == 0, "{served:?}");
    }

    #[test]
    fn a_busy_endpoint_is_passed_over_until_it_is_not() {
        let mut all = candidates(&[1; 4]);
        let home = pick(7, &all).unwrap();
        all[home].in_flight = 10;
        let other = pick(7, &all).unwrap();
        assert_ne!(other, home);
        assert_eq!(pick(7, &all), Some(other), "its stand-in is always the same");
        all[home].in_flight = 0;
        assert_eq!(pick(7, &all), Some(home));
    }

    #[test]
    fn one_key_alone_stays_within_the_bound() {
        let mut all = candidates(&[1; 10]);
        for _ in 0..1000 {
            let index = pick(1, &all).unwrap();
            all[index].in_flight += 1;
        }
        let most = all.iter().map(|candidate| candidate.in_flight).max().unwrap();
        assert!(most <= 126, "{most}");
    }

    #[test]
    fn who_is_to_be_avoided_is_taken_only_if_alone() {
        let all = candidates(&[1, 1]);
        let home = pick(3, &all).unwrap();
        assert_eq!(
            consistent(hash(&3_u64.to_be_bytes()), all.iter().copied(), |i| i == home),
            Some(1 - home)
        );
        assert_eq!(consistent(3, all.iter().take(1).copied(), |_| true), Some(0));
        assert_eq!(consistent(3, [].into_iter(), |_| true), None);
    }

    #[test]
    fn the_hash_is_the_same_for_ever() {
        assert_eq!(hash(b""), 0xc381_7c01_6ba4_ff30);
        assert_eq!(hash(b"alice"), 0x1a04_6f57_3e1e_5475);
    }

    proptest! {
        #[test]
        fn a_member_that_leaves_moves_only_its_own_keys(
            weights in prop::collection::vec(0_u32..5, 2..12), gone in 0_usize..12, keys in prop::collection::vec(any::<u64>(), 50),
        ) {
            let all = candidates(&weights);
            let gone = gone % all.len();
            let rest: Vec<_> = all.iter().enumerate().filter(|(index, _)| *index != gone).map(|(_, c)| *c).collect();
            for key in keys {
                let before = pick(key, &all).map(|index| all[index].id);
                let after = pick(key, &rest).map(|index| rest[index].id);
                if before != Some(all[gone].id) {
                    prop_assert_eq!(before, after);
                }
            }
        }
    }
}
