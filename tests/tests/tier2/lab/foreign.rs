//! Programs that are not netbpf's: two instructions each, in an object as compilers write it.

use std::fs;
use std::path::PathBuf;

use aya::Ebpf;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};

use super::Lab;

/// Name of the program.
pub(crate) const NAME: &str = "foreign";

/// An object with one program that returns a number, in a section of this name (ELF-64, little-endian, EM_BPF).
fn object(section: &str, returns: i32) -> Vec<u8> {
    const HEADER: usize = 64;
    let names = format!("\0{section}\0license\0.symtab\0.strtab\0{NAME}\0");
    let name = |text: &str| names.find(&format!("\0{text}\0")).map_or(0, |place| place as u32 + 1);
    // r0 = returns; exit
    let program = [&[0xb7, 0, 0, 0][..], &returns.to_le_bytes(), &[0x95, 0, 0, 0, 0, 0, 0, 0]].concat();
    // A symbol of no name, and a global function in section 1.
    let function =
        [&name(NAME).to_le_bytes()[..], &[0x12, 0, 1, 0], &[0; 8], &(program.len() as u64).to_le_bytes()].concat();
    let symbols = [vec![0; 24], function].concat();
    // Type, flags, link, info, alignment, size of an entry.
    let sections: [(&str, Vec<u8>, [u64; 6]); 4] = [
        (section, program, [1, 6, 0, 0, 8, 0]),
        ("license", b"GPL\0".to_vec(), [1, 3, 0, 0, 1, 0]),
        (".symtab", symbols, [2, 0, 4, 1, 8, 24]),
        (".strtab", names.clone().into_bytes(), [3, 0, 0, 0, 1, 0]),
    ];
    let mut bodies = Vec::new();
    let mut table = vec![0; HEADER];
    for (of, body, [kind, flags, link, info, alignment, entry]) in sections {
        bodies.resize(bodies.len().next_multiple_of(8), 0);
        let place = (HEADER + bodies.len()) as u64;
        table.extend([name(of).to_le_bytes(), (kind as u32).to_le_bytes()].concat());
        table.extend([flags, 0, place, body.len() as u64].map(u64::to_le_bytes).concat());
        table.extend([link as u32, info as u32].map(u32::to_le_bytes).concat());
        table.extend([alignment, entry].map(u64::to_le_bytes).concat());
        bodies.extend(body);
    }
    bodies.resize(bodies.len().next_multiple_of(8), 0);
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([1_u16, 247].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([0, 0, (HEADER + bodies.len()) as u64].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([HEADER as u16, 0, 0, 64, 5, 4].map(u16::to_le_bytes).concat());
    [file, bodies, table].concat()
}

impl Lab {
    /// A file with a program for what a device receives, which has nothing to say of any packet.
    pub(crate) fn foreign_object(&self, section: &str, returns: i32) -> PathBuf {
        let path = self.files.path().join(format!("{section}.o"));
        fs::write(&path, object(section, returns)).expect("written");
        path
    }

    /// Sees to it that a device of the host has a clsact qdisc: where the kernel has links for programs of devices we add none.
    pub(crate) fn clsact(&self, device: &str) {
        if !self.host.command("tc", &["qdisc", "show", "dev", device]).contains("clsact") {
            self.host.command("tc", &["qdisc", "add", "dev", device, "clsact"]);
        }
    }

    /// Adds a filter with such a program to what a device of the host receives or sends ("ingress", "egress"). It has a clsact qdisc.
    pub(crate) fn foreign_filter(&self, device: &str, direction: &str) {
        let object = self.foreign_object("classifier", -1);
        let object = object.to_str().expect("UTF-8");
        let filter = ["filter", "add", "dev", device, direction, "bpf", "direct-action", "object-file", object];
        self.host.command("tc", &[&filter[..], &["section", "classifier"]].concat());
    }

    /// Attaches a program to what a device of the host receives, before or after those that are there; it goes when this is
    /// dropped.
    pub(crate) fn foreign_tcx(&self, device: &str, order: LinkOrder) -> Ebpf {
        // TCX_NEXT
        let mut programs = Ebpf::load(&object("classifier", -1)).expect("an object");
        self.host.run(|| {
            let program: &mut SchedClassifier =
                programs.program_mut(NAME).expect("it").try_into().expect("a classifier");
            program.load().expect("loaded");
            let options = TcAttachOptions::TcxOrder(order);
            program.attach_with_options(device, TcAttachType::Ingress, options).expect("attached");
        });
        programs
    }
}
