//! What is wrong with one field, worded as Kubernetes words it, and the paths that name fields.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

/// Where a value lies, as a chain of borrowed steps: it costs nothing until it is printed.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// The whole object.
    Root,
    /// `parent.name`
    Field(&'a Path<'a>, &'a str),
    /// `parent[3]`
    Index(&'a Path<'a>, usize),
    /// `parent[key]`: a key of a map that is data rather than a declared field.
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    /// The path of a field below this one.
    #[must_use]
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    /// The path of a list item below this one.
    #[must_use]
    pub fn index(&'a self, at: usize) -> Path<'a> {
        Path::Index(self, at)
    }

    /// The path of a map entry below this one.
    #[must_use]
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, at) => write!(f, "{parent}[{at}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

/// What sort of complaint it is; decides the reason of the cause and the shape of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The field must be there.
    Required,
    /// The value is not allowed.
    Invalid,
    /// The value is of the wrong JSON type.
    TypeInvalid,
    /// The value is none of these.
    NotSupported(Vec<String>),
    /// The value appears twice.
    Duplicate,
    /// The field may not be set, or not changed.
    Forbidden,
    /// The text is longer than this many bytes.
    TooLong(u64),
    /// The list or map has more entries than allowed.
    TooMany {
        /// How many there are.
        actual: u64,
        /// How many there may be.
        max: u64,
    },
}

/// One complaint about one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// The field, such as `spec.list[0].x`; empty for the whole object.
    pub path: String,
    /// What sort of complaint it is.
    pub kind: FieldErrorKind,
    /// The value complained about; `None` leaves it out of the text.
    pub value: Option<Value>,
    /// What is wrong, in words.
    pub detail: String,
}

/// One entry of `details.causes` in a Status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// The text after the field's name.
    pub message: String,
    /// The field.
    pub field: String,
}

impl FieldError {
    fn new(
        path: &Path<'_>,
        kind: FieldErrorKind,
        value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            path: path.to_string(),
            kind,
            value,
            detail: detail.into(),
        }
    }

    /// The field is missing.
    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Required, None, detail)
    }

    /// The value is not allowed.
    pub fn invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Invalid, Some(value.into()), detail)
    }

    /// The value is of the wrong type; `found` is the type's name.
    pub fn type_invalid(path: &Path<'_>, found: &str, wanted: &str) -> Self {
        let detail = format!("{path} in body must be of type {wanted}: {found:?}");
        Self::new(
            path,
            FieldErrorKind::TypeInvalid,
            Some(Value::from(found)),
            detail,
        )
    }

    /// The value is none of the supported ones.
    pub fn not_supported<I: Into<String>>(
        path: &Path<'_>,
        value: impl Into<Value>,
        supported: impl IntoIterator<Item = I>,
    ) -> Self {
        let supported = supported.into_iter().map(Into::into).collect();
        Self::new(
            path,
            FieldErrorKind::NotSupported(supported),
            Some(value.into()),
            "",
        )
    }

    /// The value appears twice.
    pub fn duplicate(path: &Path<'_>, value: impl Into<Value>) -> Self {
        Self::new(path, FieldErrorKind::Duplicate, Some(value.into()), "")
    }

    /// The field may not be set.
    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Forbidden, None, detail)
    }

    /// The text is too long.
    pub fn too_long(path: &Path<'_>, max: u64) -> Self {
        Self::new(path, FieldErrorKind::TooLong(max), None, "")
    }

    /// There are too many entries.
    pub fn too_many(path: &Path<'_>, actual: u64, max: u64) -> Self {
        Self::new(path, FieldErrorKind::TooMany { actual, max }, None, "")
    }

    /// The reason of the cause.
    pub fn reason(&self) -> &'static str {
        match self.kind {
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            FieldErrorKind::NotSupported(_) => "FieldValueNotSupported",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::TooLong(_) => "FieldValueTooLong",
            FieldErrorKind::TooMany { .. } => "FieldValueTooMany",
        }
    }

    /// The text after `field: `, such as `Invalid value: 3: must be even`.
    pub fn body(&self) -> String {
        let head: Cow<'static, str> = match &self.kind {
            FieldErrorKind::Required => "Required value".into(),
            FieldErrorKind::Invalid | FieldErrorKind::TypeInvalid => "Invalid value".into(),
            FieldErrorKind::NotSupported(_) => "Unsupported value".into(),
            FieldErrorKind::Duplicate => "Duplicate value".into(),
            FieldErrorKind::Forbidden => "Forbidden".into(),
            FieldErrorKind::TooLong(max) => {
                format!("Too long: may not be more than {max} bytes").into()
            }
            FieldErrorKind::TooMany { actual, max } => {
                format!("Too many: {actual}: must have at most {max} items").into()
            }
        };
        let mut body = head.into_owned();
        if let Some(value) = &self.value {
            body.push_str(": ");
            body.push_str(&shown(value));
        }
        if let FieldErrorKind::NotSupported(supported) = &self.kind {
            let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
            body.push_str(": supported values: ");
            body.push_str(&quoted.join(", "));
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }

    /// The field's name in messages; Kubernetes calls the whole object `<nil>`.
    pub fn field(&self) -> &str {
        if self.path.is_empty() {
            "<nil>"
        } else {
            &self.path
        }
    }

    /// The entry of `details.causes`.
    pub fn cause(&self) -> Cause {
        Cause {
            reason: self.reason(),
            message: self.body(),
            field: self.field().to_owned(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field(), self.body())
    }
}

