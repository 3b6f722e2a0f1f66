//! Which columns a table shows, and what stands in them.

use serde_json::Value;

use super::{Args, Query};
use crate::catalog::Resource;
use crate::output::object::Format;

/// The columns that a table says it has; only the first of a watch does.
pub(super) fn column_definitions(table: &Value) -> Option<Vec<Value>> {
    table["columnDefinitions"]
        .as_array()
        .filter(|columns| !columns.is_empty())
        .cloned()
}

/// Which columns a table shows.
pub(super) struct Layout {
    columns: Vec<(usize, String)>,
    namespace: bool,
    labels: bool,
    prefix: Option<Resource>,
}

impl Layout {
    pub(super) fn new(
        args: &Args,
        query: &Query,
        format: &Format,
        several: bool,
        columns: Option<Vec<Value>>,
    ) -> Self {
        let wide = matches!(format, Format::Table { wide: true });
        let columns = columns
            .unwrap_or_default()
            .iter()
            .enumerate()
            .filter(|(_, column)| wide || column["priority"].as_i64().unwrap_or(0) == 0)
            .map(|(index, column)| {
                let name = column["name"].as_str().unwrap_or_default();
                (index, name.to_uppercase())
            })
            .collect();
        Layout {
            columns,
            namespace: args.all_namespaces && query.resource.namespaced,
            labels: args.show_labels,
            prefix: several.then(|| query.resource.clone()),
        }
    }

    pub(super) fn header(&self) -> Vec<String> {
        let mut cells = Vec::new();
        if self.namespace {
            cells.push("NAMESPACE".to_owned());
        }
        cells.extend(self.columns.iter().map(|(_, name)| name.clone()));
        if self.labels {
            cells.push("LABELS".to_owned());
        }
        cells
    }

    pub(super) fn row(&self, row: &Value) -> Vec<String> {
        let metadata = &row["object"]["metadata"];
        let mut cells = Vec::new();
        if self.namespace {
            cells.push(
                metadata["namespace"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
        for (position, (index, _)) in self.columns.iter().enumerate() {
            let text = one_line(&apiserver::schema::jsonpath::text_of(&row["cells"][*index]));
            cells.push(match &self.prefix {
                Some(resource) if position == 0 => resource.object_name(&text),
                _ => text,
            });
        }
        if self.labels {
            let labels: Vec<_> = metadata["labels"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
                .collect();
            cells.push(if labels.is_empty() {
                "<none>".to_owned()
            } else {
                labels.join(",")
            });
        }
        cells
    }
}

/// Text that cannot break a table or move the cursor.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_wrote_cannot_move_the_cursor() {
        assert_eq!(one_line("a\u{1b}[2Jb\nc"), "a [2Jb c");
    }
}
