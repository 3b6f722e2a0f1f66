//! What is checked about a rule before it may ever run, and how dear running it can become.

use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr};
use kube_cel::cel::{ExecutionError, Program};
use serde_json::Value;

use super::{FUNCTIONS, convert};
use crate::schema::structural::{Schema, Type};

/// The longest rule, in bytes. Chosen: ten times what a careful author needs.
const RULE_MAX: usize = 16 * 1024;

/// Compiles a rule and checks that it names only variables, functions and fields that exist.
pub(super) fn compile(text: &str, schema: &Schema, root: bool) -> Result<Program, String> {
    if text.len() > RULE_MAX {
        return Err(format!("the expression is longer than {RULE_MAX} bytes"));
    }
    let program = Program::compile(text).map_err(|why| why.to_string())?;
    {
        let references = program.references();
        for function in references.functions() {
            if !is_operator(function) && !exists(function) {
                return Err(format!(
                    "undeclared reference to '{function}' (in container '')"
                ));
            }
        }
    }
    let mut scope = Names {
        schema,
        root,
        bound: Vec::new(),
    };
    scope.check(program.expression())?;
    Ok(program)
}

fn is_operator(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Is there a function of this name? Asked of the interpreter itself, which keeps its list private.
fn exists(name: &str) -> bool {
    let Ok(call) = Program::compile(&format!("{name}()")) else {
        return true;
    };
    !matches!(
        call.execute(&FUNCTIONS),
        Err(ExecutionError::UndeclaredReference(_))
    )
}

/// The names a rule may use at one point of it.
struct Names<'s> {
    schema: &'s Schema,
    root: bool,
    bound: Vec<String>,
}

/// What is known of the type of an expression.
enum Known<'s> {
    Nothing,
    Schema(&'s Schema, bool),
}

/// Types and namespaces that are written as variables.
const GLOBALS: [&str; 18] = [
    "self",
    "oldSelf",
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "optional",
    "math",
    "sets",
    "base64",
    "format",
    "google",
];

impl<'s> Names<'s> {
    fn check(&mut self, expr: &IdedExpr) -> Result<Known<'s>, String> {
        match &expr.expr {
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                let operand = self.check(&select.operand)?;
                match operand {
                    Known::Schema(schema, root) => field(schema, root, &select.field),
                    Known::Nothing => Ok(Known::Nothing),
                }
            }
            Expr::Call(call) => {
                if let Some(target) = &call.target {
                    self.check(target)?;
                }
                for argument in &call.args {
                    self.check(argument)?;
                }
                Ok(Known::Nothing)
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.check(element)?;
                }
                Ok(Known::Nothing)
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.check(&entry.key)?;
                        self.check(&entry.value)?;
                    }
                }
                Ok(Known::Nothing)
            }
            Expr::Comprehension(loops) => {
                self.check(&loops.iter_range)?;
                self.check(&loops.accu_init)?;
                let before = self.bound.len();
                self.bound.push(loops.iter_var.clone());
                self.bound.extend(loops.iter_var2.clone());
                self.bound.push(loops.accu_var.clone());
                for part in [&loops.loop_cond, &loops.loop_step, &loops.result] {
                    self.check(part)?;
                }
                self.bound.truncate(before);
                Ok(Known::Nothing)
            }
            Expr::Struct(made) => Err(format!(
                "undeclared reference to '{}' (in container '')",
                made.type_name
            )),
            Expr::Unspecified | Expr::Literal(_) => Ok(Known::Nothing),
        }
    }

    fn variable(&self, name: &str) -> Result<Known<'s>, String> {
        if name.starts_with('@') || self.bound.iter().any(|bound| bound == name) {
            return Ok(Known::Nothing);
        }
        if name == "self" {
            return Ok(Known::Schema(self.schema, self.root));
        }
        if GLOBALS.contains(&name) {
            return Ok(Known::Nothing);
        }
        Err(format!(
            "undeclared reference to '{name}' (in container '')"
        ))
    }
}

fn field<'s>(schema: &'s Schema, root: bool, name: &str) -> Result<Known<'s>, String> {
    if schema.of != Type::Object || schema.is_map() {
        return Ok(Known::Nothing);
    }
    if let Some((_, field)) = schema
        .properties
        .iter()
        .find(|(field, _)| convert::escape(field) == name)
    {
        return Ok(Known::Schema(field, field.embedded));
    }
    if schema.preserve_unknown || (root && matches!(name, "metadata" | "apiVersion" | "kind")) {
        return Ok(Known::Nothing);
    }
    Err(format!("undefined field '{name}'"))
}

