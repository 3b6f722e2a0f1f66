//! Unmodified `kubectl` against real processes: what a user of Kubernetes types, works.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use e2e::kubectl::Kubectl;
use e2e::processes::{Cluster, PATIENCE};

const HELLO: &str = r"
apiVersion: gctl.dev/v1
kind: Job
metadata:
  name: hello
spec:
  command: [echo, hello]
";

const WIDGETS: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: widgets.example.org
spec:
  group: example.org
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1, description: Width in millimetres.}
              color: {type: string, default: green}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
---
apiVersion: example.org/v1
kind: Widget
metadata:
  name: first
spec:
  size: 3
";

/// A cluster and a kubectl for it; `None` where there is no kubectl.
fn setup() -> Result<Option<(Cluster, Kubectl)>> {
    let cluster = Cluster::start("2x24Gi")?;
    Ok(Kubectl::find(&cluster.kubeconfig())?.map(|kubectl| (cluster, kubectl)))
}

fn write(cluster: &Cluster, name: &str, text: &str) -> Result<String> {
    let path = cluster.dir().join(name);
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

#[test]
fn a_job_is_applied_watched_read_changed_and_deleted() -> Result<()> {
    let Some((cluster, kubectl)) = setup()? else {
        return Ok(());
    };
    let file = write(&cluster, "hello.yaml", HELLO)?;
    assert_eq!(
        kubectl.run(&["apply", "-f", &file])?.trim(),
        "job.gctl.dev/hello created"
    );
    kubectl.run(&[
        "wait",
        "--for=jsonpath={.status.phase}=Succeeded",
        "job/hello",
        "--timeout=60s",
    ])?;
    assert_eq!(
        kubectl.run(&["apply", "-f", &file])?.trim(),
        "job.gctl.dev/hello unchanged"
    );

    let table = kubectl.run(&["get", "jobs"])?;
    let mut lines = table.lines();
    let header = lines.next().context("a header")?;
    assert!(
        header.starts_with("NAME") && header.contains("PHASE"),
        "{table}"
    );
    let row = lines.next().context("a row")?;
    assert!(
        row.starts_with("hello") && row.contains("Succeeded"),
        "{table}"
    );

    let yaml = kubectl.run(&["get", "job", "hello", "-o", "yaml"])?;
    let object: serde_yaml::Value = serde_yaml::from_str(&yaml)?;
    assert_eq!(object["status"]["exitCode"], 0, "{yaml}");

    let described = kubectl.run(&["describe", "job", "hello"])?;
    assert!(
        described.contains("Phase:") && described.contains("Succeeded"),
        "{described}"
    );

    assert!(
        kubectl
            .run(&["label", "job", "hello", "team=vision"])?
            .contains("labeled")
    );
    assert!(
        kubectl
            .run(&["get", "jobs", "-l", "team=vision", "-o", "name"])?
            .contains("hello")
    );
    assert!(
        kubectl
            .run(&["get", "jobs", "-l", "team!=vision", "-o", "name"])?
            .trim()
            .is_empty()
    );
    let patch = r#"{"spec":{"priority":7}}"#;
    kubectl.run(&["patch", "job", "hello", "--type=merge", "-p", patch])?;
    let priority = kubectl.run(&["get", "job", "hello", "-o", "jsonpath={.spec.priority}"])?;
    assert_eq!(priority, "7");

    assert!(
        kubectl
            .run(&["delete", "job", "hello"])?
            .contains("deleted")
    );
    let gone = kubectl.fail(&["get", "job", "hello"])?;
    assert_eq!(
        gone.trim(),
        r#"Error from server (NotFound): jobs.gctl.dev "hello" not found"#
    );
    Ok(())
}

#[test]
fn a_watch_shows_a_job_from_pending_to_its_end() -> Result<()> {
    let Some((_cluster, kubectl)) = setup()? else {
        return Ok(());
    };
    let mut watch = kubectl
        .command(&["get", "jobs", "-w", "--no-headers"])
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = watch.stdout.take().context("stdout is piped")?;
    // kubectl watches for ever; the bound of the test is the watchdog's.
    let (done, waits) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let _ = waits.recv_timeout(PATIENCE);
        watch.kill()?;
        watch.wait()
    });
    let mut create = kubectl
        .command(&["create", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    create
        .stdin
        .take()
        .context("stdin is piped")?
        .write_all(HELLO.as_bytes())?;
    assert!(create.wait()?.success());
    let mut seen = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        seen.push_str(&line);
        seen.push('\n');
        if line.contains("Succeeded") {
            break;
        }
    }
    drop(done);
    let _ = watchdog.join();
    for phase in ["Scheduled", "Running", "Succeeded"] {
        assert!(seen.contains(phase), "{phase} is missing in\n{seen}");
    }
    Ok(())
}

