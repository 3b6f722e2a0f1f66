//! Which GPUs the nodes of `gctl up` have.

use std::path::Path;
use std::str::FromStr;

use nodeagent::gpu::{GpuSource, SIM_GPUS_HELP, SimGpus};

/// What a machine without GPUs simulates, so that a newcomer sees GPUs scheduled.
const SIMULATED: &str = "2x24Gi";

/// What `--sim-gpus` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No GPUs.
    None,
    /// These.
    Simulated(SimGpus),
}

impl FromStr for Wanted {
    type Err = nodeagent::gpu::SimGpusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            Ok(Wanted::None)
        } else {
            text.parse().map(Wanted::Simulated)
        }
    }
}

/// What `--help` says of `--sim-gpus`.
pub(super) fn long_help() -> String {
    format!("{SIM_GPUS_HELP} Default: what NVML finds, or {SIMULATED} where there is none.")
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// For the agents.
    pub(super) source: GpuSource,
    /// What a person should know.
    pub(super) note: Option<String>,
}

/// Chooses by the flags and by whether this host has a driver.
pub(super) fn choose(wanted: Option<Wanted>, sim_nodes: u32) -> Choice {
    decide(wanted, sim_nodes, has_driver())
}

fn decide(wanted: Option<Wanted>, sim_nodes: u32, has_driver: bool) -> Choice {
    let simulated = || {
        SIMULATED
            .parse()
            .map_or(GpuSource::None, GpuSource::Simulated)
    };
    match wanted {
        Some(Wanted::None) => Choice {
            source: GpuSource::None,
            note: None,
        },
        Some(Wanted::Simulated(gpus)) => Choice {
            source: GpuSource::Simulated(gpus),
            note: None,
        },
        None if sim_nodes > 0 => Choice {
            source: simulated(),
            note: Some(format!(
                "simulating {SIMULATED} on each node (--sim-gpus chooses others, or none)"
            )),
        },
        None if has_driver => Choice {
            source: GpuSource::Nvml,
            note: None,
        },
        None => Choice {
            source: simulated(),
            note: Some(format!(
                "no NVIDIA GPU found: simulating {SIMULATED} (use --sim-gpus none for none)"
            )),
        },
    }
}

/// True where an NVIDIA driver is loaded: natively, or on WSL where it shows itself as another device.
fn has_driver() -> bool {
    let listed = std::fs::read_dir("/proc/driver/nvidia/gpus")
        .is_ok_and(|mut entries| entries.next().is_some());
    listed
        || Path::new("/dev/nvidia0").exists()
        || (Path::new("/dev/dxg").exists()
            && Path::new("/usr/lib/wsl/lib/libnvidia-ml.so.1").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_gpus_simulates_two_and_says_so() {
        let choice = decide(None, 0, false);
        let two = "2x24Gi".parse().unwrap();
        assert_eq!(choice.source, GpuSource::Simulated(two));
        insta::assert_snapshot!(choice.note.unwrap(), @"no NVIDIA GPU found: simulating 2x24Gi (use --sim-gpus none for none)");
    }

    #[test]
    fn flags_come_before_what_the_machine_has() {
        assert_eq!(decide(Some(Wanted::None), 0, false).source, GpuSource::None);
        assert_eq!(decide(None, 0, true).source, GpuSource::Nvml);
        assert!(matches!(
            decide(None, 2, true).source,
            GpuSource::Simulated(_)
        ));
        let wanted = "1x80Gi".parse().unwrap();
        assert_eq!(
            decide(Some(wanted), 0, true).source,
            GpuSource::Simulated("1x80Gi".parse().unwrap())
        );
        assert!("2x".parse::<Wanted>().is_err());
    }
}
