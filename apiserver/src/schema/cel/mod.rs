//! The rules of `x-kubernetes-validations`: compiled once a schema, run on what changed.
//!
//! A tree of compiled rules mirrors only those branches of the schema that have any, so a write
//! visits nothing else. Values are converted for CEL at the nodes with rules only.
//!
//! # Limits
//! The interpreter has no budget of its own. Before a rule runs, its cost is bounded from its syntax
//! and the sizes in the value it is given (`check::Cost`); one beyond [`RULE_BUDGET`], or all of an
//! object beyond [`OBJECT_BUDGET`], is refused with Kubernetes' words instead of being run.

mod check;
mod convert;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use kube_cel::KubeCelExt as _;
use kube_cel::cel::{Context, Program, ResolveResult, Value as CelValue};
use serde_json::Value;

use super::engine::type_name;
use super::field_error::{FieldError, FieldErrorKind, Path};
use super::structural::{Additional, ListType, RuleSource, Schema, Type};
use super::validate::counterpart;

/// The most that one evaluation of one rule may cost, in interpreter steps. Specified by Kubernetes.
pub const RULE_BUDGET: u64 = 1_000_000;
/// The most that all rules of one object may cost, in interpreter steps. Specified by Kubernetes.
pub const OBJECT_BUDGET: u64 = 10_000_000;

/// The functions every rule may call.
static FUNCTIONS: LazyLock<Context<'static>> = LazyLock::new(|| {
    let mut context = Context::default().with_all();
    // The interpreter lacks `type`; types are the texts of their names here, which compare as types do.
    let type_function = |value: CelValue| -> ResolveResult {
        Ok(CelValue::String(Arc::new(type_of(&value).to_owned())))
    };
    context.add_function("type", type_function);
    for name in TYPES {
        context.add_variable_from_value(name, CelValue::String(Arc::new(name.to_owned())));
    }
    context
});

/// The types that rules can compare with.
const TYPES: [&str; 9] = [
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
];

fn type_of(value: &CelValue) -> &'static str {
    match value {
        CelValue::Int(_) => "int",
        CelValue::UInt(_) => "uint",
        CelValue::Float(_) => "double",
        CelValue::Bool(_) => "bool",
        CelValue::String(_) => "string",
        CelValue::Bytes(_) => "bytes",
        CelValue::List(_) => "list",
        CelValue::Map(_) => "map",
        CelValue::Null => "null_type",
        _ => "unknown",
    }
}

/// The compiled rules of a schema.
#[derive(Debug, Default)]
pub struct Rules {
    root: Option<Branch>,
}

/// A node of the schema with rules, or with rules below it.
#[derive(Debug, Default)]
struct Branch {
    rules: Vec<Rule>,
    fields: BTreeMap<String, Branch>,
    entries: Option<Box<Branch>>,
    items: Option<Box<Branch>>,
}

#[derive(Debug)]
struct Rule {
    source: RuleSource,
    program: Program,
    message: Option<Program>,
    uses_old: bool,
    cost: check::Cost,
}

impl Rules {
    /// Compiles every rule of a schema; what is wrong with them goes to `errors`.
    pub(super) fn compile(schema: &Schema, path: &Path<'_>, errors: &mut Vec<FieldError>) -> Self {
        if !schema.rules_below {
            return Self::default();
        }
        Self {
            root: Some(branch(schema, true, true, path, errors)),
        }
    }

    /// Are there no rules at all?
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Runs the rules on every part of `new` that differs from `old`.
    pub(super) fn evaluate(
        &self,
        schema: &Schema,
        new: &Value,
        old: Option<&Value>,
        errors: &mut Vec<FieldError>,
    ) {
        if let Some(root) = &self.root {
            let mut run = Run {
                left: OBJECT_BUDGET,
                errors,
            };
            run.branch(root, schema, new, old, true, &Path::Root);
        }
    }
}

fn branch(
    schema: &Schema,
    root: bool,
    correlatable: bool,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) -> Branch {
    let mut made = Branch::default();
    let rules = path.field("x-kubernetes-validations");
    for (at, source) in schema.rules.iter().enumerate() {
        made.rules.extend(rule(
            source,
            schema,
            root,
            correlatable,
            &rules.index(at),
            errors,
        ));
    }
    let properties = path.field("properties");
    for (name, field) in schema
        .properties
        .iter()
        .filter(|(_, field)| field.rules_below)
    {
        let child = branch(
            field,
            field.embedded,
            correlatable,
            &properties.key(name),
            errors,
        );
        made.fields.insert(name.clone(), child);
    }
    if let Additional::Schema(entry) = &schema.additional
        && entry.rules_below
    {
        let path = path.field("additionalProperties");
        made.entries = Some(Box::new(branch(
            entry,
            entry.embedded,
            correlatable,
            &path,
            errors,
        )));
    }
    if let Some(item) = schema.items.as_deref().filter(|item| item.rules_below) {
        let keyed = correlatable && matches!(schema.list_type, ListType::Map(_));
        made.items = Some(Box::new(branch(
            item,
            item.embedded,
            keyed,
            &path.field("items"),
            errors,
        )));
    }
    made
}