#[test]
fn what_there_is_can_be_discovered_and_explained() -> Result<()> {
    let Some((_cluster, kubectl)) = setup()? else {
        return Ok(());
    };
    let resources = kubectl.run(&["api-resources"])?;
    for kind in [
        "Job",
        "Node",
        "Queue",
        "Profile",
        "Namespace",
        "Lease",
        "CustomResourceDefinition",
    ] {
        assert!(
            resources
                .lines()
                .any(|line| line.ends_with(&format!(" {kind}"))),
            "{kind} is missing in\n{resources}"
        );
    }
    let text = kubectl.run(&["explain", "job.spec.resources"])?;
    assert!(text.contains("vram") && text.contains("gpus"), "{text}");
    assert!(
        kubectl
            .run(&["get", "crd", "-o", "name"])?
            .contains("jobs.gctl.dev")
    );
    assert!(kubectl.run(&["get", "nodes"])?.contains("node-a"));
    assert!(kubectl.run(&["version"])?.contains("v1.32"));
    assert!(
        kubectl
            .run(&["auth", "can-i", "create", "jobs"])?
            .contains("yes")
    );
    kubectl.run(&["create", "namespace", "team"])?;
    assert!(kubectl.run(&["get", "ns", "team", "-o", "jsonpath={.status.phase}"])? == "Active");
    kubectl.run(&["delete", "namespace", "team", "--timeout=60s"])?;
    Ok(())
}

#[test]
fn a_kind_of_the_users_own_is_served_at_once() -> Result<()> {
    let Some((cluster, kubectl)) = setup()? else {
        return Ok(());
    };
    let file = write(&cluster, "widgets.yaml", WIDGETS)?;
    // kubectl maps all kinds before it sends the first object, so the definition goes ahead, as with any server.
    let (definition, object) = WIDGETS.split_once("\n---\n").context("two documents")?;
    kubectl.run(&["apply", "-f", &write(&cluster, "crd.yaml", definition)?])?;
    kubectl.run(&["apply", "-f", &write(&cluster, "widget.yaml", object)?])?;
    assert!(
        kubectl
            .run(&["apply", "-f", &file])?
            .contains("widget.example.org/first unchanged")
    );
    assert_eq!(
        kubectl.run(&["get", "wd", "first", "-o", "jsonpath={.spec.color}"])?,
        "green"
    );
    assert!(
        kubectl
            .run(&["explain", "widget.spec.size"])?
            .contains("Width in millimetres.")
    );
    let bad = write(&cluster, "bad.yaml", &object.replace("size: 3", "size: 0"))?;
    let refusal = kubectl.fail(&["apply", "-f", &bad])?;
    assert!(refusal.contains("spec.size: Invalid value: 0"), "{refusal}");
    assert_eq!(
        kubectl.run(&["get", "wd", "first", "-o", "jsonpath={.spec.size}"])?,
        "3"
    );
    kubectl.run(&["delete", "crd", "widgets.example.org", "--timeout=60s"])?;
    // Which of the two depends on how old kubectl's own cache of names is.
    let gone = kubectl.fail(&["get", "widgets.example.org"])?;
    assert!(
        gone.contains("could not find the requested resource")
            || gone.contains("doesn't have a resource type"),
        "{gone}"
    );
    Ok(())
}

/// Applies each file of `manifests/`, strictly and without effect; but for definitions, which their objects need.
fn every_manifest_is_accepted(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
    let dry = |file: &str| {
        let strictly = ["apply", "--validate=strict", "--dry-run=server", "-f", file];
        kubectl.run(&strictly)
    };
    let mut count = 0;
    for folder in ["quickstart", "examples"] {
        for entry in fs::read_dir(manifests.join(folder))? {
            let path = entry?.path();
            let text = fs::read_to_string(&path)?;
            if let Some((definition, object)) = text.split_once("\n---\n")
                && definition.contains("kind: CustomResourceDefinition")
            {
                kubectl.run(&["apply", "-f", &write(cluster, "kind.yaml", definition)?])?;
                dry(&write(cluster, "object.yaml", object)?)?;
            } else {
                dry(&path.display().to_string())?;
            }
            count += 1;
        }
    }
    assert!(count > 10, "the manifests were found: {count}");
    Ok(())
}

#[test]
fn a_wrong_field_is_refused_by_name_and_no_manifest_of_ours_has_one() -> Result<()> {
    let Some((cluster, kubectl)) = setup()? else {
        return Ok(());
    };
    every_manifest_is_accepted(&cluster, &kubectl)?;
    let unknown = HELLO.replace("spec:\n", "spec:\n  colour: red\n");
    let refusal = kubectl.fail(&["create", "-f", &write(&cluster, "unknown.yaml", &unknown)?])?;
    assert!(
        refusal.contains(r#"unknown field "spec.colour""#),
        "{refusal}"
    );
    let wrong = HELLO.replace("spec:\n", "spec:\n  priority: high\n");
    let refusal = kubectl.fail(&["create", "-f", &write(&cluster, "wrong.yaml", &wrong)?])?;
    assert!(refusal.contains("spec.priority"), "{refusal}");
    assert!(
        kubectl
            .run(&["get", "jobs", "-o", "name"])?
            .trim()
            .is_empty()
    );
    Ok(())
}
