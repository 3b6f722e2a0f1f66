//! The scale subresource: a view of two counts and a selector of any kind whose definition says where they lie.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::kinds::{ScalePaths, ServedKind};
use super::modify::{Patch, Target, apply_patch};
use super::options::{WriteOptions, invalid};
use super::prepare::Prepared;
use super::{Registry, Written, encode, metadata, open_stored};
use crate::http::status::Status;
use crate::schema::field_error::{FieldError, Path};

fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.trim_start_matches('.').split('.')
}

fn value_at<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut steps = steps(path);
    let first = object.get(steps.next()?)?;
    steps.try_fold(first, |value, step| value.get(step))
}

fn set_at(object: &mut Map<String, Value>, path: &str, value: Value) {
    let steps: Vec<&str> = steps(path).collect();
    let Some((last, parents)) = steps.split_last() else {
        return;
    };
    let mut node = object;
    for step in parents {
        let child = node.entry(*step).or_insert_with(|| json!({}));
        if !child.is_object() {
            *child = json!({});
        }
        node = child.as_object_mut().expect("it was made an object above");
    }
    node.insert((*last).to_owned(), value);
}

/// The Scale that shows an object.
fn view(object: &Map<String, Value>, paths: &ScalePaths) -> Result<Value, Status> {
    let wanted = value_at(object, &paths.spec_replicas).and_then(Value::as_i64);
    let wanted = wanted.ok_or_else(|| {
        Status::internal(format!(
            "the spec replicas field {:?} does not exist",
            paths.spec_replicas
        ))
    })?;
    let observed = value_at(object, &paths.status_replicas)
        .and_then(Value::as_i64)
        .unwrap_or(0);
    let mut shown = Map::new();
    for key in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = metadata::of(object).get(key) {
            shown.insert(key.to_owned(), value.clone());
        }
    }
    let mut status = json!({"replicas": observed});
    let selector = paths
        .label_selector
        .as_ref()
        .and_then(|path| value_at(object, path))
        .and_then(Value::as_str);
    if let Some(selector) = selector {
        status["selector"] = selector.into();
    }
    Ok(json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": shown,
        "spec": {"replicas": wanted}, "status": status,
    }))
}

fn paths(kind: &ServedKind) -> Result<&ScalePaths, Status> {
    kind.subresources
        .scale
        .as_ref()
        .ok_or_else(|| Status::internal("the kind has no scale subresource"))
}

/// The object with the counts and the precondition of a Scale.
fn scaled(
    target: Target<'_>,
    live: &Map<String, Value>,
    scale: &Value,
    paths: &ScalePaths,
) -> Result<Prepared, Status> {
    let spec = Path::Root.field("spec");
    let path = spec.field("replicas");
    let refuse = |error| Err(invalid("Scale", "autoscaling", target.name, &[error]));
    let name = scale
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !name.is_empty() && name != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let wanted = match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(value) => match value.as_i64() {
            Some(wanted) => wanted,
            None => {
                return refuse(FieldError::invalid(
                    &path,
                    value.clone(),
                    "must be an integer",
                ));
            }
        },
    };
    if wanted < 0 {
        return refuse(FieldError::invalid(
            &path,
            wanted,
            "should be a non-negative integer",
        ));
    }
    let mut object = live.clone();
    set_at(&mut object, &paths.spec_replicas, wanted.into());
    for key in ["resourceVersion", "uid"] {
        let text = scale
            .get("metadata")
            .and_then(|m| m.get(key))
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !text.is_empty() {
            metadata::set(&mut object, key, Some(text.into()));
        }
    }
    Ok(Prepared {
        object,
        warnings: Vec::new(),
    })
}

impl Registry {
    /// The Scale of an object.
    pub fn get_scale(
        &self,
        kind: &ServedKind,
        namespace: &str,
        name: &str,
    ) -> Result<Bytes, Status> {
        let stored = self.find(kind, namespace, name)?;
        let object = open_stored(kind, &stored)?;
        Ok(view(&object, paths(kind)?)?.to_string().into())
    }

    /// Sets the wanted count from a whole Scale.
    pub async fn update_scale(
        &self,
        target: Target<'_>,
        scale: &Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let paths = paths(target.kind)?;
        let written = self
            .modify(target, options, |live| scaled(target, live, scale, paths))
            .await?;
        as_scale(written, paths)
    }

    /// Sets the wanted count by patching the Scale.
    pub async fn patch_scale(
        &self,
        target: Target<'_>,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let paths = paths(target.kind)?;
        let written = self
            .modify(target, options, |live| {
                let mut scale = view(live, paths)?;
                apply_patch(patch, &mut scale)?;
                scaled(target, live, &scale, paths)
            })
            .await?;
        as_scale(written, paths)
    }
}

fn as_scale(written: Written, paths: &ScalePaths) -> Result<Written, Status> {
    let object = encode::decode(&written.bytes).map_err(Status::internal)?;
    Ok(Written {
        bytes: view(&object, paths)?.to_string().into(),
        ..written
    })
}
