//! What objects look like: decoding, pruning, defaulting, validation, rules, patches and ownership of fields.
//!
//! The way of a body through this module: [`decode::decode`] reads it, [`KindSchema::read`] checks its
//! kind, drops and names unknown fields and fills defaults, the registry sets what only the server
//! may set, and [`KindSchema::admit_create`] or [`KindSchema::admit_update`] validates the result.
//! One code path serves custom and built-in kinds; the latter are described by data in `builtin/`.

pub mod builtin;
pub mod cel;
pub mod crd;
pub mod decode;
pub mod default;
mod engine;
pub mod field_error;
pub mod formats;
pub mod jsonpath;
mod kind;
pub mod managed_fields;
pub mod metadata;
pub mod names;
pub mod patch;
pub mod prune;
pub mod structural;
pub mod validate;
pub mod yaml;

pub use field_error::{Cause, FieldError, FieldErrorKind};
pub use kind::{
    Admitted, FieldValidation, KindSchema, KindTraits, Part, Read, ReadError, SelectableField,
};
