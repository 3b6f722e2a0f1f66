//! House rules that a compiler does not check: the dependency edges, file sizes, module docs, and one home for each
//! library that we may have to replace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file longer than this is two files.
const MAX_LINES: usize = 700;

/// Libraries that stand behind a seam of ours, and the one file, or the one folder of its own, that may name them.
const ONE_HOME: [(&str, &str); 6] = [
    ("sled::", "apiserver/src/store/embedded.rs"),
    ("crossbeam_epoch::", "apiserver/src/store/embedded.rs"),
    ("jsonschema::", "apiserver/src/schema/engine.rs"),
    ("notify::", "gctl/src/sync/notice.rs"),
    ("nvml_wrapper::", "nodeagent/src/gpu/nvml/"),
    ("kube_cel::", "apiserver/src/schema/cel/"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("e2e lies in the workspace")
        .to_path_buf()
}

/// Every Rust source of the workspace, relative to its root, with its text.
fn sources() -> BTreeMap<String, String> {
    let root = root();
    let mut found = BTreeMap::new();
    let mut folders = [
        "apiserver",
        "controllers",
        "crds",
        "e2e",
        "gctl",
        "nodeagent",
    ]
    .map(|name| root.join(name))
    .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder can be listed") {
            let path = entry.expect("a folder entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path
                    .strip_prefix(&root)
                    .expect("found below the root")
                    .display()
                    .to_string();
                found.insert(name, fs::read_to_string(&path).expect("sources are UTF-8"));
            }
        }
    }
    assert!(found.len() > 20, "the sources were found: {}", found.len());
    found
}

#[test]
fn crates_depend_only_along_the_committed_edges() {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let members: BTreeSet<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    let mut edges = String::new();
    let mut sorted: Vec<_> = packages.iter().collect();
    sorted.sort_by_key(|package| package["name"].as_str());
    for package in sorted {
        let uses: BTreeSet<&str> = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter()
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|name| members.contains(name))
            .collect();
        let line = format!(
            "{} -> {}",
            package["name"].as_str().expect("a name"),
            uses.into_iter().collect::<Vec<_>>().join(" ")
        );
        edges.push_str(line.trim_end());
        edges.push('\n');
    }
    let committed =
        fs::read_to_string(root().join("dependencies.txt")).expect("dependencies.txt is there");
    assert_eq!(
        edges, committed,
        "a new edge is a design decision: change dependencies.txt and ARCHITECTURE.md with it"
    );
}

#[test]
fn every_file_is_short_and_says_what_it_is_for() {
    let mut faults = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            faults.push(format!("{name}: {lines} lines, at most {MAX_LINES}"));
        }
        if !text.trim_start().starts_with("//!") {
            faults.push(format!("{name}: does not begin with a module doc"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_unfinished_marks_are_left() {
    // Spelt in halves, so that this file does not find itself.
    let marks = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["unimple", "mented!("],
    ]
    .map(|m| m.concat());
    let mut faults = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                faults.push(format!("{name}:{}: {line}", number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn replaceable_libraries_are_named_in_one_place_each() {
    let sources = sources();
    for (library, home) in ONE_HOME {
        let users: Vec<&String> = sources
            .iter()
            .filter(|(name, text)| {
                name.contains("/src/")
                    && text
                        .lines()
                        .any(|line| line.contains(library) && !line.trim_start().starts_with("//"))
            })
            .map(|(name, _)| name)
            .collect();
        assert!(!users.is_empty(), "{library} is named nowhere: drop it");
        let elsewhere: Vec<_> = users
            .iter()
            .filter(|name| !name.starts_with(home))
            .collect();
        assert!(
            elsewhere.is_empty(),
            "{library} is named in {elsewhere:?}, not only in {home}"
        );
    }
}

#[test]
fn the_two_commands_of_the_readme_are_the_ones_that_are_tested() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md is there");
    for command in [
        "cargo run --release -p gctl -- up --apply manifests/quickstart --wait",
        "cargo test --workspace",
    ] {
        assert!(readme.contains(command), "README.md lacks `{command}`");
    }
    let ci = fs::read_to_string(root().join(".ci/run")).expect(".ci/run is there");
    assert!(ci.contains("cargo test --workspace"));
}
