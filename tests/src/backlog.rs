//! Packets that the kernel drops before anybody has seen them: when more wait on a CPU than may (`net.core.netdev_max_backlog`), for
//! whatever namespace. So the flood of one test may cost another one a datagram on a machine that is busy.

use std::fs;

/// How many since the machine has started.
///
/// # Panics
/// When the kernel does not tell.
pub fn dropped() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").expect("readable");
    let of_cpu = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().map(|line| of_cpu(line).expect("hexadecimal numbers")).sum()
}