fn rule(
    source: &RuleSource,
    schema: &Schema,
    root: bool,
    correlatable: bool,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) -> Option<Rule> {
    let before = errors.len();
    let mut compile = |text: &str, field: &str| {
        let refuse = |why: String| FieldError::invalid(&path.field(field), text, why);
        let wanted = if field == "rule" {
            check::Scalar::Bool
        } else {
            check::Scalar::Text
        };
        match check::compile(text, schema, root, !source.optional_old_self, wanted) {
            Ok(program) => Some(program),
            Err(why) => {
                let what = if field == "rule" {
                    "compilation failed"
                } else {
                    "messageExpression compilation failed"
                };
                errors.push(refuse(format!("{what}: {why}")));
                None
            }
        }
    };
    let program = compile(&source.rule, "rule");
    let message = source
        .message_expression
        .as_deref()
        .and_then(|text| compile(text, "messageExpression"));
    if let Some(reason) = &source.reason
        && kind_of(reason).is_none()
    {
        errors.push(FieldError::not_supported(
            &path.field("reason"),
            reason.as_str(),
            REASONS,
        ));
    }
    if source
        .message
        .as_deref()
        .is_some_and(|text| text.trim().contains(['\n', '\r']))
    {
        let detail = "message must not contain line breaks";
        errors.push(FieldError::invalid(
            &path.field("message"),
            source.message.clone(),
            detail,
        ));
    }
    if let Some(below) = &source.field_path
        && !is_field_path(below, schema)
    {
        let detail = "fieldPath must be a valid path: it does not refer to a valid field";
        errors.push(FieldError::invalid(
            &path.field("fieldPath"),
            below.as_str(),
            detail,
        ));
    }
    let program = program?;
    let uses_old = program.references().has_variable("oldSelf");
    if uses_old && !correlatable {
        let detail = "oldSelf cannot be used on the uncorrelatable portion of the schema";
        errors.push(FieldError::invalid(
            &path.field("rule"),
            source.rule.as_str(),
            detail,
        ));
    }
    if !uses_old && source.optional_old_self {
        let detail = "may not be set to true when oldSelf is not used in rule";
        errors.push(FieldError::invalid(
            &path.field("optionalOldSelf"),
            true,
            detail,
        ));
    }
    if errors.len() > before {
        return None;
    }
    let cost = check::Cost::of(program.expression());
    Some(Rule {
        source: source.clone(),
        program,
        message,
        uses_old,
        cost,
    })
}

/// The reasons a rule may give.
const REASONS: [&str; 4] = [
    "FieldValueRequired",
    "FieldValueInvalid",
    "FieldValueForbidden",
    "FieldValueDuplicate",
];

fn kind_of(reason: &str) -> Option<FieldErrorKind> {
    Some(match reason {
        "FieldValueInvalid" => FieldErrorKind::Invalid,
        "FieldValueForbidden" => FieldErrorKind::Forbidden,
        "FieldValueRequired" => FieldErrorKind::Required,
        "FieldValueDuplicate" => FieldErrorKind::Duplicate,
        _ => return None,
    })
}

/// Does `.a.b` or `['a.b']` lead along declared fields?
fn is_field_path(path: &str, schema: &Schema) -> bool {
    let Ok(path) = super::jsonpath::JsonPath::parse(path) else {
        return false;
    };
    let mut schema = schema;
    let Some(names) = path.names() else {
        return false;
    };
    for name in names {
        match schema.field(name) {
            Some(field) => schema = field,
            None => return false,
        }
    }
    true
}

/// One evaluation of an object's rules.
struct Run<'e> {
    left: u64,
    errors: &'e mut Vec<FieldError>,
}

