//! Network namespaces that are not netbpf's.

use std::process::Command;

/// A named network namespace, deleted when dropped.
pub struct OwnNamespace {
    name: String,
}

impl OwnNamespace {
    /// Makes one.
    ///
    /// # Panics
    /// When the kernel refuses, or the name is taken.
    #[track_caller]
    pub fn make(name: &str) -> Self {
        assert!(netns("add", name), "cannot make namespace {name}");
        Self { name: name.to_owned() }
    }

    /// One that is there, to be deleted.
    pub fn found(name: String) -> Self {
        Self { name }
    }
}

impl Drop for OwnNamespace {
    fn drop(&mut self) {
        // A panic here would hide the one that brought us here.
        if !netns("delete", &self.name) {
            eprintln!("namespace {} could not be deleted", self.name);
        }
    }
}

fn netns(verb: &str, name: &str) -> bool {
    Command::new("ip").args(["netns", verb, name]).status().is_ok_and(|status| status.success())
}
