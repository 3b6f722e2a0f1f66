//! The behaviour of the cache over the in-memory store.
