#![no_main]
#![doc = "The fuzz target of `netbpf_tests::fuzz::api`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netbpf_tests::fuzz::api::run(bytes));
