//! A set of indices, as ranges; on the wire as `0-4,7`, or as a bitmap when there are too many ranges.
//!
//! **Limits.** More than [`MAX_RANGES`] ranges are written as `b:` and the base64 of a bitmap, lowest index first, lowest bit
//! first. Indices end below [`MAX_INDEX`], so the longest text has about 167,000 characters.

use std::collections::BTreeMap;

/// Most ranges that are written as such: as text they take about as much room as the bitmap of some ten thousand indices.
const MAX_RANGES: usize = 256;
/// Indices are below this; the schema's bound of `array.count`.
const MAX_INDEX: u32 = 1_000_000;

/// A set of indices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexSet {
    /// First and last index of each range; ranges neither overlap nor touch.
    ranges: BTreeMap<u32, u32>,
}

/// The text is not one that this type writes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a set of indices")]
pub(crate) struct Malformed(String);

impl IndexSet {
    pub(crate) fn contains(&self, index: u32) -> bool {
        let below = self.ranges.range(..=index).next_back();
        below.is_some_and(|(_, last)| *last >= index)
    }

    /// Number of indices.
    pub(crate) fn len(&self) -> u32 {
        self.ranges
            .iter()
            .map(|(first, last)| last - first + 1)
            .sum()
    }

    /// The least index from `from` on that is not in the set.
    pub(crate) fn first_gap(&self, from: u32) -> u32 {
        match self.ranges.range(..=from).next_back() {
            Some((_, last)) if *last >= from => last.saturating_add(1),
            _ => from,
        }
    }

    pub(crate) fn insert(&mut self, index: u32) {
        if self.contains(index) {
            return;
        }
        let mut first = index;
        let mut last = index;
        if let Some((low, high)) = self.ranges.range(..index).next_back()
            && high.saturating_add(1) == index
        {
            first = *low;
        }
        if let Some(after) = index.checked_add(1)
            && let Some(high) = self.ranges.remove(&after)
        {
            last = high;
        }
        self.ranges.insert(first, last);
    }

    /// Reads what [`IndexSet::to_text`] wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed(text.chars().take(64).collect());
        let mut set = Self::default();
        if let Some(bitmap) = text.strip_prefix("b:") {
            let bytes = decode(bitmap).ok_or_else(malformed)?;
            for (at, byte) in (0_u32..).zip(bytes) {
                for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
                    let index = at * 8 + bit;
                    if index >= MAX_INDEX {
                        return Err(malformed());
                    }
                    set.insert(index);
                }
            }
            return Ok(set);
        }
        let mut least = 0;
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.parse().map_err(|_| malformed())?;
            let last: u32 = last.parse().map_err(|_| malformed())?;
            if first < least || last < first || last >= MAX_INDEX {
                return Err(malformed());
            }
            set.ranges.insert(first, last);
            least = last + 2;
        }
        Ok(set)
    }

    /// The text that stands for it in a status.
    pub(crate) fn to_text(&self) -> String {
        if self.ranges.len() > MAX_RANGES {
            return self.bitmap();
        }
        let words = self.ranges.iter().map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        });
        words.collect::<Vec<_>>().join(",")
    }

    fn bitmap(&self) -> String {
        let last = self.ranges.last_key_value().map_or(0, |(_, last)| *last);
        let mut bytes = vec![0_u8; last as usize / 8 + 1];
        for (first, last) in &self.ranges {
            for index in *first..=*last {
                bytes[index as usize / 8] |= 1 << (index % 8);
            }
        }
        format!("b:{}", encode(&bytes))
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648, section 4).
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for place in 0..4 {
            if place > chunk.len() {
                text.push('=');
            } else {
                let digit = (group >> (18 - 6 * place)) & 63;
                text.push(char::from(ALPHABET[digit as usize]));
            }
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let mut group = 0_u32;
    let mut bits = 0;
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == digit)?;
        group = (group << 6 | u32::try_from(value).ok()?) & 0xFFFF;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(group >> bits & 0xFF).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn of(indices: impl IntoIterator<Item = u32>) -> IndexSet {
        let mut set = IndexSet::default();
        for index in indices {
            set.insert(index);
        }
        set
    }

    #[test]
    fn neighbours_become_one_range() {
        let set = of([7, 0, 2, 1, 4, 3, 9]);
        assert_eq!(set.to_text(), "0-4,7,9");
        assert_eq!(IndexSet::parse("0-4,7,9"), Ok(set));
        assert_eq!(IndexSet::parse(""), Ok(IndexSet::default()));
    }

    #[test]
    fn many_ranges_become_a_bitmap() {
        let sparse = of((0..2000).step_by(2));
        let text = sparse.to_text();
        assert!(text.starts_with("b:"));
        assert_eq!(IndexSet::parse(&text), Ok(sparse));
    }

    #[test]
    fn the_largest_set_stays_bounded() {
        let sparse = of((0..MAX_INDEX).step_by(2));
        assert!(sparse.to_text().len() < 170_000);
        assert_eq!(of(0..1000).to_text(), "0-999");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "x", "3-1", "5,4", "0-1,2", "-", "1000000", "b:AAA", "b:*AAA", "1,,2",
        ] {
            assert!(IndexSet::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn base64_is_the_standard_one() {
        assert_eq!(encode(b"f"), "Zg==");
        assert_eq!(encode(b"foob"), "Zm9vYg==");
        assert_eq!(encode(b"foobar"), "Zm9vYmFy");
        assert_eq!(decode("Zm9vYg=="), Some(b"foob".to_vec()));
    }

    proptest! {
        #[test]
        fn it_is_a_set(indices in prop::collection::vec(0..3000_u32, 0..600), probe in 0..3000_u32) {
            let model: BTreeSet<u32> = indices.iter().copied().collect();
            let set = of(indices);
            prop_assert_eq!(set.len() as usize, model.len());
            prop_assert_eq!(set.contains(probe), model.contains(&probe));
            let gap = (probe..4000).find(|index| !model.contains(index));
            prop_assert_eq!(Some(set.first_gap(probe)), gap);
            prop_assert_eq!(IndexSet::parse(&set.to_text()), Ok(set));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(b:)?[0-9A-Za-z,=+/-]{0,40}") {
            if let Ok(set) = IndexSet::parse(&text) {
                prop_assert_eq!(IndexSet::parse(&set.to_text()), Ok(set));
            }
        }
    }
}
