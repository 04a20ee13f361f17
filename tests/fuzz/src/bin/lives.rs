#![no_main]
#![doc = "The fuzz target of `netbpf_tests::fuzz::lives`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netbpf_tests::fuzz::lives::run(bytes));
