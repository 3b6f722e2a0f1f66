//! The HTTP surface: routes, negotiation, errors, discovery, OpenAPI, Tables and watch streams.

pub mod attributes;
pub mod negotiate;
pub mod protobuf;
pub mod status;
