//! The committed CRD YAML equals what the types say, follows Kubernetes' structural rules, and accepts and refuses what
//! it should.

#![expect(
    clippy::unwrap_used,
    reason = "a manifest that is not there is a failed test"
)]

use std::path::Path;

use crds::manifest::{Manifest, manifests};
use serde_json::{Value, json};

fn schema_of(file: &str) -> Value {
    let manifest: Manifest = manifests()
        .unwrap()
        .into_iter()
        .find(|manifest| manifest.file == file)
        .unwrap();
    manifest.definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Messages of the bounds and the CEL rules that refuse an object, `old` being what it replaces.
fn refusals(file: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = schema_of(file);
    let bounds = jsonschema::draft202012::new(&schema).unwrap();
    let mut found: Vec<String> = bounds
        .iter_errors(object)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    if let Err(errors) = kube_cel::Validator::new().validate(&schema, object, old) {
        found.extend(errors.iter().map(ToString::to_string));
    }
    found
}

fn job(spec: &Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn the_committed_yaml_is_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for manifest in manifests().unwrap() {
        let committed = std::fs::read_to_string(folder.join(manifest.file)).unwrap_or_default();
        assert!(
            committed == manifest.to_yaml().unwrap(),
            "crds/{} is stale: run `cargo run -p crds --bin crdgen`",
            manifest.file
        );
    }
}

#[test]
fn every_schema_is_structural_and_documented() {
    fn walk(schema: &Value, path: &str) {
        let node = schema.as_object().unwrap();
        for banned in ["$ref", "anyOf", "allOf", "nullable", "default", "title"] {
            assert!(!node.contains_key(banned), "{path} has {banned}");
        }
        let typed = node.contains_key("type") || node.contains_key("x-kubernetes-int-or-string");
        assert!(typed, "{path} has no type");
        if let Some(format) = node.get("format").and_then(Value::as_str) {
            assert!(
                ["int32", "int64", "date-time"].contains(&format),
                "{path}: {format}"
            );
        }
        for (name, child) in node
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let path = format!("{path}.{name}");
            let in_condition = path.contains(".conditions[]");
            assert!(
                in_condition || child["description"].is_string(),
                "{path} has no description"
            );
            walk(child, &path);
        }
        if let Some(items) = node.get("items") {
            walk(items, &format!("{path}[]"));
        }
        if let Some(values) = node.get("additionalProperties") {
            walk(values, &format!("{path}{{}}"));
        }
    }
    for manifest in manifests().unwrap() {
        walk(&schema_of(manifest.file), manifest.file);
    }
}

#[test]
fn every_rule_compiles() {
    fn rules(schema: &kube_cel::CompiledSchema) -> usize {
        assert!(!schema.has_errors(), "{:?}", schema.compilation_errors());
        let below = schema.properties.values().chain(schema.items.as_deref());
        schema.validations.len()
            + below
                .chain(schema.additional_properties.as_deref())
                .map(rules)
                .sum::<usize>()
    }
    let counts = manifests()
        .unwrap()
        .iter()
        .map(|manifest| rules(&kube_cel::compile_schema(&schema_of(manifest.file))))
        .collect::<Vec<_>>();
    assert!(counts[0] > 15, "the rules of jobs were found: {counts:?}");
}

#[test]
fn jobs_carry_the_annotations_of_their_log_streams() {
    let jobs = manifests().unwrap().remove(0).definition;
    let annotations = &jobs["metadata"]["annotations"];
    assert_eq!(annotations["streams.gctl.dev/streams"], "log");
    assert_eq!(
        annotations["streams.gctl.dev/writer-field"],
        "status.binding.nodeName"
    );
}

#[test]
fn good_jobs_are_accepted() {
    for spec in [
        json!({"command": ["true"]}),
        json!({"script": "echo hi"}),
        json!({"command": ["train"], "resources": {"cpu": 2, "memory": "4Gi", "vram": "10Gi"}}),
        json!({"command": ["x"], "resources": {"cpu": "500m", "gpus": 2, "vram": "1.5G"}}),
        json!({"command": ["x", "{i}"], "array": {"count": 10, "parallelism": 2}}),
        json!({"command": ["x"], "array": {"matrix": {"lr": ["0.1", "0.2"]}}}),
        json!({"command": ["x"], "env": [{"name": "A", "value": ""}, {"name": "B"}]}),
        json!({"command": ["x"], "tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b"}]}),
        json!({"command": ["x"], "nodeSelector": {"kubernetes.io/arch": "amd64"}, "needs": ["docker"]}),
        json!({"command": ["x"], "priority": -1000, "dependsOn": [{"name": "first"}]}),
    ] {
        assert_eq!(
            refusals("jobs.yaml", &job(&spec), None),
            Vec::<String>::new(),
            "{spec}"
        );
    }
}

