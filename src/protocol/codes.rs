//! Codes with the same meaning in several answers (reference, sections 5.5, 6.3 and 8).

/// The partition could not be opened. Produce answers have another code for this.
pub(super) const SYSTEM_ERROR: u8 = 0xfb;

/// Another node leads the partition; its endpoint follows.
pub(super) const REDIRECT: u8 = 0xfc;

/// No node leads the partition now.
pub(super) const NO_LEADER: u8 = 0xfd;
