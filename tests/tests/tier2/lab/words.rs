//! Commands as texts, in which names of a lab stand for themselves.

use super::Lab;

impl Lab {
    /// A text with the full name of every `@NAME` in it.
    pub(crate) fn named(&self, text: &str) -> String {
        let mut named = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('@') {
            let end = after.find(|other: char| !other.is_ascii_alphanumeric()).unwrap_or(after.len());
            named.push_str(before);
            named.push_str(&self.name(&after[..end]));
            rest = &after[end..];
        }
        named + rest
    }
}
