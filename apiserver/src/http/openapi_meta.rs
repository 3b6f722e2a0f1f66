//! The schemas that every OpenAPI document shares: metadata, owner references, delete options, Status.

use serde_json::{Map, Value, json};

/// The prefix of the names of these schemas.
pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// The name of the schema of `metadata`.
pub(super) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn time(description: &str) -> Value {
    json!({"type": "string", "format": "date-time", "description": description})
}

fn flag(description: &str) -> Value {
    json!({"type": "boolean", "description": description})
}

fn integer(description: &str) -> Value {
    json!({"type": "integer", "format": "int64", "description": description})
}

fn texts(description: &str) -> Value {
    json!({"type": "array", "description": description, "items": {"type": "string", "default": ""}})
}

fn text_map(description: &str) -> Value {
    json!({"type": "object", "description": description, "additionalProperties": {"type": "string", "default": ""}})
}

fn list_of(schema: &str, description: &str) -> Value {
    let item = json!({"$ref": format!("#/components/schemas/{META}.{schema}")});
    json!({"type": "array", "description": description, "items": {"default": {}, "allOf": [item]}})
}

fn object(description: &str, required: &[&str], properties: Value) -> Value {
    let mut schema =
        json!({"type": "object", "description": description, "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn object_meta() -> Value {
    object(
        "ObjectMeta is metadata that all persisted resources must have, which includes all objects users must create.",
        &[],
        json!({
            "name": text("Name must be unique within a namespace. Cannot be updated."),
            "generateName": text("A prefix from which the server makes a unique name when no name is given."),
            "namespace": text("Namespace defines the space within which each name must be unique. Cannot be updated."),
            "selfLink": text("Deprecated: no longer set."),
            "uid": text("The unique identity of this object in time and space, set by the server."),
            "resourceVersion": text("The revision of the last change, to be compared for equality only, set by the server."),
            "generation": integer("A number that grows when the desired state changes, set by the server."),
            "creationTimestamp": time("When the object was created, set by the server."),
            "deletionTimestamp": time("When the object was asked to be deleted, set by the server."),
            "deletionGracePeriodSeconds": integer("Seconds that the object may take to end, set by the server."),
            "labels": text_map("Keys and values to organise and select objects."),
            "annotations": text_map("Unstructured keys and values for tools and people."),
            "ownerReferences": list_of("OwnerReference", "The objects that this one depends on; it is removed when all of them are gone."),
            "finalizers": texts("Must be empty before the object is removed; each entry belongs to who will remove it."),
            "managedFields": list_of("ManagedFieldsEntry", "Who changed which fields, kept by the server."),
        }),
    )
}

/// All shared schemas by name.
pub(super) fn meta_schemas() -> Map<String, Value> {
    let owner = object(
        "OwnerReference identifies an owning object in the same namespace, or one that is cluster-scoped.",
        &["apiVersion", "kind", "name", "uid"],
        json!({
            "apiVersion": text("API version of the owner."),
            "kind": text("Kind of the owner."),
            "name": text("Name of the owner."),
            "uid": text("UID of the owner."),
            "controller": flag("Whether the owner is the managing controller."),
            "blockOwnerDeletion": flag("Whether a foreground deletion of the owner waits for this object."),
        }),
    );
    let managed = object(
        "ManagedFieldsEntry says which fields a manager last changed.",
        &[],
        json!({
            "manager": text("The manager."),
            "operation": text("Apply or Update."),
            "apiVersion": text("The version that the fields are written in."),
            "time": time("When the entry last changed."),
            "fieldsType": text("FieldsV1."),
            "fieldsV1": {"type": "object", "description": "The fields, as a trie."},
            "subresource": text("The subresource through which they were changed."),
        }),
    );
    let list = object(
        "ListMeta describes metadata that lists have.",
        &[],
        json!({
            "resourceVersion": text("The revision that the list was read at."),
            "continue": text("How to get the next page."),
            "remainingItemCount": integer("How many objects are on later pages."),
            "selfLink": text("Deprecated: no longer set."),
        }),
    );
    let delete = object(
        "DeleteOptions may be provided when deleting an object.",
        &[],
        json!({
            "apiVersion": text("API version."),
            "kind": text("Kind."),
            "gracePeriodSeconds": integer("Seconds before the object is to be deleted."),
            "preconditions": object("What must hold.", &[], json!({
                "uid": text("The object's uid."),
                "resourceVersion": text("The object's revision."),
            })),
            "orphanDependents": flag("Deprecated: use propagationPolicy."),
            "propagationPolicy": text("Orphan, Background or Foreground."),
            "dryRun": texts("All: process the request without storing anything."),
        }),
    );
    let status = object(
        "Status is a return value for calls that don't return other objects.",
        &[],
        json!({
            "apiVersion": text("API version."),
            "kind": text("Kind."),
            "status": text("Success or Failure."),
            "message": text("For people."),
            "reason": text("For machines."),
            "code": integer("HTTP status code."),
            "details": {"type": "object", "description": "Which object, and why in detail."},
        }),
    );
    let patch = json!({"type": "object", "description": "Patch is the body of a patch request."});
    [
        ("ObjectMeta", object_meta()),
        ("OwnerReference", owner),
        ("ManagedFieldsEntry", managed),
        ("ListMeta", list),
        ("DeleteOptions", delete),
        ("Status", status),
        ("Patch", patch),
    ]
    .into_iter()
    .map(|(name, schema)| (format!("{META}.{name}"), schema))
    .collect()
}
