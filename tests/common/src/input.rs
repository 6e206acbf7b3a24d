//! The layouts of the inputs that are not all payload: a few bytes of settings, then what came from the peer.

/// Takes the input apart from its front; what is missing at its end is 0 or empty.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn number<const N: usize>(&mut self) -> u64 {
        let mut wide = [0; 8];
        let bytes = self.bytes(N);
        wide[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(wide)
    }

    pub fn u8(&mut self) -> u8 {
        self.number::<1>() as u8
    }

    /// Bytes after a length of one byte.
    pub fn short(&mut self) -> &'a [u8] {
        let n = self.u8().into();
        self.bytes(n)
    }

    /// Bytes after a length of two bytes.
    pub fn long(&mut self) -> &'a [u8] {
        let n = self.number::<2>() as usize;
        self.bytes(n)
    }
}

/// Sizes of pieces, over and over: small ones as they are, larger ones in steps that grow.
pub struct Pieces<'a> {
    sizes: &'a [u8],
    next: usize,
}

impl<'a> Pieces<'a> {
    pub fn new(sizes: &'a [u8]) -> Pieces<'a> {
        Pieces { sizes, next: 0 }
    }

    /// The next size, at least 1; everything if none are given.
    pub fn size(&mut self) -> usize {
        let Some(&size) = self.sizes.get(self.next % self.sizes.len().max(1)) else { return usize::MAX };
        self.next += 1;
        let size = usize::from(size);
        if size < 128 { size + 1 } else { (size - 126) * (size - 126) }
    }
}
