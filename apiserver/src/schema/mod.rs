//! What objects look like: decoding, pruning, defaulting, validation, rules, patches and ownership of fields.

pub mod names;
