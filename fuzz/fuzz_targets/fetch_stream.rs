#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tank_client_fuzz::targets::fetch_stream::run(data));
