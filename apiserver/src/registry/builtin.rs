//! The kinds that are part of the server, as data.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use tokio_util::sync::CancellationToken;

use super::kinds::{Builtin, Column, Scope, SelectableField, ServedKind, Subresources};
use crate::schema::builtin as schemas;
use crate::selector::{FieldSelector, FieldTerm};

/// The resource under which Namespaces are stored.
pub const NAMESPACES: &str = "namespaces";
/// The resource under which Events of both groups are stored.
pub const EVENTS: &str = "events";
/// The resource under which CustomResourceDefinitions are stored.
pub const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";

struct Row {
    builtin: Builtin,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    scope: Scope,
    status: bool,
    /// Resource and apiVersion of the storage, when they differ from the kind's own.
    view_of: Option<(&'static str, &'static str)>,
    /// Name, type, priority, path.
    columns: &'static [(&'static str, &'static str, i32, &'static str)],
    selectable: &'static [&'static str],
}

const AGE: (&str, &str, i32, &str) = ("Age", "date", 0, ".metadata.creationTimestamp");

const ROWS: &[Row] = &[
    Row {
        builtin: Builtin::Namespace,
        group: "",
        version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        short_names: &["ns"],
        categories: &[],
        scope: Scope::Cluster,
        status: true,
        view_of: None,
        columns: &[("Status", "string", 0, ".status.phase"), AGE],
        selectable: &["status.phase"],
    },
    Row {
        builtin: Builtin::CoreEvent,
        group: "",
        version: "v1",
        kind: "Event",
        plural: "events",
        short_names: &["ev"],
        categories: &[],
        scope: Scope::Namespaced,
        status: false,
        view_of: None,
        columns: &[
            ("Last Seen", "date", 0, ".lastTimestamp"),
            ("Type", "string", 0, ".type"),
            ("Reason", "string", 0, ".reason"),
            ("Object", "string", 0, ".involvedObject"),
            ("Subobject", "string", 1, ".involvedObject.fieldPath"),
            ("Source", "string", 1, ".source.component"),
            ("Message", "string", 0, ".message"),
            ("First Seen", "date", 1, ".firstTimestamp"),
            ("Count", "integer", 1, ".count"),
        ],
        selectable: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    },
    Row {
        builtin: Builtin::Event,
        group: "events.k8s.io",
        version: "v1",
        kind: "Event",
        plural: "events",
        short_names: &["ev"],
        categories: &[],
        scope: Scope::Namespaced,
        status: false,
        view_of: Some((EVENTS, "v1")),
        columns: &[
            ("Last Seen", "date", 0, ".deprecatedLastTimestamp"),
            ("Type", "string", 0, ".type"),
            ("Reason", "string", 0, ".reason"),
            ("Object", "string", 0, ".regarding"),
            ("Subobject", "string", 1, ".regarding.fieldPath"),
            ("Source", "string", 1, ".deprecatedSource.component"),
            ("Message", "string", 0, ".note"),
            ("First Seen", "date", 1, ".deprecatedFirstTimestamp"),
            ("Count", "integer", 1, ".deprecatedCount"),
        ],
        selectable: &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
    },
    Row {
        builtin: Builtin::Secret,
        group: "",
        version: "v1",
        kind: "Secret",
        plural: "secrets",
        short_names: &[],
        categories: &[],
        scope: Scope::Namespaced,
        status: false,
        view_of: None,
        columns: &[
            ("Type", "string", 0, ".type"),
            ("Data", "integer", 0, ".data"),
            AGE,
        ],
        selectable: &["type"],
    },
    Row {
        builtin: Builtin::ConfigMap,
        group: "",
        version: "v1",
        kind: "ConfigMap",
        plural: "configmaps",
        short_names: &["cm"],
        categories: &[],
        scope: Scope::Namespaced,
        status: false,
        view_of: None,
        columns: &[("Data", "integer", 0, ".data"), AGE],
        selectable: &[],
    },
    Row {
        builtin: Builtin::Lease,
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        short_names: &[],
        categories: &[],
        scope: Scope::Namespaced,
        status: false,
        view_of: None,
        columns: &[("Holder", "string", 0, ".spec.holderIdentity"), AGE],
        selectable: &[],
    },
    Row {
        builtin: Builtin::CustomResourceDefinition,
        group: "apiextensions.k8s.io",
        version: "v1",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        status: true,
        view_of: None,
        columns: &[("Created At", "string", 0, ".metadata.creationTimestamp")],
        selectable: &[],
    },
];

