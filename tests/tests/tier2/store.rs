//! The database of an agent when its file or its file system is not as it should be.

use std::fs;
use std::path::PathBuf;

use netbpf_common::path::V4;
use netbpf_tests::server::{Server, ask_tcp};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::lab::Lab;

/// A small file system for the database; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    /// Mounts it on the state directory of an agent that has not been started.
    fn below(lab: &Lab) -> Self {
        let directory = lab.state_dir();
        fs::create_dir_all(&directory).expect("made");
        mount(Some("disk"), &directory, Some("tmpfs"), MsFlags::empty(), Some("size=6m,mode=0700")).expect("mounted");
        Self(directory)
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let block = vec![1; 4096];
        let mut file = fs::File::create(self.filler()).expect("made");
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).expect("removed");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn remount(&self, flags: MsFlags) {
        mount(None::<&str>, &self.0, None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>).expect("remounted");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Fills the disk of an agent until it cannot write any more: its file has some room inside.
fn until_it_cannot_write(lab: &Lab, disk: &Disk, time: &str) -> String {
    disk.fill();
    for number in 0..1000 {
        let name = lab.name(&format!("{time}{number}"));
        let outcome = lab.netbpf(&["network", "create", &name]);
        if outcome.code != Some(0) {
            let line = outcome.refusal("create on a full disk");
            assert_eq!(
                lab.netbpf(&["network", "inspect", &name]).code,
                Some(1),
                "what was refused is not there: {line}"
            );
            assert!(lab.problems().is_empty(), "{:?}", lab.problems());
            return line;
        }
    }
    panic!("the disk never fills");
}

#[test]
fn a_full_disk_refuses_what_changes_and_nothing_else_until_there_is_room() {
    let mut lab = Lab::without_agent::<V4>("");
    let disk = Disk::below(&lab);
    lab.start_agent();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let line = until_it_cannot_write(&lab, &disk, "first");
    assert!(line.contains("netbpf.redb") && line.contains("make room"), "{line}");
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("the datapath goes on");
    lab.kill_agent();
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("the datapath goes on");
    disk.make_room();
    lab.start_agent();
    lab.done(&["publish", &c1.name, "-p", "9090:80"]);
    ask_tcp(&lab.ext, lab.at_host(9090)).expect("answered");
    // The same agent, without a new start.
    until_it_cannot_write(&lab, &disk, "second");
    disk.make_room();
    lab.done(&["publish", &c1.name, "-p", "9091:80"]);
    ask_tcp(&lab.ext, lab.at_host(9091)).expect("answered");
}

#[test]
fn a_read_only_disk_refuses_what_changes_and_a_start_in_one_line() {
    let mut lab = Lab::without_agent::<V4>("");
    let disk = Disk::below(&lab);
    lab.start_agent();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    lab.kill_agent();
    disk.remount(MsFlags::MS_RDONLY);
    let line = lab.no_agent_with("");
    assert!(line.contains("Read-only file system"), "{line}");
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("the datapath goes on");
    disk.remount(MsFlags::empty());
    lab.start_agent();
    lab.done(&["publish", &c1.name, "-p", "9090:80"]);
    ask_tcp(&lab.ext, lab.at_host(9090)).expect("answered");
}

#[test]
fn a_damaged_database_is_made_anew_and_nothing_is_lost() {
    let mut lab = Lab::new::<V4>();
    let n = lab.name("n");
    lab.done(&["network", "create", "--subnet", "10.90.0.0/24", &n]);
    let c1 = lab.container("c1", &["-p", "8080:80", "--network", &n, "--network-alias", "www", "--hostname", "shop"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    let before = lab.snapshot();
    let database = lab.state_dir().join("netbpf.redb");
    let length = fs::metadata(&database).expect("there").len();
    type Damage<'a> = (&'a str, &'a dyn Fn());
    let damages: [Damage<'_>; 4] = [
        ("truncated", &|| fs::File::options().write(true).open(&database).unwrap().set_len(length / 3).unwrap()),
        ("emptied", &|| fs::write(&database, []).unwrap()),
        ("overwritten", &|| fs::write(&database, vec![0xa5; 100_000]).unwrap()),
        ("removed", &|| fs::remove_file(&database).unwrap()),
    ];
    for (what, damage) in damages {
        lab.kill_agent();
        damage();
        ask_tcp(&lab.ext, lab.at_host(8080)).expect("the datapath goes on");
        lab.start_agent();
        lab.unchanged_but(&before, &["files"], &format!("a database that was {what}"));
        assert!(lab.log().contains("is made anew from its copy"), "{what}");
        assert_eq!(lab.json(&["inspect", &c1.name])["hostname"], "shop");
        let kept = fs::remove_file(lab.state_dir().join("netbpf.redb.damaged"));
        assert_eq!(kept.is_ok(), !matches!(what, "emptied" | "removed"), "what was left of it stays");
    }
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("answered");
}

#[test]
fn without_a_copy_a_damaged_database_is_refused_and_uninstall_is_the_way_out() {
    let mut lab = Lab::new::<V4>();
    let c1 = lab.container("c1", &["-p", "8080:80"]);
    let _web = Server::tcp(&c1.place, "c1", 80);
    lab.kill_agent();
    fs::write(lab.state_dir().join("netbpf.redb"), "not a database").expect("written");
    fs::remove_dir_all(lab.run_dir().join("records")).expect("removed");
    let line = lab.no_agent_with("");
    assert!(line.contains("netbpf.redb") && line.contains("netbpf uninstall"), "{line}");
    ask_tcp(&lab.ext, lab.at_host(8080)).expect("the datapath goes on");
    lab.uninstall_without_agent();
    assert_eq!(crate::lab::Footprint::of(&lab), *lab.bare());
}
