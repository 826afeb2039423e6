//! Randomness from a seed that is printed, and that FARKEEP_SEED sets.

/// xorshift64*: enough to choose moments and places.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From FARKEEP_SEED, else from the clock; the test's output says which.
    pub fn from_environment() -> Self {
        let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
        let given = std::env::var("FARKEEP_SEED").ok().map(|text| text.parse().unwrap());
        let seed = given.unwrap_or_else(clock);
        println!("FARKEEP_SEED={seed}");
        Self::new(seed)
    }

    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number from 0 to 1.
    pub fn part(&mut self) -> f64 {
        self.below(1 << 32) as f64 / (1_u64 << 32) as f64
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// Bytes like those of a virtual machine's disk: pages of code and text that repeat in parts, and pages of zeros.
    pub fn disk_image(&mut self, count: usize) -> Vec<u8> {
        const PAGE: usize = 4096;
        let words: Vec<String> = (0..512).map(|n| format!("key{n:03x}={} ", self.below(100_000))).collect();
        let mut bytes = Vec::with_capacity(count + PAGE);
        while bytes.len() < count {
            match self.below(8) {
                0 | 1 => bytes.resize(bytes.len() + PAGE, 0),
                2 => bytes.extend(self.bytes(PAGE)),
                3 if bytes.len() > 64 * PAGE => {
                    let from = self.below((bytes.len() / PAGE) as u64) as usize * PAGE;
                    bytes.extend_from_within(from..from + PAGE);
                }
                _ => {
                    let end = bytes.len() + PAGE;
                    while bytes.len() < end {
                        bytes.extend(self.pick(&words).bytes());
                    }
                    bytes.truncate(end);
                }
            }
        }
        bytes.truncate(count);
        bytes
    }
}