/// A field selector of `events.k8s.io` in the words of the stored core events.
pub(super) fn core_event_fields(selector: &FieldSelector) -> String {
    let term = |term: &FieldTerm| {
        let field = match term.field.split_once('.') {
            Some(("regarding", rest)) => format!("involvedObject.{rest}"),
            _ if term.field == "reportingController" => "reportingComponent".to_owned(),
            _ => term.field.clone(),
        };
        let value = term
            .value
            .replace('\\', "\\\\")
            .replace(',', "\\,")
            .replace('=', "\\=");
        format!("{field}{}{value}", if term.equal { "=" } else { "!=" })
    };
    selector
        .terms()
        .iter()
        .map(term)
        .collect::<Vec<_>>()
        .join(",")
}

fn fields(row: &Row) -> Vec<SelectableField> {
    let field = |label: &&'static str| SelectableField {
        label: (*label).into(),
        // An event's source is selected by its component.
        path: if *label == "source" {
            vec!["source".to_owned(), "component".to_owned()]
        } else {
            split(label)
        },
    };
    row.selectable.iter().map(field).collect()
}

fn served(row: &Row) -> ServedKind {
    let text = |t: &str| -> Arc<str> { t.into() };
    let api_version = if row.group.is_empty() {
        row.version.to_owned()
    } else {
        format!("{}/{}", row.group, row.version)
    };
    let resource = if row.group.is_empty() {
        row.plural.to_owned()
    } else {
        format!("{}.{}", row.plural, row.group)
    };
    let (storage, storage_api_version) = row.view_of.unwrap_or((&resource, &api_version));
    let columns = row
        .columns
        .iter()
        .map(|&(name, column_type, priority, path)| Column {
            name: name.to_owned(),
            column_type: column_type.to_owned(),
            format: String::new(),
            description: String::new(),
            priority,
            json_path: path.to_owned(),
        });
    // A view is indexed by the fields of what is stored.
    let stored = ROWS
        .iter()
        .find(|other| other.view_of.is_none() && other.plural == row.plural)
        .unwrap_or(row);
    let stored_fields = fields(stored).into();
    let selectable = fields(row);
    ServedKind {
        group: text(row.group),
        version: text(row.version),
        kind: text(row.kind),
        list_kind: format!("{}List", row.kind).into(),
        plural: text(row.plural),
        singular: row.kind.to_lowercase().into(),
        short_names: row.short_names.iter().map(|&s| s.to_owned()).collect(),
        categories: row.categories.iter().map(|&s| s.to_owned()).collect(),
        scope: row.scope,
        storage: text(storage),
        storage_api_version: text(storage_api_version),
        resource: text(&resource),
        api_version: text(&api_version),
        subresources: Subresources {
            status: row.status,
            scale: None,
        },
        columns: columns.collect(),
        stored_fields,
        selectable,
        schema: schemas::schema(row.group, row.version, row.kind)
            .expect("every built-in kind has a schema"),
        open_api: Arc::new(
            schemas::open_api(row.group, row.version, row.kind)
                .cloned()
                .unwrap_or_default(),
        ),
        annotations: Arc::new(BTreeMap::new()),
        deprecation: None,
        terminating: false,
        builtin: Some(row.builtin),
        fingerprint: 0,
        schema_since: 0,
        ended: CancellationToken::new(),
    }
}

fn split(label: &str) -> Vec<String> {
    label.split('.').map(str::to_owned).collect()
}

/// All built-in kinds; the same ones at every call.
pub fn kinds() -> Vec<Arc<ServedKind>> {
    static KINDS: LazyLock<Vec<Arc<ServedKind>>> =
        LazyLock::new(|| ROWS.iter().map(|row| Arc::new(served(row))).collect());
    KINDS.clone()
}
