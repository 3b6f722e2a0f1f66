//! `gctl get`: lists and watches any kind, as the server's tables or as objects.

mod follow;
mod layout;

use apiserver::schema::jsonpath::{self, JsonPath};
use serde_json::Value;

use self::layout::{Layout, column_definitions};
use crate::api;
use crate::catalog::Resource;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::object::{self, Format};
use crate::output::table::Columns;
use crate::session::{Selection, Session};

/// Arguments of `gctl get`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// TYPE[,TYPE...] [NAME...], or TYPE/NAME ...; `all` stands for every kind of gctl
    #[arg(required = true, value_name = "RESOURCE")]
    pub resources: Vec<String>,
    /// Go on and print every change
    #[arg(short, long)]
    pub watch: bool,
    /// Print only changes, not what is there now
    #[arg(long)]
    pub watch_only: bool,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Label selector, such as `team=vision,stage!=test`
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Field selector, such as `status.phase=Running`
    #[arg(long, default_value = "", hide_default_value = true)]
    pub field_selector: String,
    /// wide, yaml, json, name or jsonpath=TEMPLATE
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub output: String,
    /// Sort by this path, such as `.metadata.creationTimestamp`
    #[arg(long, value_name = "PATH")]
    pub sort_by: Option<String>,
    /// Leave out the line of column names
    #[arg(long)]
    pub no_headers: bool,
    /// Add a column of labels
    #[arg(long)]
    pub show_labels: bool,
    /// Do not complain about names that do not exist
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Keep metadata.managedFields in yaml and json
    #[arg(long)]
    pub show_managed_fields: bool,
}

/// What is asked of one kind.
struct Query {
    resource: Resource,
    namespace: Option<String>,
    names: Vec<String>,
    selection: Selection,
}

