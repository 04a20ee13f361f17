//! Which port a translation tries.

/// How many ports are tried for one flow before it is refused. With half of a range in use, one
/// flow in 65,536 is refused.
pub const ATTEMPTS: u32 = 16;

/// The ports that masquerading gives out, in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// From first to last, both included; the agent has seen to it that `first <= last`.
    #[inline(always)]
    pub const fn new(first: u16, last: u16) -> Self {
        Self { first, last }
    }

    /// Whether the port is one of them.
    #[inline(always)]
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// The `attempt`-th port of the walk that begins at `seed`. The stride is odd and not small,
    /// so that neighbours in use are left behind, and the walk of a range of 2^n ports meets each once.
    #[inline(always)]
    pub const fn candidate(&self, seed: u32, attempt: u32) -> u16 {
        let size = (self.last.saturating_sub(self.first)) as u32 + 1;
        let step = (seed >> 16) | 1;
        let offset = (seed & 0xffff).wrapping_add(attempt.wrapping_mul(step)) % size;
        self.first.wrapping_add(offset as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_stays_inside_and_does_not_meet_a_port_twice() {
        let range = PortRange::new(16384, 32767);
        for seed in [0, 1, 0xffff_ffff, 0x1234_5678, 0x8000_0000] {
            let mut seen = std::collections::HashSet::new();
            for attempt in 0..ATTEMPTS {
                let port = range.candidate(seed, attempt);
                assert!(range.contains(port));
                assert!(seen.insert(port), "seed {seed:#x} meets {port} twice");
            }
        }
    }

    #[test]
    fn a_range_of_one_port_and_of_all_ports_work() {
        assert_eq!(PortRange::new(5000, 5000).candidate(77, 3), 5000);
        let all = PortRange::new(0, 65535);
        assert!(all.contains(all.candidate(u32::MAX, 15)));
    }
}
