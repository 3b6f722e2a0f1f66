//! The look of a description: aligned fields, then indented tables.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use crate::output::{age, table};

/// A description that is being written.
#[derive(Default)]
pub(super) struct Page {
    fields: Vec<Vec<String>>,
    text: String,
}

impl Page {
    /// A line `Name:   value`; further lines of the value are aligned below it.
    pub(super) fn field(&mut self, name: &str, value: impl AsRef<str>) {
        let mut label = format!("{name}:");
        for line in value.as_ref().lines() {
            self.fields
                .push(vec![std::mem::take(&mut label), line.to_owned()]);
        }
        if !label.is_empty() {
            self.fields.push(vec![label, "<none>".to_owned()]);
        }
    }

    /// A field that is left out when there is nothing to say.
    pub(super) fn optional(&mut self, name: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    /// Rows under a heading; nothing when there are none.
    pub(super) fn table(&mut self, heading: &str, rows: &[Vec<String>]) {
        if rows.is_empty() {
            return;
        }
        self.flush();
        let _ = writeln!(self.text, "{heading}:");
        for line in table::render(rows).lines() {
            let _ = writeln!(self.text, "  {line}");
        }
    }

    /// Text under a heading, indented.
    pub(super) fn block(&mut self, heading: &str, block: &str) {
        self.flush();
        let _ = writeln!(self.text, "{heading}:");
        for line in block.lines() {
            let _ = writeln!(self.text, "  {line}");
        }
    }

    fn flush(&mut self) {
        self.text
            .push_str(&table::render(&std::mem::take(&mut self.fields)));
    }

    pub(super) fn finish(mut self) -> String {
        self.flush();
        self.text
    }
}

pub(super) fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// What every object has.
pub(super) fn metadata(page: &mut Page, object: &Value, now: Timestamp) {
    let metadata = &object["metadata"];
    page.field("Name", metadata["name"].as_str().unwrap_or_default());
    page.optional("Namespace", metadata["namespace"].as_str());
    page.field("Labels", pairs(&metadata["labels"]));
    let mut annotations = metadata["annotations"].clone();
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove(crate::merge::LAST_APPLIED);
    }
    if annotations.as_object().is_some_and(|map| !map.is_empty()) {
        page.field("Annotations", pairs(&annotations));
    }
    let created = metadata["creationTimestamp"].as_str();
    page.field(
        "Created",
        format!(
            "{} ({} ago)",
            created.unwrap_or("<unknown>"),
            age::since_text(created, now)
        ),
    );
    if let Some(deleted) = metadata["deletionTimestamp"].as_str() {
        let held = metadata["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        page.field(
            "Deleting",
            format!(
                "since {deleted}, held by {}",
                if held.is_empty() { "nothing" } else { &held }
            ),
        );
    }
    for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
        page.field(
            "Owner",
            format!(
                "{}/{}",
                owner["kind"].as_str().unwrap_or_default(),
                owner["name"].as_str().unwrap_or_default()
            ),
        );
    }
}

fn pairs(map: &Value) -> String {
    map.as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", apiserver::schema::jsonpath::text_of(value)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Everything but metadata, as YAML.
pub(super) fn generic(page: &mut Page, object: &Value) {
    for (name, value) in object.as_object().into_iter().flatten() {
        if matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let mut heading = name.clone();
        if let Some(first) = heading.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        if value.is_object() || value.is_array() {
            page.block(&heading, &crate::output::object::yaml(value));
        } else {
            page.field(&heading, apiserver::schema::jsonpath::text_of(value));
        }
    }
}

/// Conditions as rows.
pub(super) fn conditions(
    conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    now: Timestamp,
) -> Vec<Vec<String>> {
    if conditions.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![cells(["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"])];
    rows.extend(conditions.iter().map(|condition| {
        vec![
            condition.type_.clone(),
            condition.status.clone(),
            age::since(condition.last_transition_time.0, now),
            condition.reason.clone(),
            condition.message.clone(),
        ]
    }));
    rows
}
