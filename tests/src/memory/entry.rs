//! A flow entry in memory.

use std::cell::RefCell;
use std::rc::Rc;

use netbpf_common::abi::{Flow, FlowKey, Sent, Stamp, Word};
use netbpf_common::path::{Family, FlowEntry};

/// A flow entry in memory.
#[derive(Clone, Debug)]
pub struct Entry<F: Family>(Rc<RefCell<Flow<F::Addr>>>);

impl<F: Family> Entry<F> {
    pub(super) fn new(flow: &Flow<F::Addr>) -> Self {
        Self(Rc::new(RefCell::new(*flow)))
    }
}

impl<F: Family> FlowEntry<F::Addr> for Entry<F> {
    fn read_into(&self, flow: &mut Flow<F::Addr>) {
        *flow = *self.0.borrow();
    }

    fn other(&self) -> FlowKey<F::Addr> {
        self.0.borrow().other
    }

    fn word(&self) -> Word {
        self.0.borrow().word
    }

    fn sent(&self) -> Sent {
        self.0.borrow().sent
    }

    fn payer(&self) -> u32 {
        self.0.borrow().payer
    }

    fn mtu(&self) -> u16 {
        self.0.borrow().mtu
    }

    fn swap(&self, from: Word, to: Word) -> bool {
        let word = &mut self.0.borrow_mut().word;
        let won = *word == from;
        if won {
            *word = to;
        }
        won
    }

    fn copy_word(&self, word: Word) {
        self.0.borrow_mut().word = word;
    }

    fn touch(&self, now: u64, bytes: u32) {
        let mut flow = self.0.borrow_mut();
        flow.seen = now;
        flow.packets += 1;
        flow.bytes += u64::from(bytes);
    }

    fn track(&self, sent: &Sent) {
        self.0.borrow_mut().sent = *sent;
    }

    fn restamp(&self, _: &Flow<F::Addr>, owner: Stamp) {
        self.0.borrow_mut().owner = owner;
    }

    fn reroute(&self, flow: &Flow<F::Addr>, epoch: u32) {
        let mut entry = self.0.borrow_mut();
        entry.uplink = flow.uplink;
        entry.next_hop = flow.next_hop;
        entry.mtu = flow.mtu;
        entry.routed = flow.routed;
        entry.route_epoch = epoch;
    }
}
