//! Definitions, sound and not.

use super::*;

fn definition() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [{"name": "C", "type": "string", "jsonPath": ".spec.color"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"color": {"type": "string"}, "o": {"type": "object"}}}}}}}]}})
}

fn complaints(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut made = definition();
    change(&mut made);
    complete(&mut made);
    match compile(&made) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_definition_is_completed_and_compiled() {
    let mut made = definition();
    complete(&mut made);
    assert_eq!(
        made["spec"]["names"],
        json!({"plural": "widgets", "kind": "Widget", "singular": "widget", "listKind": "WidgetList"})
    );
    assert_eq!(made["spec"]["conversion"], json!({"strategy": "None"}));
    let versions = compile(&made).unwrap();
    assert_eq!(versions.len(), 1);
    let schema = &versions[0].schema;
    assert_eq!(schema.api_version, "example.com/v1");
    assert!(schema.traits.status && schema.traits.namespaced);
    assert!(schema.is_selectable("spec.color") && schema.is_selectable("metadata.namespace"));
    assert!(!schema.is_selectable("spec.o"));
    let field = &schema.selectable_fields[0];
    assert_eq!(
        field.value(&json!({"spec": {"color": "red"}})),
        Some("red".to_owned())
    );
    assert_eq!(field.value(&json!({"spec": {}})), None);
}

/// Sets what a JSON pointer leads to, making the last step if it is missing.
fn set(definition: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    definition.pointer_mut(parent).unwrap()[last] = value;
}

#[test]
fn a_wrong_definition_is_refused_by_field() {
    for (pointer, value, wanted) in [
        (
            "/metadata/name",
            json!("x"),
            "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            "/spec/group",
            json!("example"),
            "spec.group: Invalid value: \"example\": should be a domain with at least one dot",
        ),
        (
            "/spec/scope",
            json!("Galaxy"),
            "spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            "/spec/names/kind",
            json!("Wid get"),
            "spec.names.kind: Invalid value: \"Wid get\": may have mixed case, but should otherwise match: a DNS-1035 label",
        ),
        (
            "/spec/names/listKind",
            json!("Widget"),
            "spec.names.listKind: Invalid value: \"Widget\": kind and listKind may not be the same",
        ),
        ("/spec/versions", json!([]), "spec.versions: Required value"),
        (
            "/spec/preserveUnknownFields",
            json!(true),
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true",
        ),
        (
            "/spec/conversion",
            json!({"strategy": "Webhook"}),
            "spec.conversion.strategy: Invalid value: \"Webhook\": is not supported by this server",
        ),
    ] {
        let told = complaints(|d| set(d, pointer, value));
        assert!(
            told.iter().any(|text| text.starts_with(wanted)),
            "{wanted}: {told:?}"
        );
    }
}

#[test]
fn a_wrong_version_is_refused_by_field() {
    let version = "/spec/versions/0";
    for (field, value, wanted) in [
        (
            "storage",
            json!(false),
            "spec.versions: Invalid value: [\"v1\"]: must have exactly one version marked as storage version",
        ),
        (
            "name",
            json!("1"),
            "spec.versions[0].name: Invalid value: \"1\": a DNS-1035 label",
        ),
        (
            "schema",
            json!({}),
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
        ),
        (
            "schema/openAPIV3Schema/properties/spec/properties/color",
            json!({}),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[color].type: Required value",
        ),
        (
            "selectableFields",
            json!([{"jsonPath": ".spec.o"}]),
            "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".spec.o\": must point to a field of type",
        ),
        (
            "selectableFields",
            json!([{"jsonPath": ".metadata.name"}]),
            "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".metadata.name\": must not point to fields in metadata",
        ),
        (
            "selectableFields",
            json!([{"jsonPath": ".spec.nope"}]),
            "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".spec.nope\": does not refer to a valid field",
        ),
        (
            "selectableFields",
            json!(vec![json!({"jsonPath": ".spec.color"}); 9]),
            "spec.versions[0].selectableFields: Too many: 9: must have at most 8 items",
        ),
        (
            "additionalPrinterColumns/0/type",
            json!("text"),
            "spec.versions[0].additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
        ),
        (
            "subresources/scale",
            json!({"specReplicasPath": ".status.n", "statusReplicasPath": ".status.n"}),
            "spec.versions[0].subresources.scale.specReplicasPath: Invalid value: \".status.n\": should be a json path under .spec",
        ),
    ] {
        let told = complaints(|d| set(d, &format!("{version}/{field}"), value));
        assert!(
            told.iter().any(|text| text.starts_with(wanted)),
            "{wanted}: {told:?}"
        );
    }
}

#[test]
fn rules_that_do_not_compile_refuse_the_definition() {
    let told = complaints(|d| {
        d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
            json!([{"rule": "self.nope == 1"}]);
    });
    assert!(
        told[0].starts_with("spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: \"self.nope == 1\": compilation failed: undefined field 'nope'"),
        "{told:?}"
    );
}

#[test]
fn the_definitions_of_this_repository_are_sound() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let text = std::fs::read_to_string(&path).unwrap();
            for decoded in crate::schema::yaml::decode_documents(&text).unwrap() {
                let mut made = decoded.value;
                complete(&mut made);
                let result = compile(&made)
                    .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>());
                assert!(result.is_ok(), "{}: {result:?}", path.display());
                let own = crate::schema::builtin::schema(
                    "apiextensions.k8s.io",
                    "v1",
                    "CustomResourceDefinition",
                )
                .unwrap();
                let decoded = crate::schema::decode::Decoded {
                    value: made,
                    duplicates: Vec::new(),
                };
                own.read(decoded, crate::schema::FieldValidation::Strict)
                    .unwrap();
                seen += 1;
            }
        }
    }
    assert!(seen > 0, "there are definitions to read");
}

#[test]
fn scope_names_and_stored_versions_may_not_change() {
    let old = {
        let mut old = definition();
        old["status"] = json!({"storedVersions": ["v1"]});
        old
    };
    let mut new = old.clone();
    new["spec"]["scope"] = json!("Cluster");
    new["spec"]["versions"][0]["name"] = json!("v2");
    let told: Vec<String> = validate_update(&new, &old)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        told,
        [
            "spec.scope: Invalid value: \"Cluster\": field is immutable",
            "status.storedVersions[0]: Invalid value: \"v1\": must appear in spec.versions"
        ]
    );
    assert_eq!(validate_update(&old, &old), []);
}
