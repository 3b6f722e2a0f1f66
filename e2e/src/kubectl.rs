//! The real `kubectl`, where the machine has one that is new enough.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Result, ensure};

/// The oldest minor version whose requests our server is built for.
const OLDEST_MINOR: u32 = 28;

/// `kubectl` with a home of its own: some packaged ones cache `/version` there for hours.
pub struct Kubectl {
    home: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// `None`, said loudly, where there is no `kubectl` of 1.28 or later.
    pub fn find(kubeconfig: &Path) -> Result<Option<Kubectl>> {
        let home = tempfile::Builder::new().prefix("gctl-kubectl-").tempdir()?;
        let version = Command::new("kubectl")
            .args(["version", "--client", "-o", "json"])
            .env("HOME", home.path())
            .env_remove("KUBECONFIG")
            .output();
        let minor = version
            .ok()
            .and_then(|output| serde_json::from_slice::<serde_json::Value>(&output.stdout).ok())
            .and_then(|version| {
                let minor = version["clientVersion"]["minor"].as_str()?;
                minor
                    .trim_end_matches(|c: char| !c.is_ascii_digit())
                    .parse::<u32>()
                    .ok()
            });
        match minor {
            Some(minor) if minor >= OLDEST_MINOR => Ok(Some(Kubectl {
                home,
                kubeconfig: kubeconfig.to_path_buf(),
            })),
            found => {
                // Past the test harness, which swallows what a passing test prints.
                let _ = writeln!(
                    std::io::stderr(),
                    "SKIPPED: no kubectl of 1.{OLDEST_MINOR} or later on this machine (found minor: {found:?})"
                );
                Ok(None)
            }
        }
    }

    /// The command with these arguments, ready to be run or spawned.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .env("HOME", self.home.path())
            .env_remove("KUBECONFIG");
        command
    }

    /// Runs it and gives its output, whatever its exit code.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        Ok(self.command(args).output()?)
    }

    /// Runs it, insists on success and gives what it printed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args)?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "kubectl {}: {}\n{stdout}{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(stdout)
    }

    /// Runs it, insists on failure and gives what it said.
    pub fn fail(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args)?;
        ensure!(
            !output.status.success(),
            "kubectl {} succeeded: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
