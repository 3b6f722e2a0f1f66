//! What happens to objects: create, read, update, patch, delete, watch, and the server's own upkeep of them.

pub mod kinds;
