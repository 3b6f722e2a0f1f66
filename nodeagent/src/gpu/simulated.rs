//! Simulated GPUs, for laptops, tests and demonstrations: `2x24Gi,1x80Gi`.

use std::str::FromStr;

use crds::Quantity;
use crds::node::GpuStatus;

/// Most simulated cards of one node.
const MOST_CARDS: usize = 64;

/// Memory of each simulated card in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimGpus(pub Vec<u64>);

/// Why a list of simulated GPUs cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimGpusError {
    /// An entry has another form.
    #[error("`{0}` is not COUNTxMEMORY, such as `2x24Gi`")]
    Form(String),
    /// The memory is no quantity.
    #[error("`{0}` is not an amount of memory, such as `24Gi`")]
    Memory(String),
    /// The memory is absurdly small.
    #[error("`{0}` is too little memory for a GPU: give at least 1Gi, with its unit")]
    TooSmall(String),
    /// Too many.
    #[error("a node has at most {MOST_CARDS} simulated GPUs")]
    TooMany,
}

impl FromStr for SimGpus {
    type Err = SimGpusError;

    fn from_str(text: &str) -> Result<Self, SimGpusError> {
        const LEAST_BYTES: u64 = 1 << 30;
        let mut cards = Vec::new();
        for entry in text.split(',').map(str::trim) {
            let (count, memory) = entry
                .split_once('x')
                .ok_or_else(|| SimGpusError::Form(entry.to_owned()))?;
            let count: usize = count
                .trim()
                .parse()
                .map_err(|_| SimGpusError::Form(entry.to_owned()))?;
            let memory = memory.trim();
            let bytes = Quantity(memory.to_owned())
                .bytes()
                .map_err(|_| SimGpusError::Memory(memory.to_owned()))?;
            if bytes < LEAST_BYTES {
                return Err(SimGpusError::TooSmall(memory.to_owned()));
            }
            if count.saturating_add(cards.len()) > MOST_CARDS {
                return Err(SimGpusError::TooMany);
            }
            cards.extend(std::iter::repeat_n(bytes, count));
        }
        Ok(Self(cards))
    }
}

impl SimGpus {
    /// The cards of one node; the same node always has the same UUIDs.
    pub(crate) fn cards(&self, node_name: &str) -> Vec<GpuStatus> {
        (0..)
            .zip(&self.0)
            .map(|(index, bytes)| GpuStatus {
                uuid: uuid(node_name, index),
                index,
                model: format!("Simulated {}", Quantity::from_bytes(*bytes).0),
                memory_bytes: *bytes,
                used_bytes: Some(0),
                compute_capability: Some("9.0".to_owned()),
                simulated: true,
                healthy: true,
                ..GpuStatus::default()
            })
            .collect()
    }
}

/// A name-based UUID: FNV-1a over node and index.
fn uuid(node_name: &str, index: u32) -> String {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let text = format!("{node_name}/{index}");
    let hash = text.bytes().fold(BASIS, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    });
    let uuid = uuid::Builder::from_random_bytes(hash.to_be_bytes()).into_uuid();
    format!("GPU-{uuid}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn counts_and_sizes_are_read_in_order() {
        let gpus: SimGpus = "2x24Gi, 1x80Gi".parse().expect("well formed");
        assert_eq!(gpus.0, [24 << 30, 24 << 30, 80 << 30]);
        assert_eq!("0x24Gi".parse(), Ok(SimGpus::default()));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        use SimGpusError::{Form, Memory, TooMany, TooSmall};
        for (text, expected) in [
            ("", Form(String::new())),
            ("24Gi", Form("24Gi".to_owned())),
            ("twox24Gi", Form("twox24Gi".to_owned())),
            ("2x24Gi,", Form(String::new())),
            ("2xmuch", Memory("much".to_owned())),
            ("2x24", TooSmall("24".to_owned())),
            ("65x24Gi", TooMany),
        ] {
            assert_eq!(text.parse::<SimGpus>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn uuids_are_stable_for_a_node_and_differ_between_nodes() {
        let gpus = SimGpus(vec![24 << 30; 4]);
        let of = |node: &str| -> Vec<String> {
            gpus.cards(node).into_iter().map(|card| card.uuid).collect()
        };
        assert_eq!(of("a"), of("a"));
        let all: BTreeSet<_> = of("a").into_iter().chain(of("b")).collect();
        assert_eq!(all.len(), 8);
    }
}
