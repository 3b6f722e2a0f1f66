//! A few texts by name, in as little memory as they need.
//!
//! Every object in memory has two of them, its labels and its selectable fields, with one to three entries each. A
//! `BTreeMap` has room for eleven from the first one on: half a kilobyte, as much as the object's JSON.

use std::fmt;

/// Texts by name, in order of name.
#[derive(Clone, PartialEq, Eq)]
pub struct Texts<K>(Box<[(K, Box<str>)]>);

impl<K: AsRef<str>> Texts<K> {
    /// The text of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let place = self.0.binary_search_by(|(key, _)| key.as_ref().cmp(name));
        let (_, text) = self.0.get(place.ok()?)?;
        Some(text)
    }

    /// Names and texts, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, text)| (key.as_ref(), &**text))
    }
}

impl<K> Default for Texts<K> {
    fn default() -> Self {
        Self(Box::default())
    }
}

/// Of several texts of one name the first one stays.
impl<K: AsRef<str> + Ord> FromIterator<(K, Box<str>)> for Texts<K> {
    fn from_iter<I: IntoIterator<Item = (K, Box<str>)>>(texts: I) -> Self {
        let mut texts: Vec<_> = texts.into_iter().collect();
        texts.sort_by(|(a, _), (b, _)| a.as_ref().cmp(b.as_ref()));
        texts.dedup_by(|(a, _), (b, _)| a == b);
        Self(texts.into())
    }
}

impl<K: AsRef<str>> fmt::Debug for Texts<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_by_name_whatever_their_order_was() {
        let given = [("b", "2"), ("a", "1"), ("b", "3"), ("", "0")];
        let texts: Texts<Box<str>> = given
            .map(|(k, v)| (k.into(), v.into()))
            .into_iter()
            .collect();
        let found: Vec<_> = texts.iter().collect();
        assert_eq!(found, [("", "0"), ("a", "1"), ("b", "2")]);
        assert_eq!(
            ["", "a", "b", "c"].map(|name| texts.get(name)),
            [Some("0"), Some("1"), Some("2"), None]
        );
        assert_eq!(Texts::<Box<str>>::default().get(""), None);
    }
}