#[test]
fn bad_jobs_are_refused_where_they_are_bad() {
    let rows = [
        (json!({}), "spec"),
        (json!({"command": ["x"], "script": "y"}), "spec"),
        (json!({"command": []}), "command"),
        (json!({"command": ["x"], "priority": 1001}), "priority"),
        (json!({"command": ["x"], "queue": "No Spaces"}), "queue"),
        (json!({"command": ["x"], "resources": {"cpu": "-1"}}), "cpu"),
        (
            json!({"command": ["x"], "resources": {"memory": "4GB"}}),
            "memory",
        ),
        (
            json!({"command": ["x"], "resources": {"gpus": 0, "vram": "1Gi"}}),
            "vram",
        ),
        (
            json!({"command": ["x"], "resources": {"exclusive": "gpu"}}),
            "exclusive",
        ),
        (
            json!({"command": ["x"], "resources": {"gpu": {"minComputeCapability": "new"}}}),
            "minCompute",
        ),
        (
            json!({"command": ["x"], "env": [{"name": "GCTL_X", "value": "1"}]}),
            "GCTL_",
        ),
        (json!({"command": ["x"], "env": [{"name": "1X"}]}), "name"),
        (
            json!({"command": ["x"], "env": [{"name": "X", "value": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            "not both",
        ),
        (
            json!({"command": ["x"], "array": {"parallelism": 3}}),
            "exactly one",
        ),
        (
            json!({"command": ["x"], "array": {"count": 3, "items": ["a"]}}),
            "exactly one",
        ),
        (json!({"command": ["x"], "array": {"count": 0}}), "count"),
        (json!({"command": ["x"], "replicas": 0}), "replicas"),
        (json!({"command": ["x"], "workingDir": "tmp"}), "workingDir"),
        (
            json!({"command": ["x"], "terminationGracePeriodSeconds": 86_401}),
            "terminationGrace",
        ),
        (
            json!({"command": ["x"], "tolerations": [{"value": "v"}]}),
            "without a key",
        ),
        (
            json!({"command": ["x"], "tolerations": [{"key": "k", "operator": "Exists", "value": "v"}]}),
            "value goes",
        ),
        (
            json!({"command": ["x"], "onPreemption": "Shrug"}),
            "onPreemption",
        ),
    ];
    for (spec, place) in rows {
        let found = refusals("jobs.yaml", &job(&spec), None);
        assert!(
            found.iter().any(|refusal| refusal.contains(place)),
            "{spec}: {found:?}"
        );
    }
}

#[test]
fn what_a_job_runs_cannot_change_and_how_it_is_queued_can() {
    let before = json!({
        "command": ["x"], "image": "a:1", "env": [{"name": "A", "value": "1"}],
        "resources": {"gpus": 1}, "array": {"count": 2}, "replicas": 1, "cancel": false
    });
    let with = |key: &str, value: Value| {
        let mut spec = before.clone();
        spec[key] = value;
        refusals("jobs.yaml", &job(&spec), Some(&job(&before)))
    };
    for (key, value) in [
        ("priority", json!(7)),
        ("suspend", json!(true)),
        ("cancel", json!(true)),
        ("ttlSecondsAfterFinished", json!(60)),
        ("tolerations", json!([{"operator": "Exists"}])),
    ] {
        assert_eq!(with(key, value), Vec::<String>::new(), "{key}");
    }
    for (key, value) in [
        ("command", json!(["y"])),
        ("image", json!("a:2")),
        ("env", json!([{"name": "A", "value": "2"}])),
        ("resources", json!({"gpus": 2})),
        ("array", json!({"count": 3})),
        ("workingDir", json!("/tmp")),
    ] {
        assert_eq!(with(key, value).len(), 1, "{key}");
    }
    for key in ["image", "env", "resources", "array"] {
        let mut spec = before.clone();
        spec.as_object_mut().unwrap().remove(key);
        let found = refusals("jobs.yaml", &job(&spec), Some(&job(&before)));
        assert!(
            found
                .iter()
                .any(|refusal| refusal.contains("added or removed")),
            "{key}: {found:?}"
        );
    }
}

#[test]
fn a_cancel_is_a_latch() {
    let cancelled = job(&json!({"command": ["x"], "cancel": true}));
    for taken_back in [
        json!({"command": ["x"], "cancel": false}),
        json!({"command": ["x"]}),
    ] {
        let found = refusals("jobs.yaml", &job(&taken_back), Some(&cancelled));
        assert!(
            found.iter().any(|refusal| refusal.contains("taken back")),
            "{found:?}"
        );
    }
    assert!(refusals("jobs.yaml", &cancelled, Some(&cancelled)).is_empty());
}

#[test]
fn the_status_of_a_job_only_goes_forward() {
    let with = |status: Value| json!({"spec": {"command": ["x"]}, "status": status});
    let stop = |reason: &str, attempt: u32| {
        with(
            json!({"stop": {"attempt": attempt, "reason": reason, "by": "test", "deadline": "2030-01-01T00:00:00Z"}}),
        )
    };
    let rows = [
        (
            with(json!({"phase": "Succeeded"})),
            with(json!({"phase": "Pending"})),
            Some("stays as it ended"),
        ),
        (
            with(json!({"phase": "Running"})),
            with(json!({"phase": "Pending"})),
            None,
        ),
        (
            with(json!({"attempt": 2})),
            with(json!({"attempt": 1})),
            Some("never goes back"),
        ),
        (
            with(json!({"attempt": 2})),
            with(json!({"attempt": 3})),
            None,
        ),
        (
            with(json!({"binding": {"nodeName": "a"}})),
            with(json!({"binding": {"nodeName": "b"}})),
            Some("binding does not change"),
        ),
        (
            with(json!({"binding": {"nodeName": "a"}})),
            with(json!({})),
            None,
        ),
        (
            with(json!({})),
            with(json!({"binding": {"nodeName": "b"}})),
            None,
        ),
        (
            with(json!({"outcome": "Failed"})),
            with(json!({"outcome": "Succeeded"})),
            Some("final"),
        ),
        (
            stop("Cancelled", 1),
            stop("Preempted", 1),
            Some("only rises"),
        ),
        (stop("Preempted", 1), stop("Drained", 1), None),
        (stop("Drained", 1), stop("Cancelled", 1), None),
        (stop("Cancelled", 1), stop("Preempted", 2), None),
    ];
    for (old, new, refusal) in rows {
        let found = refusals("jobs.yaml", &new, Some(&old));
        match refusal {
            None => assert_eq!(found, Vec::<String>::new(), "{old} -> {new}"),
            Some(words) => assert!(
                found.iter().any(|message| message.contains(words)),
                "{old} -> {new}: {found:?}"
            ),
        }
    }
}

#[test]
fn what_the_types_write_is_accepted_and_comes_back() {
    use crds::job_status::{Binding, Claim, Release};
    let status = crds::JobStatus {
        phase: Some(crds::Phase::Running),
        attempt: 1,
        binding: Some(Binding {
            node_name: "node-a".into(),
            gpus: vec!["GPU-1".into()],
            vram_bytes: Some(1 << 30),
            ..Binding::default()
        }),
        claim: Some(Claim::default()),
        release: Some(Release::default()),
        effective: Some(crds::job_status::Effective::default()),
        ..crds::JobStatus::default()
    };
    let written =
        json!({"spec": {"command": ["x"]}, "status": serde_json::to_value(&status).unwrap()});
    assert_eq!(refusals("jobs.yaml", &written, None), Vec::<String>::new());
    let read: crds::JobStatus = serde_json::from_value(written["status"].clone()).unwrap();
    assert_eq!(read, status);
    let empty = serde_json::to_value(crds::NodeStatus::default()).unwrap();
    let node =
        json!({"spec": serde_json::to_value(crds::NodeSpec::default()).unwrap(), "status": empty});
    assert_eq!(refusals("nodes.yaml", &node, None), Vec::<String>::new());
}
