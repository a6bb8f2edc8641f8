//! Random changes of seeds, the same on every run.

use fastrand::Rng;

/// What parsers of text and of lengths stumble over.
const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b" ",
    b"\t",
    b":",
    b"/",
    b"%2f",
    b"%2e",
    b"..",
    b";",
    b"#",
    b"@",
    b"[",
    b"]",
    b"0",
    b"-1",
    b"99999999999999999999",
    b"\xff\xff\xff\xff",
    b"\x80",
    b"HTTP/1.1",
    b"chunked",
];

/// The longest input that is made.
const LONGEST: usize = 64 * 1024;

/// An endless row of inputs made from seeds.
#[derive(Debug)]
pub struct Mutations {
    seeds: Vec<Vec<u8>>,
    rng: Rng,
}

impl Mutations {
    /// Changes of these, in an order that `seed` decides.
    pub fn new(seeds: Vec<Vec<u8>>, seed: u64) -> Self {
        assert!(!seeds.is_empty(), "there is something to change");
        Self { seeds, rng: Rng::with_seed(seed) }
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.rng.usize(..=bytes.len());
        match self.rng.u8(..8) {
            0 => flip(bytes, at, 1 << self.rng.u8(..8)),
            1 => flip(bytes, at, self.rng.u8(1..)),
            2 => bytes.insert(at, self.rng.u8(..)),
            3 => drop(bytes.splice(at..at, WORDS[self.rng.usize(..WORDS.len())].iter().copied())),
            4 => bytes.truncate(at),
            5 => {
                let end = (at + self.rng.usize(..8)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => {
                let end = (at + self.rng.usize(..64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                for _ in 0..self.rng.usize(1..20) {
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
            _ => {
                let other = &self.seeds[self.rng.usize(..self.seeds.len())];
                let from = self.rng.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
        bytes.truncate(LONGEST);
    }
}

fn flip(bytes: &mut [u8], at: usize, bits: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= bits;
    }
}

impl Iterator for Mutations {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.seeds[self.rng.usize(..self.seeds.len())].clone();
        for _ in 0..self.rng.usize(1..6) {
            self.change(&mut bytes);
        }
        Some(bytes)
    }
}
