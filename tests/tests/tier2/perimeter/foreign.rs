//! What is not root's alone, at the paths of an instance: refused in one line, by the agent and by `uninstall`, and left as it is.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use netbpf_common::path::V4;

use crate::lab::{Footprint, Lab};

/// Where an instance is to live; `victim` is a directory of somebody else with a file in it.
struct Place {
    state: PathBuf,
    run: PathBuf,
    bpffs: PathBuf,
    victim: PathBuf,
}

/// What is put where the instance has something of its own, and words of the line that refuses it.
type Row = (&'static str, fn(&Place), &'static str);

const ROWS: &[Row] = &[
    ("a linked state directory", |it| link(&it.victim, &it.state), "/state is a symbolic link"),
    ("a linked run directory", |it| link(&it.victim, &it.run), "/run is a symbolic link"),
    ("a state directory of others", |it| owned(&it.state), "/state belongs to user 65534"),
    ("a run directory of others", |it| owned(&it.run), "/run belongs to user 65534"),
    ("a state directory for all", |it| open(&it.state), "/state can be written to|0777|chmod go-w"),
    ("a run directory for all", |it| open(&it.run), "/run can be written to|0777|chmod go-w"),
    ("a state directory that is a file", |it| file(&it.state), "/state is no directory"),
    ("a way for all", |it| open(it.state.parent().expect("a parent")), "can be written to|0777"),
    ("a way of others", |it| owned(it.state.parent().expect("a parent")), "belongs to user 65534"),
    (
        "a linked database",
        |it| link(&it.victim.join("file"), &it.state.join("netbpf.redb")),
        "netbpf.redb is a symbolic",
    ),
    ("a database for all", |it| open_file(&it.state.join("netbpf.redb")), "netbpf.redb can be written to|0666"),
    ("a database of others", |it| owned_file(&it.state.join("netbpf.redb")), "netbpf.redb belongs to"),
    ("a linked lock", |it| link(&it.victim.join("file"), &it.state.join("lock")), "/lock is a symbolic link"),
    ("a lock that is a directory", |it| directory(&it.state.join("lock")), "/lock is no ordinary file"),
    ("linked marks", |it| link(&it.victim, &it.run.join("netns")), "/run/netns is a symbolic link"),
    (
        "a linked mark",
        |it| link(&it.victim.join("file"), &it.run.join("netns/web")),
        "/run/netns/web is a symbolic link",
    ),
    ("marks for all", |it| open(&it.run.join("netns")), "/run/netns can be written to"),
    ("linked containers", |it| link(&it.victim, &it.run.join("containers")), "/run/containers is a symbolic link"),
    ("a linked container", |it| link(&it.victim, &it.run.join("containers/web")), "containers/web is a symbolic link"),
    ("a container of others", |it| owned(&it.run.join("containers/web")), "containers/web belongs to user 65534"),
    ("linked records", |it| link(&it.victim, &it.run.join("records")), "/run/records is a symbolic link"),
    ("records of others", |it| owned(&it.run.join("records/networks")), "records/networks belongs to user 65534"),
    ("a linked socket", |it| link(&it.victim.join("file"), &it.run.join("netbpf.sock")), "netbpf.sock is"),
    ("a file as a socket", |it| file(&it.run.join("netbpf.sock")), "netbpf.sock is no"),
    ("a socket of others", |it| socket(&it.run.join("netbpf.sock")), "netbpf.sock belongs to user 65534"),
    ("a file as the other socket", |it| file(&it.run.join("read.sock")), "read.sock is no"),
    ("a linked bpffs directory", |it| link(&it.victim, &it.bpffs), "/other is a symbolic link"),
    ("a bpffs directory for all", |it| open(&it.bpffs), "/other can be written to"),
    ("a bpffs directory of others", |it| owned(&it.bpffs), "/other belongs to user 65534"),
    ("linked programs", |it| link(&it.victim, &it.bpffs.join("programs")), "/other/programs is a symbolic link"),
    ("linked maps", |it| link(&it.victim, &it.bpffs.join("maps")), "/other/maps is a symbolic link"),
    ("a linked pin", |it| link(&it.victim.join("file"), &it.bpffs.join("maps/CONFIG")), "maps/CONFIG is a symbolic"),
    ("a pin that is a directory", |it| directory(&it.bpffs.join("maps/CONFIG")), "maps/CONFIG is no ordinary file"),
    ("links of others", |it| owned(&it.bpffs.join("links")), "/other/links belongs to user 65534"),
];

fn parents(path: &Path) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
}

fn link(to: &Path, path: &Path) {
    parents(path);
    symlink(to, path).expect("a link");
}

fn directory(path: &Path) {
    fs::create_dir_all(path).expect("a directory");
}

