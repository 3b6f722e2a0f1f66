//! The schemas of the kinds that are part of the server, as data; each goes the way of any other kind.

use std::sync::{Arc, LazyLock};

use serde_json::Value;

use super::field_error::Path;
use super::kind::{KindSchema, KindTraits};
use super::metadata::NameRule;
use super::yaml;

struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    namespaced: bool,
    status: bool,
    name_rule: NameRule,
    selectable: &'static [&'static str],
    schema: &'static str,
}

/// References to objects that events can be selected by.
const EVENT_FIELDS: &[&str] = &[
    ".involvedObject.kind",
    ".involvedObject.namespace",
    ".involvedObject.name",
    ".involvedObject.uid",
    ".involvedObject.apiVersion",
    ".involvedObject.resourceVersion",
    ".involvedObject.fieldPath",
    ".reason",
    ".reportingComponent",
    ".type",
];

const ROWS: [Row; 7] = [
    Row {
        group: "",
        version: "v1",
        kind: "Namespace",
        namespaced: false,
        status: true,
        name_rule: NameRule::Label,
        selectable: &[".status.phase"],
        schema: include_str!("namespace.yaml"),
    },
    Row {
        group: "",
        version: "v1",
        kind: "Event",
        namespaced: true,
        status: false,
        name_rule: NameRule::Subdomain,
        selectable: EVENT_FIELDS,
        schema: include_str!("core_event.yaml"),
    },
    Row {
        group: "events.k8s.io",
        version: "v1",
        kind: "Event",
        namespaced: true,
        status: false,
        name_rule: NameRule::Subdomain,
        selectable: &[
            ".regarding.kind",
            ".regarding.namespace",
            ".regarding.name",
            ".regarding.uid",
            ".reason",
            ".type",
        ],
        schema: include_str!("event.yaml"),
    },
    Row {
        group: "",
        version: "v1",
        kind: "Secret",
        namespaced: true,
        status: false,
        name_rule: NameRule::Subdomain,
        selectable: &[".type"],
        schema: include_str!("secret.yaml"),
    },
    Row {
        group: "",
        version: "v1",
        kind: "ConfigMap",
        namespaced: true,
        status: false,
        name_rule: NameRule::Subdomain,
        selectable: &[],
        schema: include_str!("config_map.yaml"),
    },
    Row {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        namespaced: true,
        status: false,
        name_rule: NameRule::Subdomain,
        selectable: &[],
        schema: include_str!("lease.yaml"),
    },
    Row {
        group: "apiextensions.k8s.io",
        version: "v1",
        kind: "CustomResourceDefinition",
        namespaced: false,
        status: true,
        name_rule: NameRule::Subdomain,
        selectable: &[],
        schema: include_str!("custom_resource_definition.yaml"),
    },
];

struct Compiled {
    row: &'static Row,
    schema: Arc<KindSchema>,
    open_api: Value,
}

static COMPILED: LazyLock<Vec<Compiled>> =
    LazyLock::new(|| ROWS.iter().filter_map(compile).collect());

/// The data is part of the program and a test holds that all of it compiles.
fn compile(row: &'static Row) -> Option<Compiled> {
    let open_api = yaml::decode_documents(row.schema).ok()?.pop()?.value;
    let traits = KindTraits {
        group: row.group.to_owned(),
        version: row.version.to_owned(),
        kind: row.kind.to_owned(),
        namespaced: row.namespaced,
        status: row.status,
        typed: true,
        name_rule: row.name_rule,
    };
    let selectable: Vec<String> = row.selectable.iter().map(|&path| path.to_owned()).collect();
    let schema = KindSchema::compile(traits, &open_api, &selectable, &Path::Root).ok()?;
    Some(Compiled {
        row,
        schema: Arc::new(schema),
        open_api,
    })
}

fn find(group: &str, version: &str, kind: &str) -> Option<&'static Compiled> {
    COMPILED
        .iter()
        .find(|c| c.row.group == group && c.row.version == version && c.row.kind == kind)
}

