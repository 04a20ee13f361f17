//! Flows, and in which order they speak.

use anyhow::{Context as _, Result};

/// Source ports of the flows with one source address: as many as netbpf translates to.
const MOST_PORTS: u32 = 1 << 14;

/// Flows that speak in turn. From packet to packet both the address and the port go on by one, each around a circle of its own: it is what
/// pktgen does. The circles have no divisor in common, so all pairs come before one comes again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flows {
    /// Source addresses.
    pub(crate) addresses: u16,
    /// Source ports.
    pub(crate) ports: u16,
}

impl Flows {
    /// A single one.
    pub(crate) const ONE: Self = Self { addresses: 1, ports: 1 };

    /// So many.
    pub(crate) fn new(number: u32) -> Result<Self> {
        let fit = |addresses: &u32| {
            let ports = number / addresses;
            number.is_multiple_of(*addresses) && ports <= MOST_PORTS && have_no_divisor(*addresses, ports)
        };
        let addresses = (1..=u16::MAX.into()).find(fit);
        let addresses =
            addresses.with_context(|| format!("{number} flows are no two circles without a common divisor"))?;
        Ok(Self { addresses: addresses as u16, ports: (number / addresses) as u16 })
    }

    /// Steps of address and port of each flow, in the order in which they speak.
    pub(crate) fn each(self) -> impl Iterator<Item = (u16, u16)> {
        let all = u32::from(self.addresses) * u32::from(self.ports);
        let step =
            move |number: u32| ((number % u32::from(self.addresses)) as u16, (number % u32::from(self.ports)) as u16);
        (0..all).map(step)
    }
}

fn have_no_divisor(mut one: u32, mut other: u32) -> bool {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one == 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_flow_speaks_once_before_one_speaks_again() {
        for number in [1, 1000, 10_000, 100_000, 1_000_000] {
            let flows = Flows::new(number).expect("powers of ten are two circles");
            assert_eq!(flows.each().collect::<HashSet<_>>().len(), number as usize);
            assert!(u32::from(flows.ports) <= MOST_PORTS);
        }
    }

    #[test]
    fn a_number_that_is_no_two_circles_is_refused() {
        // A prime beyond the ports of one address.
        assert!(Flows::new(65_537).is_err());
    }
}
