//! How fairly partitions take turns.

/// Counts the turns of partitions. A turn ends when messages of another partition come.
pub struct Turns {
    /// Turns of each partition, and what they were at the last turn of each other one.
    taken: Vec<u32>,
    seen: Vec<Vec<u32>>,
    last: Option<usize>,
    longest: u32,
}

impl Turns {
    pub fn new(partitions: usize) -> Turns {
        Turns { taken: vec![0; partitions], seen: vec![vec![0; partitions]; partitions], last: None, longest: 0 }
    }

    /// Notes that messages of this partition came. Returns whether a turn began with them.
    pub fn take(&mut self, partition: u16) -> bool {
        let partition = usize::from(partition);
        if self.last.replace(partition) == Some(partition) {
            return false;
        }
        let passed = self.taken.iter().zip(&self.seen[partition]).map(|(now, then)| now - then);
        self.longest = self.longest.max(passed.max().unwrap_or(0));
        self.taken[partition] += 1;
        self.seen[partition].copy_from_slice(&self.taken);
        true
    }

    /// Returns how long a partition waited at most, in rounds: how many turns another one had before its first turn, or between
    /// two of its turns.
    pub fn longest_wait(&self) -> u32 {
        self.longest
    }

    /// Returns how many turns the partition with the fewest had.
    pub fn fewest(&self) -> u32 {
        self.taken.iter().copied().min().unwrap_or(0)
    }
}
