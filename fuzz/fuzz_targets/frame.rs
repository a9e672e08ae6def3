#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tcp_xdp_fuzz::targets::frame(data));
