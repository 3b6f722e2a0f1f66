//! Kubernetes protobuf bodies of the built-in kinds, decoded into the same JSON that a JSON client would have sent.
//!
//! kubectl 1.32 and client-go 0.32 write Namespaces, Leases, Events, Secrets, ConfigMaps, reviews and delete options as
//! protobuf and do not fall back. Answers may be JSON, so nothing is ever encoded here.
//!
//! The messages are tables (field number, JSON name, type) after the published `generated.proto` files; one
//! decoder walks them over prost's wire primitives. Unknown fields are skipped, as protobuf demands. Empty strings
//! and zero times mean absent, because Go writes both for unset fields.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Buf;
use jiff::Timestamp;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde_json::{Map, Value};

use super::negotiate::OBJECT_TYPES;
use super::status::Status;

/// The four bytes in front of every Kubernetes protobuf body.
const MAGIC: &[u8] = b"k8s\0";

/// Why a body could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    /// The four magic bytes are missing.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Prefix,
    /// The bytes are no valid protobuf.
    #[error("the body is not a valid protobuf message")]
    Wire(#[from] prost::DecodeError),
    /// A field has another wire type than its message says.
    #[error("field {0} has the wrong wire type")]
    WireType(&'static str),
    /// A string is not UTF-8, a time is out of range, or embedded JSON is broken.
    #[error("field {0} holds an invalid value")]
    Value(&'static str),
    /// The kind has no protobuf form here.
    #[error("no protobuf form is known for kind {kind:?} in version {api_version:?}")]
    Kind {
        /// apiVersion of the envelope.
        api_version: String,
        /// kind of the envelope.
        kind: String,
    },
}

#[derive(Clone, Copy)]
enum Type {
    Str,
    /// Base64 in JSON.
    Bytes,
    /// A pointer to a bool: `false` is kept.
    OptBool,
    /// An integer whose zero is the same as absent.
    Int,
    /// A pointer to an integer: zero is kept.
    OptInt,
    /// Whole seconds.
    Time,
    /// Six decimals.
    MicroTime,
    /// Raw JSON bytes in field 1.
    RawJson,
    Message(Message),
    Strings,
    Messages(Message),
    /// A map from strings to this type.
    Map(&'static Type),
    /// `ExtraValue`: a message whose field 1 is a list of strings, a plain list in JSON.
    StringList,
}

type Message = &'static [(u32, &'static str, Type)];

use Type::{Bytes, Int, MicroTime, OptBool, OptInt, RawJson, Str, StringList, Strings, Time};

const OWNER: Message = &[
    (1, "kind", Str),
    (3, "name", Str),
    (4, "uid", Str),
    (5, "apiVersion", Str),
    (6, "controller", OptBool),
    (7, "blockOwnerDeletion", OptBool),
];
const MANAGED_FIELDS: Message = &[
    (1, "manager", Str),
    (2, "operation", Str),
    (3, "apiVersion", Str),
    (4, "time", Time),
    (6, "fieldsType", Str),
    (7, "fieldsV1", RawJson),
    (8, "subresource", Str),
];
const OBJECT_META: Message = &[
    (1, "name", Str),
    (2, "generateName", Str),
    (3, "namespace", Str),
    (4, "selfLink", Str),
    (5, "uid", Str),
    (6, "resourceVersion", Str),
    (7, "generation", Int),
    (8, "creationTimestamp", Time),
    (9, "deletionTimestamp", Time),
    (10, "deletionGracePeriodSeconds", OptInt),
    (11, "labels", Type::Map(&Str)),
    (12, "annotations", Type::Map(&Str)),
    (13, "ownerReferences", Type::Messages(OWNER)),
    (14, "finalizers", Strings),
    (17, "managedFields", Type::Messages(MANAGED_FIELDS)),
];
const META: Type = Type::Message(OBJECT_META);

const NAMESPACE: Message = &[
    (1, "metadata", META),
    (2, "spec", Type::Message(&[(1, "finalizers", Strings)])),
    (
        3,
        "status",
        Type::Message(&[
            (1, "phase", Str),
            (
                2,
                "conditions",
                Type::Messages(&[
                    (1, "type", Str),
                    (2, "status", Str),
                    (4, "lastTransitionTime", Time),
                    (5, "reason", Str),
                    (6, "message", Str),
                ]),
            ),
        ]),
    ),
];
const OBJECT_REFERENCE: Message = &[
    (1, "kind", Str),
    (2, "namespace", Str),
    (3, "name", Str),
    (4, "uid", Str),
    (5, "apiVersion", Str),
    (6, "resourceVersion", Str),
    (7, "fieldPath", Str),
];
const EVENT_SOURCE: Message = &[(1, "component", Str), (2, "host", Str)];
const EVENT_SERIES: Message = &[(1, "count", Int), (2, "lastObservedTime", MicroTime)];
const CORE_EVENT: Message = &[
    (1, "metadata", META),
    (2, "involvedObject", Type::Message(OBJECT_REFERENCE)),
    (3, "reason", Str),
    (4, "message", Str),
    (5, "source", Type::Message(EVENT_SOURCE)),
    (6, "firstTimestamp", Time),
    (7, "lastTimestamp", Time),
    (8, "count", Int),
    (9, "type", Str),
    (10, "eventTime", MicroTime),
    (11, "series", Type::Message(EVENT_SERIES)),
    (12, "action", Str),
    (13, "related", Type::Message(OBJECT_REFERENCE)),
    (14, "reportingComponent", Str),
    (15, "reportingInstance", Str),
];
const EVENT: Message = &[
    (1, "metadata", META),
    (2, "eventTime", MicroTime),
    (3, "series", Type::Message(EVENT_SERIES)),
    (4, "reportingController", Str),
    (5, "reportingInstance", Str),
    (6, "action", Str),
    (7, "reason", Str),
    (8, "regarding", Type::Message(OBJECT_REFERENCE)),
    (9, "related", Type::Message(OBJECT_REFERENCE)),
    (10, "note", Str),
    (11, "type", Str),
    (12, "deprecatedSource", Type::Message(EVENT_SOURCE)),
    (13, "deprecatedFirstTimestamp", Time),
    (14, "deprecatedLastTimestamp", Time),
    (15, "deprecatedCount", Int),
];
const LEASE: Message = &[
    (1, "metadata", META),
    (
        2,
        "spec",
        Type::Message(&[
            (1, "holderIdentity", Str),
            (2, "leaseDurationSeconds", OptInt),
            (3, "acquireTime", MicroTime),
            (4, "renewTime", MicroTime),
            (5, "leaseTransitions", OptInt),
            (6, "strategy", Str),
            (7, "preferredHolder", Str),
        ]),
    ),
];
const SECRET: Message = &[
    (1, "metadata", META),
    (2, "data", Type::Map(&Bytes)),
    (3, "type", Str),
    (4, "stringData", Type::Map(&Str)),
    (5, "immutable", OptBool),
];
const CONFIG_MAP: Message = &[
    (1, "metadata", META),
    (2, "data", Type::Map(&Str)),
    (3, "binaryData", Type::Map(&Bytes)),
    (4, "immutable", OptBool),
];
const RESOURCE_ATTRIBUTES: Type = Type::Message(&[
    (1, "namespace", Str),
    (2, "verb", Str),
    (3, "group", Str),
    (4, "version", Str),
    (5, "resource", Str),
    (6, "subresource", Str),
    (7, "name", Str),
]);
const NON_RESOURCE_ATTRIBUTES: Type = Type::Message(&[(1, "path", Str), (2, "verb", Str)]);
const SELF_ACCESS_REVIEW: Message = &[
    (1, "metadata", META),
    (
        2,
        "spec",
        Type::Message(&[
            (1, "resourceAttributes", RESOURCE_ATTRIBUTES),
            (2, "nonResourceAttributes", NON_RESOURCE_ATTRIBUTES),
        ]),
    ),
];
const ACCESS_REVIEW: Message = &[
    (1, "metadata", META),
    (
        2,
        "spec",
        Type::Message(&[
            (1, "resourceAttributes", RESOURCE_ATTRIBUTES),
            (2, "nonResourceAttributes", NON_RESOURCE_ATTRIBUTES),
            (3, "user", Str),
            (4, "groups", Strings),
            (5, "extra", Type::Map(&StringList)),
            (6, "uid", Str),
        ]),
    ),
];
const RULES_REVIEW: Message = &[
    (1, "metadata", META),
    (2, "spec", Type::Message(&[(1, "namespace", Str)])),
];
const SELF_REVIEW: Message = &[(1, "metadata", META)];
const TOKEN_REVIEW: Message = &[
    (1, "metadata", META),
    (
        2,
        "spec",
        Type::Message(&[(1, "token", Str), (2, "audiences", Strings)]),
    ),
];
const DELETE_OPTIONS: Message = &[
    (1, "gracePeriodSeconds", OptInt),
    (
        2,
        "preconditions",
        Type::Message(&[(1, "uid", Str), (2, "resourceVersion", Str)]),
    ),
    (3, "orphanDependents", OptBool),
    (4, "propagationPolicy", Str),
    (5, "dryRun", Strings),
];

fn message_of(api_version: &str, kind: &str) -> Option<Message> {
    Some(match (api_version, kind) {
        (_, "DeleteOptions") => DELETE_OPTIONS,
        ("v1", "Namespace") => NAMESPACE,
        ("v1", "Event") => CORE_EVENT,
        ("v1", "Secret") => SECRET,
        ("v1", "ConfigMap") => CONFIG_MAP,
        ("events.k8s.io/v1", "Event") => EVENT,
        ("coordination.k8s.io/v1", "Lease") => LEASE,
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => SELF_ACCESS_REVIEW,
        ("authorization.k8s.io/v1", "SubjectAccessReview" | "LocalSubjectAccessReview") => {
            ACCESS_REVIEW
        }
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => RULES_REVIEW,
        ("authentication.k8s.io/v1", "SelfSubjectReview") => SELF_REVIEW,
        ("authentication.k8s.io/v1", "TokenReview") => TOKEN_REVIEW,
        _ => return None,
    })
}

/// Decodes a body, envelope included, into the object's JSON with `apiVersion` and `kind`.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let mut envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?;
    let mut api_version = String::new();
    let mut kind = String::new();
    let mut raw: &[u8] = &[];
    while !envelope.is_empty() {
        let (tag, wire) = decode_key(&mut envelope)?;
        match tag {
            1 => {
                let mut type_meta = take_bytes(&mut envelope, wire, "typeMeta")?;
                while !type_meta.is_empty() {
                    let (tag, wire) = decode_key(&mut type_meta)?;
                    match tag {
                        1 => {
                            api_version = text(
                                take_bytes(&mut type_meta, wire, "apiVersion")?,
                                "apiVersion",
                            )?;
                        }
                        2 => kind = text(take_bytes(&mut type_meta, wire, "kind")?, "kind")?,
                        _ => skip_field(wire, tag, &mut type_meta, DecodeContext::default())?,
                    }
                }
            }
            2 => raw = take_bytes(&mut envelope, wire, "raw")?,
            _ => skip_field(wire, tag, &mut envelope, DecodeContext::default())?,
        }
    }
    let Some(message) = message_of(&api_version, &kind) else {
        return Err(ProtobufError::Kind { api_version, kind });
    };
    let mut object = decode_message(raw, message)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

/// Decodes a request body: what has no protobuf form is 415, what is broken is 400.
pub fn decode_body(body: &[u8]) -> Result<Value, Status> {
    decode(body).map_err(|error| match error {
        ProtobufError::Kind { .. } => Status::unsupported_media_type(OBJECT_TYPES),
        other => {
            let source = std::error::Error::source(&other)
                .map_or_else(String::new, |source| format!(": {source}"));
            Status::bad_request(format!("{other}{source}"))
        }
    })
}

fn decode_message(mut buf: &[u8], message: Message) -> Result<Map<String, Value>, ProtobufError> {
    let mut object = Map::new();
    while !buf.is_empty() {
        let (tag, wire) = decode_key(&mut buf)?;
        match message.iter().find(|(number, _, _)| *number == tag) {
            Some((_, name, kind)) => decode_field(&mut buf, wire, name, *kind, &mut object)?,
            None => skip_field(wire, tag, &mut buf, DecodeContext::default())?,
        }
    }
    Ok(object)
}

fn decode_field(
    buf: &mut &[u8],
    wire: WireType,
    name: &'static str,
    kind: Type,
    object: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    match kind {
        Strings | Type::Messages(_) => {
            let bytes = take_bytes(buf, wire, name)?;
            let item = match kind {
                Type::Messages(message) => Value::Object(decode_message(bytes, message)?),
                _ => text(bytes, name)?.into(),
            };
            if let Value::Array(items) = object
                .entry(name)
                .or_insert_with(|| Value::Array(Vec::new()))
            {
                items.push(item);
            }
        }
        Type::Map(value_type) => {
            let mut entry = take_bytes(buf, wire, name)?;
            let (mut key, mut value) = (String::new(), None);
            while !entry.is_empty() {
                let (tag, wire) = decode_key(&mut entry)?;
                match tag {
                    1 => key = text(take_bytes(&mut entry, wire, name)?, name)?,
                    2 => value = decode_value(&mut entry, wire, name, *value_type)?,
                    _ => skip_field(wire, tag, &mut entry, DecodeContext::default())?,
                }
            }
            if let Value::Object(map) = object
                .entry(name)
                .or_insert_with(|| Value::Object(Map::new()))
            {
                map.insert(key, value.unwrap_or_else(|| Value::String(String::new())));
            }
        }
        _ => {
            if let Some(value) = decode_value(buf, wire, name, kind)? {
                object.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// One value; `None` when it means absent.
fn decode_value(
    buf: &mut &[u8],
    wire: WireType,
    name: &'static str,
    kind: Type,
) -> Result<Option<Value>, ProtobufError> {
    Ok(match kind {
        OptBool => Some(Value::Bool(take_varint(buf, wire, name)? != 0)),
        Int | OptInt => {
            let number = take_varint(buf, wire, name)?.cast_signed();
            (number != 0 || matches!(kind, OptInt)).then(|| number.into())
        }
        Str => Some(text(take_bytes(buf, wire, name)?, name)?)
            .filter(|text| !text.is_empty())
            .map(Value::String),
        Bytes => Some(STANDARD.encode(take_bytes(buf, wire, name)?).into()),
        Time | MicroTime => decode_time(
            take_bytes(buf, wire, name)?,
            name,
            matches!(kind, MicroTime),
        )?,
        RawJson => {
            let inner = decode_message(take_bytes(buf, wire, name)?, &[(1, "raw", Bytes)])?;
            let raw = inner.get("raw").and_then(Value::as_str).unwrap_or("");
            let json = STANDARD
                .decode(raw)
                .map_err(|_| ProtobufError::Value(name))?;
            if json.is_empty() {
                None
            } else {
                Some(serde_json::from_slice(&json).map_err(|_| ProtobufError::Value(name))?)
            }
        }
        Type::Message(message) => Some(Value::Object(decode_message(
            take_bytes(buf, wire, name)?,
            message,
        )?)),
        StringList => {
            let mut inner = decode_message(take_bytes(buf, wire, name)?, &[(1, "items", Strings)])?;
            Some(
                inner
                    .remove("items")
                    .unwrap_or_else(|| Value::Array(Vec::new())),
            )
        }
        Strings | Type::Messages(_) | Type::Map(_) => None,
    })
}

fn decode_time(
    bytes: &[u8],
    name: &'static str,
    micro: bool,
) -> Result<Option<Value>, ProtobufError> {
    let parts = decode_message(bytes, &[(1, "seconds", Int), (2, "nanos", Int)])?;
    let part = |key: &str| parts.get(key).and_then(Value::as_i64).unwrap_or(0);
    let (seconds, nanos) = (part("seconds"), part("nanos"));
    if seconds == 0 && nanos == 0 {
        return Ok(None);
    }
    let nanos = i32::try_from(nanos).map_err(|_| ProtobufError::Value(name))?;
    let time = Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Value(name))?;
    let text = if micro {
        time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    } else {
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    Ok(Some(text.into()))
}

fn take_varint(buf: &mut &[u8], wire: WireType, name: &'static str) -> Result<u64, ProtobufError> {
    if wire != WireType::Varint {
        return Err(ProtobufError::WireType(name));
    }
    Ok(decode_varint(buf)?)
}

fn take_bytes<'a>(
    buf: &mut &'a [u8],
    wire: WireType,
    name: &'static str,
) -> Result<&'a [u8], ProtobufError> {
    if wire != WireType::LengthDelimited {
        return Err(ProtobufError::WireType(name));
    }
    let length = usize::try_from(decode_varint(buf)?).map_err(|_| ProtobufError::Value(name))?;
    if length > buf.remaining() {
        return Err(ProtobufError::Value(name));
    }
    let (bytes, rest) = buf.split_at(length);
    *buf = rest;
    Ok(bytes)
}

fn text(bytes: &[u8], name: &'static str) -> Result<String, ProtobufError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| ProtobufError::Value(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A length-delimited field, tags below 16.
    fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![tag << 3 | 2];
        prost::encoding::encode_varint(bytes.len() as u64, &mut out);
        out.extend_from_slice(bytes);
        out
    }

    fn varint(tag: u8, value: u64) -> Vec<u8> {
        let mut out = vec![tag << 3];
        prost::encoding::encode_varint(value, &mut out);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [
            MAGIC.to_vec(),
            field(1, &type_meta),
            field(2, raw),
            field(3, b""),
            field(4, b""),
        ]
        .concat()
    }

    #[test]
    fn a_lease_of_the_go_client_becomes_json() {
        let managed = [
            field(1, b"agent"),
            field(2, b"Update"),
            field(4, &varint(1, 1_700_000_000)),
            field(6, b"FieldsV1"),
            field(7, &field(1, br#"{"f:spec":{}}"#)),
        ]
        .concat();
        // Tag 17 needs two bytes: 17 << 3 | 2 = 138.
        let mut managed_field = vec![138, 1, u8::try_from(managed.len()).unwrap()];
        managed_field.extend(&managed);
        let metadata = [
            field(1, b"node-1"),
            field(2, b""),
            field(3, b"kube-system"),
            field(8, b""),
            field(11, &[field(1, b"a"), field(2, b"b")].concat()),
            managed_field,
        ]
        .concat();
        let renew = [varint(1, 1_700_000_000), varint(2, 5_000)].concat();
        let spec = [
            field(1, b"me"),
            varint(2, 15),
            field(4, &renew),
            varint(5, 0),
            varint(9, 7),
        ]
        .concat();
        let body = envelope(
            "coordination.k8s.io/v1",
            "Lease",
            &[field(1, &metadata), field(2, &spec)].concat(),
        );
        assert_eq!(
            decode(&body).unwrap(),
            json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {
                    "name": "node-1",
                    "namespace": "kube-system",
                    "labels": {"a": "b"},
                    "managedFields": [{
                        "manager": "agent", "operation": "Update", "time": "2023-11-14T22:13:20Z",
                        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}},
                    }],
                },
                "spec": {
                    "holderIdentity": "me", "leaseDurationSeconds": 15,
                    "renewTime": "2023-11-14T22:13:20.000005Z", "leaseTransitions": 0,
                },
            })
        );
    }

    #[test]
    fn secrets_carry_base64_and_reviews_their_attributes() {
        let entry = [field(1, b"key"), field(2, b"\x00\xff")].concat();
        let body = envelope(
            "v1",
            "Secret",
            &[field(2, &entry), field(3, b"Opaque")].concat(),
        );
        assert_eq!(
            decode(&body).unwrap(),
            json!({"apiVersion": "v1", "kind": "Secret", "data": {"key": "AP8="}, "type": "Opaque"})
        );
        let extra = field(5, &[field(1, b"k"), field(2, &field(1, b"v"))].concat());
        let spec = [
            field(1, &[field(2, b"get"), field(5, b"jobs")].concat()),
            field(3, b"u"),
            extra,
        ]
        .concat();
        let body = envelope(
            "authorization.k8s.io/v1",
            "SubjectAccessReview",
            &field(2, &spec),
        );
        assert_eq!(
            decode(&body).unwrap()["spec"],
            json!({"resourceAttributes": {"verb": "get", "resource": "jobs"}, "user": "u", "extra": {"k": ["v"]}})
        );
    }

    #[test]
    fn broken_bodies_are_errors_and_never_panics() {
        assert!(matches!(decode(b"{}"), Err(ProtobufError::Prefix)));
        let unknown = envelope("gctl.dev/v1", "Job", b"");
        assert!(matches!(decode(&unknown), Err(ProtobufError::Kind { .. })));
        let good = envelope(
            "v1",
            "ConfigMap",
            &field(2, &[field(1, b"k"), field(2, b"v")].concat()),
        );
        for cut in MAGIC.len() + 1..good.len() - 4 {
            let _ = decode(&good[..cut]);
        }
        let huge = envelope("v1", "ConfigMap", &[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(decode(&huge).is_err());
        let wrong_wire = envelope("v1", "ConfigMap", &varint(2, 1));
        assert!(matches!(
            decode(&wrong_wire),
            Err(ProtobufError::WireType("data"))
        ));
    }

    #[test]
    fn delete_options_come_under_any_group() {
        let body = envelope(
            "coordination.k8s.io/v1",
            "DeleteOptions",
            &[field(2, &field(1, b"u-1")), field(4, b"Background")].concat(),
        );
        let value = decode(&body).unwrap();
        assert_eq!(value["preconditions"], json!({"uid": "u-1"}));
        assert_eq!(value["propagationPolicy"], "Background");
    }
}
