//! A generic Kubernetes-style API server: it stores, validates, versions and watches objects whose kinds it does not know.

pub mod auth;
pub mod blobs;
pub mod cache;
pub mod http;
pub mod metrics;
pub mod registry;
pub mod schema;
pub mod selector;
pub mod server;
pub mod store;
