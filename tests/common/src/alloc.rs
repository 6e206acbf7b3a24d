//! An allocator that counts. A program that uses it says
//! `#[global_allocator] static ALLOC: Counting = Counting;`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts by thread how often it is called, and for threads that ask for it the bytes they hold.
pub struct Counting;

static NOW: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static WEIGHED: Cell<bool> = const { Cell::new(false) };
    static HELD_HERE: Cell<isize> = const { Cell::new(0) };
    static PEAK_HERE: Cell<isize> = const { Cell::new(0) };
}

/// Allocations made by this thread so far.
pub fn calls() -> u64 {
    CALLS.get()
}

/// The thread that is weighed, until this is dropped.
#[must_use]
pub struct Weighed {
    _scales: MutexGuard<'static, ()>,
}

/// Counts from now on the bytes that this thread allocates and frees. Waits until no other thread is weighed.
pub fn weigh_this_thread() -> Weighed {
    static SCALES: Mutex<()> = Mutex::new(());
    let scales = SCALES.lock().unwrap_or_else(PoisonError::into_inner);
    WEIGHED.set(true);
    Weighed { _scales: scales }
}

impl Drop for Weighed {
    fn drop(&mut self) {
        WEIGHED.set(false);
    }
}

/// Bytes held by the threads that were weighed, in all.
pub fn held() -> isize {
    NOW.load(Ordering::SeqCst)
}

/// The most bytes held at a time since [`reset_peak`].
pub fn peak() -> isize {
    PEAK.load(Ordering::SeqCst)
}

pub fn reset_peak() {
    PEAK.store(held(), Ordering::SeqCst);
}

/// What `f` returns, and the most bytes this thread held at a time meanwhile, beyond those it held before.
pub fn peak_of<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD_HERE.get();
    PEAK_HERE.set(before);
    let value = f();
    (value, usize::try_from(PEAK_HERE.get() - before).unwrap_or(0))
}

fn count(bytes: isize) {
    let _ = HELD_HERE.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK_HERE.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
    // A thread that is ending has no counters any more.
    if WEIGHED.try_with(Cell::get).unwrap_or(false) {
        let now = NOW.fetch_add(bytes, Ordering::SeqCst) + bytes;
        PEAK.fetch_max(now, Ordering::SeqCst);
    }
}

fn call() {
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        call();
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        call();
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        call();
        // While it moves, both are there.
        count(size as isize);
        let moved = unsafe { System.realloc(pointer, layout, size) };
        count(-(layout.size() as isize));
        moved
    }
}