/// The schema of a built-in kind.
pub fn schema(group: &str, version: &str, kind: &str) -> Option<Arc<KindSchema>> {
    find(group, version, kind).map(|compiled| Arc::clone(&compiled.schema))
}

/// The openAPIV3Schema of a built-in kind.
pub fn open_api(group: &str, version: &str, kind: &str) -> Option<&'static Value> {
    find(group, version, kind).map(|compiled| &compiled.open_api)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::decode::Decoded;
    use crate::schema::kind::FieldValidation;
    use serde_json::json;

    #[test]
    fn all_built_in_schemas_compile() {
        for row in &ROWS {
            let open_api = yaml::decode_documents(row.schema).unwrap();
            assert_eq!(open_api.len(), 1, "{}", row.kind);
            assert_eq!(open_api[0].duplicates, Vec::<String>::new(), "{}", row.kind);
            assert!(compile(row).is_some(), "{} {}", row.group, row.kind);
        }
    }

    #[test]
    fn what_go_clients_write_is_accepted_strictly() {
        for (group, kind, value) in [
            (
                "",
                "Namespace",
                json!({"metadata": {"name": "a", "creationTimestamp": null}, "spec": {}, "status": {}}),
            ),
            (
                "",
                "Event",
                json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a", "namespace": "n", "creationTimestamp": null},
                "involvedObject": {"kind": "Job", "name": "x", "uid": "u"}, "reason": "R", "message": "m", "source": {"component": "c"},
                "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": null, "count": 1, "type": "Normal", "eventTime": null,
                "reportingComponent": "", "reportingInstance": ""}),
            ),
            (
                "events.k8s.io",
                "Event",
                json!({"metadata": {"name": "a", "namespace": "n"}, "eventTime": "2026-01-01T00:00:00.123456Z",
                "regarding": {"kind": "Job"}, "note": "n", "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}),
            ),
            (
                "coordination.k8s.io",
                "Lease",
                json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"holderIdentity": "h",
                "leaseDurationSeconds": 15, "acquireTime": "2026-01-01T00:00:00.000000Z", "leaseTransitions": 0}}),
            ),
            (
                "",
                "Secret",
                json!({"metadata": {"name": "a", "namespace": "n"}, "data": {"k": "aGk="}, "type": "Opaque"}),
            ),
            (
                "",
                "ConfigMap",
                json!({"metadata": {"name": "a", "namespace": "n"}, "data": {"k": "v"}, "binaryData": {"b": "aGk="}}),
            ),
        ] {
            let schema = schema(group, "v1", kind).unwrap();
            let decoded = Decoded {
                value,
                duplicates: Vec::new(),
            };
            let read = schema.read(decoded, FieldValidation::Strict).unwrap();
            let admitted = schema.admit_create(read.value).unwrap();
            assert_eq!(admitted.value["kind"], kind);
        }
    }

    #[test]
    fn what_is_wrong_in_a_built_in_object_is_told_like_in_any_other() {
        let secret = schema("", "v1", "Secret").unwrap();
        let bad = json!({"metadata": {"name": "a", "namespace": "n"}, "data": {"k": "!"}});
        let read = secret
            .read(
                Decoded {
                    value: bad,
                    duplicates: Vec::new(),
                },
                FieldValidation::Strict,
            )
            .unwrap();
        let errors = secret.admit_create(read.value).unwrap_err();
        assert_eq!(
            errors[0].to_string(),
            "data.k: Invalid value: \"!\": data.k in body must be of type byte: \"!\""
        );
        let namespace = schema("", "v1", "Namespace").unwrap();
        let errors = namespace
            .admit_create(json!({"metadata": {"name": "a.b"}}))
            .unwrap_err();
        assert!(
            errors[0]
                .to_string()
                .starts_with("metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label")
        );
    }
}