impl Run<'_> {
    fn branch(
        &mut self,
        branch: &Branch,
        schema: &Schema,
        new: &Value,
        old: Option<&Value>,
        root: bool,
        path: &Path<'_>,
    ) {
        if old == Some(new) || new.is_null() {
            return;
        }
        if !branch.rules.is_empty() {
            self.rules(branch, schema, new, old, root, path);
        }
        match new {
            Value::Object(map) => {
                for (name, below) in &branch.fields {
                    if let (Some(new), Some(field)) = (map.get(name), schema.properties.get(name)) {
                        let old = old.and_then(|old| old.get(name));
                        self.branch(below, field, new, old, field.embedded, &path.field(name));
                    }
                }
                if let (Some(below), Additional::Schema(entry)) =
                    (&branch.entries, &schema.additional)
                {
                    for (key, new) in map {
                        let old = old.and_then(|old| old.get(key));
                        self.branch(below, entry, new, old, entry.embedded, &path.key(key));
                    }
                }
            }
            Value::Array(list) => {
                let (Some(below), Some(item)) = (&branch.items, schema.items.as_deref()) else {
                    return;
                };
                for (at, new) in list.iter().enumerate() {
                    let old = match &schema.list_type {
                        ListType::Map(keys) => old.and_then(|old| counterpart(keys, new, old)),
                        _ => None,
                    };
                    self.branch(below, item, new, old, item.embedded, &path.index(at));
                }
            }
            _ => {}
        }
    }

    fn rules(
        &mut self,
        branch: &Branch,
        schema: &Schema,
        new: &Value,
        old: Option<&Value>,
        root: bool,
        path: &Path<'_>,
    ) {
        let mut scope: Option<Scope<'_>> = None;
        let mut sizes: Option<check::Sizes> = None;
        for rule in &branch.rules {
            if rule.uses_old && old.is_none() && !rule.source.optional_old_self {
                continue;
            }
            let cost = if rule.cost.is_constant() {
                rule.cost.constant()
            } else {
                rule.cost
                    .bound(sizes.get_or_insert_with(|| check::Sizes::of(new, old)))
            };
            if !self.spend(cost, schema, path) {
                continue;
            }
            let scope = scope.get_or_insert_with(|| Scope::new(schema, new, old, root));
            let context = scope.context(rule);
            match rule.program.execute(&context) {
                Ok(CelValue::Bool(true)) => {}
                Ok(CelValue::Bool(false)) => {
                    let detail = message(rule, &context);
                    self.fail(rule, detail, schema, new, path);
                }
                Ok(_) => self.broken(
                    rule,
                    "rule did not evaluate to a boolean",
                    schema,
                    new,
                    path,
                ),
                Err(why) => self.broken(rule, &why.to_string(), schema, new, path),
            }
        }
    }

    fn spend(&mut self, cost: u64, schema: &Schema, path: &Path<'_>) -> bool {
        let stop = |why: &str| FieldError::invalid(path, schema.of.name(), why);
        if cost > RULE_BUDGET {
            self.errors.push(stop("call cost exceeds limit: a validation rule is too expensive for the size of this value"));
            return false;
        }
        let (left, over) = self.left.overflowing_sub(cost);
        if over {
            if self.left > 0 {
                self.left = 0;
                self.errors.push(stop(
                    "validation failed due to running out of cost budget, no further validation rules will be run",
                ));
            }
            return false;
        }
        self.left = left;
        true
    }

    fn fail(&mut self, rule: &Rule, detail: String, schema: &Schema, new: &Value, path: &Path<'_>) {
        let kind = rule
            .source
            .reason
            .as_deref()
            .and_then(kind_of)
            .unwrap_or(FieldErrorKind::Invalid);
        let value = match kind {
            FieldErrorKind::Required | FieldErrorKind::Forbidden => None,
            _ => Some(Value::from(shown_type(schema, new))),
        };
        let mut at = path.to_string();
        if let Some(below) = &rule.source.field_path {
            let separate = !at.is_empty() && !below.starts_with(['.', '[']);
            at.push_str(if separate { "." } else { "" });
            at.push_str(if at.is_empty() {
                below.trim_start_matches('.')
            } else {
                below
            });
        }
        self.errors.push(FieldError {
            path: at,
            kind,
            value,
            detail,
        });
    }

    fn broken(&mut self, rule: &Rule, why: &str, schema: &Schema, new: &Value, path: &Path<'_>) {
        let named = rule
            .source
            .message
            .as_deref()
            .unwrap_or(&rule.source.rule)
            .trim();
        let detail = format!("rule: {why} evaluating rule: {named}");
        self.errors
            .push(FieldError::invalid(path, shown_type(schema, new), detail));
    }
}

fn shown_type(schema: &Schema, value: &Value) -> &'static str {
    if schema.of == Type::Any {
        type_name(value)
    } else {
        schema.of.name()
    }
}

fn message(rule: &Rule, context: &Context<'_>) -> String {
    if let Some(program) = &rule.message
        && let Ok(CelValue::String(text)) = program.execute(context)
        && !text.trim().is_empty()
        && !text.contains(['\n', '\r'])
    {
        return text.trim().to_owned();
    }
    match &rule.source.message {
        Some(text) => text.trim().to_owned(),
        None => format!("failed rule: {}", rule.source.rule.trim()),
    }
}

/// The variables of one node, converted once for all its rules.
struct Scope<'v> {
    this: CelValue,
    old_source: Option<&'v Value>,
    old: Option<CelValue>,
    schema: &'v Schema,
    root: bool,
}

impl<'v> Scope<'v> {
    fn new(schema: &'v Schema, new: &Value, old: Option<&'v Value>, root: bool) -> Self {
        Self {
            this: convert::value(new, schema, root),
            old_source: old,
            old: None,
            schema,
            root,
        }
    }

    fn context(&mut self, rule: &Rule) -> Context<'static> {
        let mut context = FUNCTIONS.new_inner_scope();
        context.add_variable_from_value("self", self.this.clone());
        if rule.uses_old {
            if self.old.is_none() {
                self.old = self
                    .old_source
                    .map(|old| convert::value(old, self.schema, self.root));
            }
            let old = self.old.clone();
            let old = if rule.source.optional_old_self {
                convert::optional(old)
            } else {
                old
            };
            if let Some(old) = old {
                context.add_variable_from_value("oldSelf", old);
            }
        }
        context
    }
}

#[cfg(test)]
mod tests;