impl Query {
    /// One list or object, as a path with what is asked of it.
    fn uri(&self, name: Option<&str>, page: &str, whole: bool) -> String {
        let include = if whole { "Object" } else { "" };
        match name {
            Some(name) => format!(
                "{}{}",
                self.resource.object(self.namespace.as_deref(), name),
                api::query(&[("includeObject", include)])
            ),
            None => format!(
                "{}{}",
                self.resource.collection(self.namespace.as_deref()),
                api::query(&[
                    ("labelSelector", &self.selection.labels),
                    ("fieldSelector", &self.selection.fields),
                    ("limit", "500"),
                    ("continue", page),
                    ("includeObject", include),
                ])
            ),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When nothing could be listed; a name that does not exist is said and makes the exit [`Exit::Error`].
pub async fn run(session: &mut Session, args: &Args) -> Result<Exit, Error> {
    let format: Format = args.output.parse()?;
    let sort = args
        .sort_by
        .as_deref()
        .map(|path| JsonPath::parse(path).map_err(|error| Error::jsonpath(path, error)))
        .transpose()?;
    let queries = queries(session, args).await?;
    if args.watch || args.watch_only {
        let [query] = queries.as_slice() else {
            return Err(Error::Usage("-w follows one kind at a time".into()));
        };
        if query.names.len() > 1 {
            return Err(Error::Usage(
                "-w follows one object, or all that a selector chooses".into(),
            ));
        }
        return follow::run(session, args, query, &format).await;
    }
    match &format {
        Format::Table { .. } => tables(session, args, &queries, sort.as_ref(), &format).await,
        _ => objects(session, args, &queries, sort.as_ref(), &format).await,
    }
}

async fn queries(session: &mut Session, args: &Args) -> Result<Vec<Query>, Error> {
    let selection = Selection {
        labels: args.selector.clone(),
        fields: args.field_selector.clone(),
    };
    let named = args.resources.len() > 1 || args.resources[0].contains('/');
    if named && !selection.is_empty() {
        return Err(Error::Usage("either names or a selector, not both".into()));
    }
    if named && args.all_namespaces {
        return Err(Error::Usage(
            "a name belongs to one namespace: use -n instead of -A".into(),
        ));
    }
    let namespace = (!args.all_namespaces).then(|| session.namespace.clone());
    let mut queries: Vec<Query> = Vec::new();
    let mut add = |resource: Resource, names: Vec<String>| {
        if let Some(known) = queries.iter_mut().find(|query| query.resource == resource) {
            known.names.extend(names);
            return;
        }
        queries.push(Query {
            namespace: namespace.clone().filter(|_| resource.namespaced),
            resource,
            names,
            selection: selection.clone(),
        });
    };
    if args.resources.iter().any(|word| word.contains('/')) {
        for target in session.targets(&args.resources).await? {
            add(target.resource, vec![target.name]);
        }
        return Ok(queries);
    }
    for kind in args.resources[0].split(',').filter(|kind| !kind.is_empty()) {
        let category: Vec<_> = session
            .catalog()
            .await?
            .category(kind)
            .into_iter()
            .filter(|resource| resource.can("list"))
            .cloned()
            .collect();
        if category.is_empty() {
            let resource = session.resource(kind).await;
            let resource = resource.map_err(|error| error.or_jobs(&args.resources))?;
            add(resource, args.resources[1..].to_vec());
        } else {
            for resource in category {
                add(resource, args.resources[1..].to_vec());
            }
        }
    }
    Ok(queries)
}

/// Everything a query finds, as answers of the server: objects, lists or tables.
async fn ask(
    session: &mut Session,
    args: &Args,
    query: &Query,
    accept: &'static str,
    exit: &mut Exit,
) -> Result<Vec<Value>, Error> {
    let whole = args.sort_by.is_some() && accept == api::TABLE;
    let mut answers = Vec::new();
    for name in &query.names {
        let attempted = format!("get {}", query.resource.object_name(name));
        match session
            .api
            .get(&query.uri(Some(name), "", whole), accept, &attempted)
            .await
        {
            Ok(answer) => answers.push(answer),
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) if error.is_not_found() => {
                session.output.complain(&error);
                *exit = Exit::Error;
            }
            Err(error) => return Err(error),
        }
    }
    if query.names.is_empty() {
        let attempted = format!("list {}", query.resource.full_name());
        let mut page = String::new();
        loop {
            let answer = session
                .api
                .get(&query.uri(None, &page, whole), accept, &attempted)
                .await?;
            let next = answer["metadata"]["continue"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            answers.push(answer);
            if next.is_empty() {
                break;
            }
            page = next;
        }
    }
    session.say_warnings();
    Ok(answers)
}

async fn objects(
    session: &mut Session,
    args: &Args,
    queries: &[Query],
    sort: Option<&JsonPath>,
    format: &Format,
) -> Result<Exit, Error> {
    let mut exit = Exit::Ok;
    let mut items: Vec<(usize, Value)> = Vec::new();
    for (index, query) in queries.iter().enumerate() {
        for mut answer in ask(session, args, query, api::JSON, &mut exit).await? {
            match answer.get_mut("items").map(Value::take) {
                Some(Value::Array(list)) if query.names.is_empty() => {
                    items.extend(list.into_iter().map(|item| (index, item)));
                }
                _ => items.push((index, answer)),
            }
        }
    }
    if let Some(path) = sort {
        items.sort_by(|(_, left), (_, right)| compare(path, left, right));
    }
    if let Format::Name = format {
        for (index, item) in &items {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            session
                .output
                .line(queries[*index].resource.object_name(name))?;
        }
        return Ok(exit);
    }
    let mut shown: Vec<_> = items
        .into_iter()
        .map(|(index, item)| typed(&queries[index].resource, item))
        .map(|item| {
            if args.show_managed_fields {
                item
            } else {
                object::presentable(item)
            }
        })
        .collect();
    let single = queries.len() == 1 && queries[0].names.len() == 1;
    let whole = match (single, shown.len()) {
        (true, 1) => shown.remove(0),
        (true, _) => return Ok(exit),
        _ => object::list(shown),
    };
    session
        .output
        .raw(object::render(&whole, format).as_bytes())?;
    Ok(exit)
}

/// An object of a list with its kind, which servers may leave out there.
fn typed(resource: &Resource, mut item: Value) -> Value {
    if item["kind"].is_null() {
        item["kind"] = Value::from(resource.kind.clone());
        item["apiVersion"] = Value::from(resource.api_version());
    }
    item
}

async fn tables(
    session: &mut Session,
    args: &Args,
    queries: &[Query],
    sort: Option<&JsonPath>,
    format: &Format,
) -> Result<Exit, Error> {
    let mut exit = Exit::Ok;
    let mut printed = 0;
    for query in queries {
        let answers = ask(session, args, query, api::TABLE, &mut exit).await?;
        let mut rows = Vec::new();
        let mut columns = None;
        for answer in &answers {
            columns = columns.or_else(|| column_definitions(answer));
            rows.extend(answer["rows"].as_array().into_iter().flatten().cloned());
        }
        if rows.is_empty() {
            continue;
        }
        if let Some(path) = sort {
            rows.sort_by(|left, right| compare(path, &left["object"], &right["object"]));
        }
        let layout = Layout::new(args, query, format, queries.len() > 1, columns);
        if printed > 0 {
            session.output.line("")?;
        }
        printed += rows.len();
        let mut lines = if args.no_headers {
            Vec::new()
        } else {
            vec![layout.header()]
        };
        lines.extend(rows.iter().map(|row| layout.row(row)));
        let text = Columns::default().render(&lines);
        session.output.raw(text.as_bytes())?;
    }
    if printed == 0 && exit == Exit::Ok && !args.ignore_not_found {
        let place = match &queries.first().and_then(|query| query.namespace.clone()) {
            Some(namespace) => format!(" in namespace {namespace}"),
            None => String::new(),
        };
        session.output.say(format!("No resources found{place}."));
    }
    Ok(exit)
}

fn compare(path: &JsonPath, left: &Value, right: &Value) -> std::cmp::Ordering {
    let first = |object| path.find(object).into_iter().next().cloned();
    match (first(left), first(right)) {
        (Some(Value::Number(left)), Some(Value::Number(right))) => left
            .as_f64()
            .partial_cmp(&right.as_f64())
            .unwrap_or(std::cmp::Ordering::Equal),
        (left, right) => left
            .map(|value| jsonpath::text_of(&value))
            .cmp(&right.map(|value| jsonpath::text_of(&value))),
    }
}
