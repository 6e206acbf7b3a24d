//! The files of a partition's directory, and which of them comes next.

use std::fs;
use std::io;
use std::path::Path;

use super::LOOKS;
use super::file::{OpenFile, SegmentFile, range_of};

/// The files by their first numbers.
#[derive(Debug)]
pub(super) struct Listing {
    files: Vec<SegmentFile>,
    /// For each, the highest number that it or one before it may hold.
    highest: Vec<u64>,
    /// Whether it was the same a while before.
    is_confirmed: bool,
}

impl Listing {
    /// Lists until two listings agree: one takes several calls, and files that are renamed meanwhile may be missing from
    /// it. If they never agree, the last one must do.
    pub(super) fn of(dir: &Path) -> io::Result<Listing> {
        Listing::settled(|| list(dir))
    }

    fn settled(mut list: impl FnMut() -> io::Result<Vec<SegmentFile>>) -> io::Result<Listing> {
        let mut files = list()?;
        for _ in 0..LOOKS {
            let before = std::mem::replace(&mut files, list()?);
            if files == before {
                break;
            }
        }
        let highest = files.iter().scan(0, |highest, file| {
            *highest = file.last.unwrap_or(u64::MAX).max(*highest);
            Some(*highest)
        });
        Ok(Listing { highest: highest.collect(), files, is_confirmed: false })
    }

    pub(super) fn into_files(self) -> Vec<SegmentFile> {
        self.files
    }

    /// This one, taken after another one, which may have been the same.
    pub(super) fn confirming(self, before: &Listing) -> Listing {
        Listing { is_confirmed: self.files == before.files, ..self }
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// The file that continues after the present one, at this position.
    pub(super) fn next(&self, position: u64, done: Option<&OpenFile>) -> Option<&SegmentFile> {
        let may_hold = |file: &&SegmentFile| {
            // A file that brought nothing makes way for later ones, or for itself if it was closed meanwhile.
            let is_other = |done: &OpenFile| {
                let closed = done.is.last.is_none() && file.last.is_some();
                done.is.path != file.path && (file.first > done.is.first || position > done.opened_at() || closed)
            };
            done.is_none_or(is_other) && file.last.is_none_or(|last| last >= position)
        };
        let (before, behind) = self.files.split_at(self.files.partition_point(|file| file.first <= position));
        // Not simply the first one: there may be another that begins later and is being appended to.
        let before = before.iter().zip(&self.highest).rev().take_while(|(_, highest)| **highest >= position);
        before.map(|(file, _)| file).find(may_hold).or_else(|| behind.iter().find(may_hold))
    }
}

fn list(dir: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let range = path.file_name().and_then(|name| name.to_str()).and_then(range_of);
        files.extend(range.map(|(first, last)| SegmentFile { path, first, last }));
    }
    files.sort_by(|a, b| {
        (a.first, a.last.unwrap_or(u64::MAX), &a.path).cmp(&(b.first, b.last.unwrap_or(u64::MAX), &b.path))
    });
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> SegmentFile {
        let (first, last) = range_of(name).unwrap();
        SegmentFile { path: name.into(), first, last }
    }

    #[test]
    fn a_file_that_one_listing_missed_is_found_by_the_next() {
        let mut listings =
            [&["1-2.ilog", "5.log"][..], &["1-2.ilog", "3-4.ilog", "5.log"], &["1-2.ilog", "3-4.ilog", "5.log"]]
                .map(|names| names.iter().map(|name| file(name)).collect::<Vec<_>>())
                .into_iter();
        let listing = Listing::settled(|| Ok(listings.next().expect("listed once more than needed"))).unwrap();
        assert_eq!(listing.next(3, None), Some(&file("3-4.ilog")));
        assert!(listings.next().is_none());
    }

    #[test]
    fn where_no_two_listings_agree_it_does_not_list_for_ever() {
        let mut n = 0;
        let listing = Listing::settled(|| {
            n += 1;
            Ok(vec![file(&format!("{n}.log"))])
        });
        assert_eq!((listing.unwrap().into_files(), n), (vec![file("11.log")], 11));
    }

    #[test]
    fn the_file_with_the_position_comes_next_or_else_the_one_behind_it() {
        let names = ["1-9.ilog.old", "1-4.ilog", "3-20.ilog", "5-9.ilog", "21.log", "40.log"];
        let listing = Listing::settled(|| Ok(names.iter().map(|name| file(name)).collect())).unwrap();
        for (position, expected) in [(0, 0), (1, 1), (4, 2), (5, 3), (10, 2), (20, 2), (21, 4), (41, 5)] {
            assert_eq!(listing.next(position, None), Some(&file(names[expected])), "{position}");
        }
    }
}
