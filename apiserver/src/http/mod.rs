//! The HTTP surface: routes, negotiation, errors, discovery, OpenAPI, Tables and watch streams.

pub mod age;
pub mod api;
pub mod attributes;
pub mod discovery;
mod drain;
pub mod health;
pub mod negotiate;
pub mod observe;
pub mod openapi;
mod openapi_meta;
mod openapi_v2;
mod params;
pub mod protobuf;
pub mod reviews;
pub mod status;
pub mod streams;
pub mod surface;
pub mod table;
#[cfg(test)]
mod tests;
mod watch;

/// Whether a path belongs to a health endpoint.
pub(crate) fn is_health(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"].iter().any(|known| {
        path == *known
            || path
                .strip_prefix(known)
                .is_some_and(|rest| rest.starts_with('/'))
    })
}