/// The longest value that is repeated in a message, in bytes. Chosen: enough to recognise it.
const SHOWN_MAX: usize = 1024;

fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > SHOWN_MAX {
        let cut = (0..=SHOWN_MAX)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(cut);
        text.push_str("...");
    }
    text
}

/// The message of a 422: `Job.gctl.dev "x" is invalid: spec.a: Required value`; several errors stand in brackets.
pub fn invalid_message(kind: &str, group: &str, name: &str, errors: &[FieldError]) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let all = texts.join(", ");
    let list = if texts.len() > 1 {
        format!("[{all}]")
    } else {
        all
    };
    format!("{kind}{dot}{group} {name:?} is invalid: {list}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_has_the_text_and_reason_clients_expect() {
        let spec = Path::Root.field("spec");
        let path = &spec.field("x");
        for (error, body, reason) in [
            (
                FieldError::required(path, ""),
                "Required value",
                "FieldValueRequired",
            ),
            (
                FieldError::required(path, "name it"),
                "Required value: name it",
                "FieldValueRequired",
            ),
            (
                FieldError::invalid(path, 3, "must be even"),
                "Invalid value: 3: must be even",
                "FieldValueInvalid",
            ),
            (
                FieldError::invalid(path, "a\"b", "no"),
                "Invalid value: \"a\\\"b\": no",
                "FieldValueInvalid",
            ),
            (
                FieldError::not_supported(path, "z", ["a", "b"]),
                "Unsupported value: \"z\": supported values: \"a\", \"b\"",
                "FieldValueNotSupported",
            ),
            (
                FieldError::duplicate(path, json!({"name": "a"})),
                "Duplicate value: {\"name\":\"a\"}",
                "FieldValueDuplicate",
            ),
            (
                FieldError::forbidden(path, "no"),
                "Forbidden: no",
                "FieldValueForbidden",
            ),
            (
                FieldError::too_long(path, 5),
                "Too long: may not be more than 5 bytes",
                "FieldValueTooLong",
            ),
            (
                FieldError::too_many(path, 5, 4),
                "Too many: 5: must have at most 4 items",
                "FieldValueTooMany",
            ),
            (
                FieldError::type_invalid(path, "string", "integer"),
                "Invalid value: \"string\": spec.x in body must be of type integer: \"string\"",
                "FieldValueTypeInvalid",
            ),
        ] {
            assert_eq!(
                error.cause(),
                Cause {
                    reason,
                    message: body.to_owned(),
                    field: "spec.x".to_owned()
                }
            );
        }
    }

    #[test]
    fn a_message_names_the_kind_and_lists_several_errors_in_brackets() {
        let spec = Path::Root.field("spec");
        let one = FieldError::required(&spec.field("a"), "");
        let two = FieldError::forbidden(&spec.field("b"), "no");
        assert_eq!(
            invalid_message("Job", "gctl.dev", "x", std::slice::from_ref(&one)),
            "Job.gctl.dev \"x\" is invalid: spec.a: Required value"
        );
        assert_eq!(
            invalid_message("Secret", "", "x", &[one.clone(), two, one]),
            "Secret \"x\" is invalid: [spec.a: Required value, spec.b: Forbidden: no]"
        );
    }

    #[test]
    fn paths_print_as_kubernetes_prints_them() {
        let spec = Path::Root.field("spec");
        let list = spec.field("list");
        let item = list.index(2);
        assert_eq!(item.field("x").to_string(), "spec.list[2].x");
        assert_eq!(list.key("a/b").to_string(), "spec.list[a/b]");
        assert_eq!(Path::Root.to_string(), "");
    }

    #[test]
    fn a_huge_value_is_cut_in_the_message() {
        let error = FieldError::invalid(&Path::Root, "ä".repeat(4000), "no");
        assert!(error.body().len() < 1200);
    }
}
