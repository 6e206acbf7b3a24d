//! The sets of messages that speed is measured with.

use tank_client::Compression;

/// Messages of one size, a fixed number in each bundle.
#[derive(Debug, Clone, Copy)]
pub struct Set {
    pub name: &'static str,
    pub payload: usize,
    pub count: u32,
    pub compression: Compression,
}

impl Set {
    pub const ALL: [Set; 5] = [
        Set { name: "plain100", payload: 100, count: 512, compression: Compression::None },
        Set { name: "snappy100", payload: 100, count: 512, compression: Compression::Snappy },
        Set { name: "plain1k", payload: 1024, count: 64, compression: Compression::None },
        Set { name: "snappy1k", payload: 1024, count: 64, compression: Compression::Snappy },
        Set { name: "single100", payload: 100, count: 1, compression: Compression::None },
    ];

    pub fn named(name: &str) -> Result<Set, String> {
        let names = || Set::ALL.map(|set| set.name).join(", ");
        Set::ALL.into_iter().find(|set| set.name == name).ok_or_else(|| format!("the sets are {}", names()))
    }

    /// The payloads of some bundles, with text that compresses about as logs do.
    pub fn payloads(&self) -> Vec<Vec<u8>> {
        let mut words = Words(0x9e37_79b9_7f4a_7c15);
        (0..self.count.max(256)).map(|_| words.text(self.payload)).collect()
    }
}

/// Words and numbers at random, the same every time (xorshift).
struct Words(u64);

impl Words {
    const LIST: [&str; 14] = [
        "alpha", "beta", "gamma", "delta", "order", "user", "click", "view", "cart", "price", "item", "stock", "login",
        "logout",
    ];

    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn text(&mut self, len: usize) -> Vec<u8> {
        let mut text = format!("{{\"user\": {}, \"event\": ", self.next(1_000_000)).into_bytes();
        while text.len() < len {
            let word = Words::LIST[self.next(14) as usize];
            text.extend_from_slice(format!("\"{word}{}\" ", self.next(1000)).as_bytes());
        }
        text.truncate(len);
        text
    }
}
