#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::fuzz::fetch_stream::run(data));
