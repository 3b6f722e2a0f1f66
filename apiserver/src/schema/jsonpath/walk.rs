//! Follows a path through an object.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Comparison, Filter, Operand, Step};

/// Everything the steps lead to, from `here`; `root` is where `$` leads.
pub(super) fn follow<'a>(steps: &[Step], root: &'a Value, here: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![here];
    for step in steps {
        let mut next = Vec::new();
        for value in found {
            take(step, root, value, &mut next);
        }
        found = next;
    }
    found
}

fn take<'a>(step: &Step, root: &'a Value, value: &'a Value, found: &mut Vec<&'a Value>) {
    match step {
        Step::Root => found.push(root),
        Step::Fields(names) => found.extend(names.iter().filter_map(|name| value.get(name))),
        Step::Indices(indices) => {
            if let Some(list) = value.as_array() {
                found.extend(
                    indices
                        .iter()
                        .filter_map(|&index| list.get(position(index, list.len())?)),
                );
            }
        }
        Step::Slice { from, to, step } => {
            if let Some(list) = value.as_array() {
                let bound = |index: i64| position(index, list.len()).unwrap_or(0).min(list.len());
                let start = from.map_or(0, bound);
                let end = to.map_or(list.len(), bound);
                let step = usize::try_from(*step).unwrap_or(usize::MAX);
                if start < end {
                    found.extend(list[start..end].iter().step_by(step));
                }
            }
        }
        Step::Every => match value {
            Value::Array(list) => found.extend(list),
            Value::Object(map) => found.extend(map.values()),
            _ => {}
        },
        Step::Anywhere(name) => anywhere(name, value, found),
        Step::Filter(filter) => match value {
            Value::Array(list) => {
                found.extend(list.iter().filter(|item| holds(filter, root, item)));
            }
            Value::Object(map) => {
                found.extend(map.values().filter(|item| holds(filter, root, item)));
            }
            _ => {}
        },
    }
}

/// An index, counted from the end when negative.
fn position(index: i64, length: usize) -> Option<usize> {
    match usize::try_from(index) {
        Ok(index) => Some(index),
        Err(_) => length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?),
    }
}

fn anywhere<'a>(name: &str, value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            if let Some(hit) = map.get(name) {
                found.push(hit);
            }
            for child in map.values() {
                anywhere(name, child, found);
            }
        }
        Value::Array(list) => {
            for child in list {
                anywhere(name, child, found);
            }
        }
        _ => {}
    }
}

fn holds(filter: &Filter, root: &Value, item: &Value) -> bool {
    let left = operand(&filter.left, root, item);
    let Some((comparison, right)) = &filter.test else {
        return left.is_some_and(|value| !value.is_null());
    };
    let right = operand(right, root, item);
    let (Some(left), Some(right)) = (left, right) else {
        return false;
    };
    match comparison {
        Comparison::Equal => same(left, right),
        Comparison::NotEqual => !same(left, right),
        Comparison::Less => order(left, right) == Some(Ordering::Less),
        Comparison::LessOrEqual => order(left, right).is_some_and(Ordering::is_le),
        Comparison::Greater => order(left, right) == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => order(left, right).is_some_and(Ordering::is_ge),
    }
}

fn operand<'a>(operand: &'a Operand, root: &'a Value, item: &'a Value) -> Option<&'a Value> {
    match operand {
        Operand::Literal(value) => Some(value),
        Operand::Path(steps) => follow(steps, root, item).into_iter().next(),
    }
}

fn same(left: &Value, right: &Value) -> bool {
    left == right || order(left, right) == Some(Ordering::Equal)
}

fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64()?.partial_cmp(&right.as_f64()?),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => None,
    }
}
