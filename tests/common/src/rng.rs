//! Chance that can be repeated.

use std::env;

/// The generator xorshift64*: small, fast, and the same on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        // Neighbouring seeds must not begin alike, and the state must not be 0.
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d | 1);
        rng.next_u64();
        rng
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 to `end`, exclusive.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next_u64() % end.max(1) as u64) as usize
    }

    /// A number from `low` to `high`, inclusive.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// Words rather than noise, so that Snappy finds something to do.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            match self.below(3) {
                0 => out.extend_from_slice(&self.next_u64().to_le_bytes()),
                1 => out.extend_from_slice(b"abcdefgh"),
                _ => out.resize(out.len() + 8, b'a' + self.below(26) as u8),
            }
        }
        out.truncate(len);
        out
    }
}

/// Runs `case` for each of `seeds`; names the seed of one that fails. `TANK_SEED` runs that one alone, `TANK_CASES`
/// multiplies their number.
pub fn seeded(seeds: u64, mut case: impl FnMut(&mut Rng)) {
    struct Name(u64);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with TANK_SEED={}", self.0);
            }
        }
    }
    let number = |name| env::var(name).ok().map(|text: String| text.parse::<u64>().expect(name));
    let range = match number("TANK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..seeds * number("TANK_CASES").unwrap_or(1),
    };
    for seed in range {
        let _name = Name(seed);
        case(&mut Rng::new(seed));
    }
}