fn file(path: &Path) {
    parents(path);
    fs::write(path, "precious").expect("a file");
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

fn open(path: &Path) {
    directory(path);
    mode(path, 0o777);
}

fn open_file(path: &Path) {
    file(path);
    mode(path, 0o666);
}

fn owned(path: &Path) {
    directory(path);
    chown(path, Some(65_534), None).expect("root may");
}

fn owned_file(path: &Path) {
    file(path);
    chown(path, Some(65_534), None).expect("root may");
}

fn socket(path: &Path) {
    parents(path);
    drop(UnixListener::bind(path).expect("a socket"));
    chown(path, Some(65_534), None).expect("root may");
}

/// Everything below a directory: path, owner, mode and length.
fn listing(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for entry in entries {
        let path = entry.expect("readable").path();
        let metadata = fs::symlink_metadata(&path).expect("readable");
        found.push(format!("{} {} {:o} {}", path.display(), metadata.uid(), metadata.mode(), metadata.len()));
        if metadata.is_dir() {
            found.extend(listing(&path));
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_not_roots_alone_is_refused_by_agent_and_uninstall_and_left_as_it_is() {
    let lab = Lab::without_agent::<V4>("");
    for (what, put, words) in ROWS {
        let scratch = lab.scratch();
        // A directory for the way, which rows may spoil.
        let base = scratch.path().join("way");
        let [state, run, victim] = ["state", "run", "victim"].map(|name| base.join(name));
        let place = Place { state, run, bpffs: lab.other_bpffs(), victim };
        file(&place.victim.join("file"));
        put(&place);
        let before = (listing(&base), listing(&place.bpffs));
        let flags: Vec<OsString> =
            [("--state-dir", &place.state), ("--run-dir", &place.run), ("--bpffs", &place.bpffs)]
                .into_iter()
                .flat_map(|(flag, path)| [flag.into(), path.clone().into_os_string()])
                .collect();
        for verb in ["agent", "uninstall"] {
            let line = lab.instance(verb, &flags).refusal(&format!("{verb} with {what}"));
            for word in words.split('|') {
                assert!(line.contains(word), "{verb} with {what}: `{word}` is not named: {line}");
            }
            assert_eq!((listing(&base), listing(&place.bpffs)), before, "{verb} with {what} has changed something");
        }
        remove(&place.bpffs);
    }
    assert_eq!(Footprint::of(&lab), *lab.bare());
}

/// Removes what a row has put on the bpffs, which has no scratch directories.
fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).expect("removed"),
        Ok(_) => fs::remove_file(path).expect("removed"),
        Err(_) => {}
    }
}

#[test]
fn a_settings_file_that_others_can_change_is_refused() {
    let lab = Lab::without_agent::<V4>("");
    let scratch = lab.scratch();
    let path = scratch.path().join("netbpf.toml");
    fs::write(&path, "mtu = 1400\n").expect("a file");
    let refused = |what: &str, words: &str| {
        for verb in ["agent", "uninstall"] {
            let line = lab.instance(verb, &["--config".into(), path.clone().into_os_string()]).refusal(what);
            assert!(line.contains("netbpf.toml") && line.contains(words), "{what}: {line}");
        }
    };
    mode(&path, 0o666);
    refused("for all", "mode 0666");
    mode(&path, 0o664);
    chown(&path, None, Some(4711)).expect("root may");
    refused("for a group", "mode 0664");
    mode(&path, 0o644);
    chown(&path, Some(65_534), None).expect("root may");
    refused("of others", "belongs to user 65534");
}

#[test]
fn files_that_an_agent_makes_can_be_written_by_root_alone() {
    let lab = Lab::new::<V4>();
    lab.container("c1", &["-p", "8080:80"]);
    let state = lab.socket().parent().expect("the run directory").with_file_name("state");
    let run = lab.socket().parent().expect("the run directory").to_owned();
    for path in [&state, &run].into_iter().flat_map(|directory| walk(directory)) {
        let metadata = fs::symlink_metadata(&path).expect("readable");
        let is_socket = path.extension().is_some_and(|extension| extension == "sock");
        let others = if is_socket { 0o007 } else { 0o022 };
        assert!(metadata.uid() == 0 && metadata.mode() & others == 0, "{}: {:o}", path.display(), metadata.mode());
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    for entry in fs::read_dir(directory).expect("readable") {
        let entry = entry.expect("readable");
        match entry.file_type().expect("readable") {
            kind if kind.is_dir() => found.extend(walk(&entry.path())),
            kind if kind.is_symlink() => {}
            _ => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn what_looks_like_a_namespace_and_is_none_is_not_opened() {
    let lab = Lab::new::<V4>();
    let scratch = lab.scratch();
    let pipe = scratch.path().join("pipe");
    lab.host.command("mkfifo", &[pipe.to_str().expect("UTF-8")]);
    let before = lab.snapshot();
    for path in [pipe.to_str().expect("UTF-8"), "/etc/passwd", "/dev/null", "/proc/self/ns/mnt", "/"] {
        let line = lab.netbpf(&["attach", "--name", &lab.name("taken"), "--netns", path]).refusal(path);
        assert!(line.contains(path) || line.contains("not of the network"), "{line}");
    }
    lab.unchanged(&before, "what is no namespace");
}
