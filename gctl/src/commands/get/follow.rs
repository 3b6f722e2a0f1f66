//! `gctl get -w`: what is there, and then every change.

use std::collections::BTreeMap;

use serde_json::Value;

use super::layout::{Layout, column_definitions};
use super::{Args, Query, ask, typed};
use crate::api;
use crate::catalog::Resource;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::object::{self, Format};
use crate::output::table::Columns;
use crate::session::{Selection, Session};
use crate::watch::{Change, Watch};

/// What a watch has shown: the last revision of each object, so that nothing is shown twice after a new list.
type Shown = BTreeMap<(String, String), String>;

fn identity(object: &Value) -> ((String, String), String) {
    let metadata = &object["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
    ((text("namespace"), text("name")), text("resourceVersion"))
}

/// Prints what is there and then every change; never ends by itself.
pub(super) async fn run(
    session: &mut Session,
    args: &Args,
    query: &Query,
    format: &Format,
) -> Result<Exit, Error> {
    let as_tables = matches!(format, Format::Table { .. });
    let accept = if as_tables { api::TABLE } else { api::JSON };
    let mut query = Query {
        resource: query.resource.clone(),
        namespace: query.namespace.clone(),
        names: query.names.clone(),
        selection: query.selection.clone(),
    };
    // A name becomes a selection, so that the object may also come and go.
    if let Some(name) = query.names.pop() {
        let uri = query.uri(Some(&name), "", false);
        if !args.ignore_not_found {
            let attempted = format!("get {}", query.resource.object_name(&name));
            session.api.get(&uri, api::JSON, &attempted).await?;
        }
        query.selection = Selection::named(&name);
    }
    let mut view = View {
        layout: Layout::new(args, &query, format, false, None),
        columns: Columns::default(),
        shown: Shown::new(),
        header: !args.no_headers,
    };
    let mut exit = Exit::Ok;
    let mut quiet = args.watch_only;
    let mut watch: Option<Watch> = None;
    loop {
        let answers = ask(session, args, &query, accept, &mut exit).await?;
        let mut batch = Vec::new();
        for answer in &answers {
            if as_tables && let Some(columns) = column_definitions(answer) {
                view.layout = Layout::new(args, &query, format, false, Some(columns));
            }
            let field = if as_tables { "rows" } else { "items" };
            batch.extend(answer[field].as_array().into_iter().flatten().cloned());
        }
        view.show(session, &query.resource, format, batch, quiet)?;
        quiet = false;
        let revision = answers
            .last()
            .and_then(|answer| answer["metadata"]["resourceVersion"].as_str())
            .unwrap_or_default();
        let mut current = if let Some(mut watch) = watch.take() {
            watch.resume_at(revision);
            watch
        } else {
            let watch = Watch::new(
                &session.api,
                &query.resource,
                query.namespace.as_deref(),
                query.selection.clone(),
                revision,
            );
            if as_tables { watch.tables() } else { watch }
        };
        loop {
            match current.next().await? {
                Change::Added(object) | Change::Modified(object) => {
                    view.change(session, &query.resource, format, object, as_tables, false)?;
                }
                Change::Deleted(object) => {
                    view.change(session, &query.resource, format, object, as_tables, true)?;
                }
                Change::Interrupted(reason) => session.output.say(format!(
                    "the watch was interrupted and goes on when it can: {reason}"
                )),
                Change::Expired => break,
            }
        }
        watch = Some(current);
    }
}

/// What a running watch shows and has shown.
struct View {
    layout: Layout,
    columns: Columns,
    shown: Shown,
    header: bool,
}

impl View {
    fn change(
        &mut self,
        session: &mut Session,
        resource: &Resource,
        format: &Format,
        object: Value,
        as_tables: bool,
        gone: bool,
    ) -> Result<(), Error> {
        let items = if as_tables {
            object["rows"].as_array().cloned().unwrap_or_default()
        } else {
            vec![object]
        };
        let keys: Vec<_> = items
            .iter()
            .map(|item| identity(if as_tables { &item["object"] } else { item }).0)
            .collect();
        self.show(session, resource, format, items, false)?;
        if gone {
            for key in keys {
                self.shown.remove(&key);
            }
        }
        Ok(())
    }

    /// Prints those rows or objects that were not shown in this revision yet.
    fn show(
        &mut self,
        session: &mut Session,
        resource: &Resource,
        format: &Format,
        items: Vec<Value>,
        quiet: bool,
    ) -> Result<(), Error> {
        let as_tables = matches!(format, Format::Table { .. });
        let mut fresh = Vec::new();
        for item in items {
            let (key, revision) = identity(if as_tables { &item["object"] } else { &item });
            if self.shown.get(&key) == Some(&revision) && !revision.is_empty() {
                continue;
            }
            self.shown.insert(key, revision);
            if !quiet {
                fresh.push(item);
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let text = match format {
            Format::Table { .. } => {
                let mut lines = Vec::new();
                if std::mem::take(&mut self.header) {
                    lines.push(self.layout.header());
                }
                lines.extend(fresh.iter().map(|row| self.layout.row(row)));
                self.columns.render(&lines)
            }
            Format::Name => {
                let names: Vec<_> = fresh
                    .iter()
                    .map(|item| resource.object_name(&identity(item).0.1) + "\n")
                    .collect();
                names.concat()
            }
            _ => {
                let separator = if matches!(format, Format::Yaml) {
                    "---\n"
                } else {
                    ""
                };
                let texts: Vec<_> = fresh
                    .into_iter()
                    .map(|item| object::presentable(typed(resource, item)))
                    .map(|item| separator.to_owned() + &object::render(&item, format))
                    .collect();
                texts.concat()
            }
        };
        session.output.raw(text.as_bytes())
    }
}