/// How the cost of a rule grows with the sizes in its value: steps for each depth of loops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Steps inside that many nested loops.
    steps: Vec<u64>,
    /// Steps there that read whole texts.
    texts: Vec<u64>,
}

/// The sizes that matter, at their largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Entries in one list or map, or characters a text may be split into.
    entries: u64,
    /// Bytes of one text.
    text: u64,
}

impl Sizes {
    /// The largest sizes in a value and the one it replaces.
    pub(super) fn of(new: &Value, old: Option<&Value>) -> Self {
        let mut sizes = Self {
            entries: 0,
            text: 0,
        };
        sizes.note(new);
        if let Some(old) = old {
            sizes.note(old);
        }
        sizes
    }

    fn note(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.text = self.text.max(text.len() as u64),
            Value::Array(list) => {
                self.entries = self.entries.max(list.len() as u64);
                for each in list {
                    self.note(each);
                }
            }
            Value::Object(map) => {
                self.entries = self.entries.max(map.len() as u64);
                for each in map.values() {
                    self.note(each);
                }
            }
            _ => {}
        }
    }
}

/// Functions whose work grows with the text they are given.
const READS_TEXT: [&str; 18] = [
    "matches",
    "contains",
    "startsWith",
    "endsWith",
    "find",
    "findAll",
    "replace",
    "split",
    "indexOf",
    "lastIndexOf",
    "lowerAscii",
    "upperAscii",
    "trim",
    "join",
    "reverse",
    "url",
    "isURL",
    "quantity",
];

/// Functions whose work grows with the square of the list they are given.
const READS_LISTS: [&str; 7] = [
    "distinct",
    "sort",
    "sum",
    "contains",
    "intersects",
    "equivalent",
    "isSorted",
];

impl Cost {
    /// Reads the cost off a rule's syntax.
    pub(super) fn of(expr: &IdedExpr) -> Self {
        let mut cost = Self::default();
        cost.note(expr, 0);
        cost
    }

    fn add(counts: &mut Vec<u64>, depth: usize) {
        if counts.len() <= depth {
            counts.resize(depth + 1, 0);
        }
        counts[depth] += 1;
    }

    fn note(&mut self, expr: &IdedExpr, depth: usize) {
        Self::add(&mut self.steps, depth);
        match &expr.expr {
            Expr::Call(call) => {
                if READS_TEXT.contains(&call.func_name.as_str()) {
                    Self::add(&mut self.texts, depth);
                }
                if READS_LISTS.contains(&call.func_name.as_str()) || call.func_name == "@in" {
                    Self::add(&mut self.steps, depth + 1);
                }
                for part in call.target.as_deref().into_iter().chain(&call.args) {
                    self.note(part, depth);
                }
            }
            Expr::Comprehension(loops) => {
                self.note(&loops.iter_range, depth);
                self.note(&loops.accu_init, depth);
                self.note(&loops.loop_cond, depth + 1);
                self.note(&loops.loop_step, depth + 1);
                self.note(&loops.result, depth);
            }
            Expr::Select(select) => self.note(&select.operand, depth),
            Expr::List(list) => {
                for each in &list.elements {
                    self.note(each, depth);
                }
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.note(&entry.key, depth);
                        self.note(&entry.value, depth);
                    }
                }
            }
            Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    /// Does the cost not depend on the value?
    pub(super) fn is_constant(&self) -> bool {
        self.steps.len() <= 1 && self.texts.is_empty()
    }

    /// The cost outside of any loop.
    pub(super) fn constant(&self) -> u64 {
        self.steps.first().copied().unwrap_or(0)
    }

    /// The most that the rule can cost on a value of these sizes.
    pub(super) fn bound(&self, sizes: &Sizes) -> u64 {
        // A text that is split makes a list as long as the text.
        let entries = if self.texts.is_empty() {
            sizes.entries
        } else {
            sizes.entries.max(sizes.text / 8)
        };
        let entries = entries.max(self.steps.first().copied().unwrap_or(1));
        let mut times = 1u64;
        let mut total = 0u64;
        for depth in 0..self.steps.len().max(self.texts.len()) {
            let steps = self.steps.get(depth).copied().unwrap_or(0);
            let texts = self.texts.get(depth).copied().unwrap_or(0);
            // A tenth of a step a byte, as Kubernetes counts.
            let each = steps.saturating_add(texts.saturating_mul(1 + sizes.text / 10));
            total = total.saturating_add(each.saturating_mul(times));
            times = times.saturating_mul(entries.max(1));
        }
        total
    }
}
