//! The server's only source of randomness: uids, name suffixes and jitter, from one generator that can be seeded.

use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

/// Generates identifiers.
#[derive(Debug)]
pub struct Ids {
    rng: Mutex<StdRng>,
}

/// Letters and digits that form no words and are hard to confuse. Specified: upstream's alphabet.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;

impl Ids {
    /// With a seed the same calls give the same identifiers; without one they come from the operating system.
    pub fn new(seed: Option<u64>) -> Self {
        let rng = seed.map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64);
        Self {
            rng: Mutex::new(rng),
        }
    }

    /// A fresh UUIDv4.
    pub fn uid(&self) -> String {
        let mut bytes = [0_u8; 16];
        self.rng.lock().fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .to_string()
    }

    /// Five characters for the end of a generated name.
    pub fn suffix(&self) -> String {
        let mut rng = self.rng.lock();
        (0..SUFFIX_LEN)
            .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
            .collect()
    }

    /// A time between `base` and twice that.
    pub fn spread(&self, base: Duration) -> Duration {
        base + base.mul_f64(self.rng.lock().random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_ids_and_all_are_well_formed() {
        let (a, b) = (Ids::new(Some(7)), Ids::new(Some(7)));
        assert_eq!(a.uid(), b.uid());
        assert_eq!(a.suffix(), b.suffix());
        let uid = a.uid();
        assert_ne!(uid, b.suffix());
        assert_eq!(uuid::Uuid::parse_str(&uid).unwrap().get_version_num(), 4);
        assert_eq!(a.suffix().len(), SUFFIX_LEN);
    }
}
