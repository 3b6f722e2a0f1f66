//! What is checked about a rule before it may ever run, and how dear running it can become.

use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use kube_cel::cel::{ExecutionError, Program};
use serde_json::Value;

use super::{FUNCTIONS, convert};
use crate::schema::structural::{Schema, Type};

/// The longest rule, in bytes. Chosen: ten times what a careful author needs.
const RULE_MAX: usize = 16 * 1024;

/// Compiles an expression and checks that it names only variables, functions and fields that exist, that
/// its operators suit the types of the schema, and that it makes a `wanted`. What cannot be known from the
/// schema is let through. `old` is the schema of `oldSelf`, where that is no optional.
pub(super) fn compile(
    text: &str,
    schema: &Schema,
    root: bool,
    old: bool,
    wanted: Scalar,
) -> Result<Program, String> {
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
        old,
        bound: Vec::new(),
    };
    let made = scope.check(program.expression())?.scalar();
    match made {
        Some(made) if made != wanted => Err(format!(
            "must evaluate to {}, not {}",
            wanted.name(),
            made.name()
        )),
        _ => Ok(program),
    }
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
    old: bool,
    bound: Vec<(String, Known<'s>)>,
}

/// The types that operators care about. All numbers are one: which of them a value is, is not always known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Bool,
    Number,
    Text,
}

impl Scalar {
    fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Number => "a number",
            Self::Text => "string",
        }
    }
}

/// What is known of the type of an expression.
#[derive(Clone, Copy)]
enum Known<'s> {
    Nothing,
    Scalar(Scalar),
    Schema(&'s Schema, bool),
}

impl Known<'_> {
    fn scalar(self) -> Option<Scalar> {
        let schema = match self {
            Self::Nothing => return None,
            Self::Scalar(scalar) => return Some(scalar),
            Self::Schema(schema, _) => schema,
        };
        match schema.of {
            _ if schema.int_or_string || schema.nullable => None,
            Type::Boolean => Some(Scalar::Bool),
            Type::Integer | Type::Number => Some(Scalar::Number),
            // A format may make it a time, a duration or bytes.
            Type::String if schema.checks.format.is_none() => Some(Scalar::Text),
            _ => None,
        }
    }
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
                if let Some(scalar) = operand.scalar() {
                    let of = scalar.name();
                    return Err(format!(
                        "type '{of}' does not support field selection ('{}')",
                        select.field
                    ));
                }
                let found = match operand {
                    Known::Schema(schema, root) => field(schema, root, &select.field)?,
                    _ => Known::Nothing,
                };
                Ok(if select.test {
                    Known::Scalar(Scalar::Bool)
                } else {
                    found
                })
            }
            Expr::Call(call) => {
                if let Some(target) = &call.target {
                    self.check(target)?;
                }
                let arguments = call.args.iter().map(|argument| self.check(argument));
                let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
                operator(&call.func_name, &arguments)
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
                let range = self.check(&loops.iter_range)?;
                self.check(&loops.accu_init)?;
                let before = self.bound.len();
                // With two variables, which is which depends on the range.
                let each = match (range, &loops.iter_var2) {
                    (Known::Schema(list, _), None) if list.of == Type::Array => items(list),
                    _ => Known::Nothing,
                };
                self.bound.push((loops.iter_var.clone(), each));
                let second = loops.iter_var2.clone();
                self.bound
                    .extend(second.map(|second| (second, Known::Nothing)));
                self.bound.push((loops.accu_var.clone(), Known::Nothing));
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
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(_) => Known::Scalar(Scalar::Bool),
                LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_) => {
                    Known::Scalar(Scalar::Number)
                }
                LiteralValue::String(_) => Known::Scalar(Scalar::Text),
                LiteralValue::Null | LiteralValue::Bytes(_) => Known::Nothing,
            }),
            Expr::Unspecified => Ok(Known::Nothing),
        }
    }

    fn variable(&self, name: &str) -> Result<Known<'s>, String> {
        // The innermost of that name.
        if let Some((_, known)) = self.bound.iter().rev().find(|(bound, _)| bound == name) {
            return Ok(*known);
        }
        if name.starts_with('@') {
            return Ok(Known::Nothing);
        }
        if name == "self" || (name == "oldSelf" && self.old) {
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

fn items(list: &Schema) -> Known<'_> {
    let items = list.items.as_deref();
    items.map_or(Known::Nothing, |items| Known::Schema(items, items.embedded))
}

/// What an operator makes of its operands; other functions are not known well enough.
fn operator<'s>(name: &str, operands: &[Known<'s>]) -> Result<Known<'s>, String> {
    let scalars: Vec<_> = operands.iter().map(|operand| operand.scalar()).collect();
    let mismatch = || {
        let shown = |scalar: &Option<Scalar>| scalar.map_or("dyn", Scalar::name);
        let shown: Vec<_> = scalars.iter().map(shown).collect();
        let shown = shown.join(", ");
        Err(format!(
            "found no matching overload for '{name}' applied to '({shown})'"
        ))
    };
    let known = || scalars.iter().flatten();
    let all_alike = known().all(|scalar| Some(scalar) == known().next());
    let bool = Ok(Known::Scalar(Scalar::Bool));
    match (name, operands) {
        ("_&&_" | "_||_" | "!_", _) if known().any(|scalar| *scalar != Scalar::Bool) => mismatch(),
        ("_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_", _) if !all_alike => mismatch(),
        ("_-_" | "_*_" | "_/_" | "_%_" | "-_", _)
            if known().any(|scalar| *scalar == Scalar::Bool || (*scalar == Scalar::Text)) =>
        {
            mismatch()
        }
        ("_+_", _) if !all_alike || known().any(|scalar| *scalar == Scalar::Bool) => mismatch(),
        ("_?_:_", [_, yes, no]) => match (scalars[0], yes.scalar(), no.scalar()) {
            (Some(Scalar::Number | Scalar::Text), _, _) => mismatch(),
            (_, Some(yes), Some(no)) if yes == no => Ok(Known::Scalar(yes)),
            _ => Ok(Known::Nothing),
        },
        ("_[_]", [Known::Schema(list, _), _]) if list.of == Type::Array => Ok(items(list)),
        ("_&&_" | "_||_" | "!_" | "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" | "@in", _) => {
            bool
        }
        ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", [_, _]) => match scalars[..] {
            [Some(one), Some(_)] => Ok(Known::Scalar(one)),
            _ => Ok(Known::Nothing),
        },
        _ => Ok(Known::Nothing),
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
