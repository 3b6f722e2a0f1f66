//! Every limit of the request path, in one place.

use std::time::Duration;

/// The largest request body, in bytes. Specified: upstream's limit, which clients know.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// The largest object that is stored, in bytes. Chosen: upstream's store refuses about the same.
pub const MAX_OBJECT_BYTES: usize = 3 * 1024 * 1024 / 2;

/// The most operations in one JSON patch. Specified: upstream's limit.
pub const MAX_PATCH_OPERATIONS: usize = 10_000;

/// Total size of keys and values of annotations, in bytes. Specified: upstream's limit.
pub const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

/// The most data in a Secret or ConfigMap, in bytes. Specified: upstream's limit.
pub const MAX_DATA_BYTES: usize = 1024 * 1024;

/// How much one watcher may lag behind, in bytes, before its stream is ended. Chosen: some thousand objects.
pub const WATCH_BUFFER_BYTES: usize = 16 * 1024 * 1024;

/// The most objects in one page of a list that asks for a limit; a larger limit is lowered to it. Chosen: the whole of any
/// list that people look at, and a bound on the work of one request.
pub const MAX_LIST_PAGE: usize = 100_000;

/// How long a watch lasts when it does not say; a random time up to twice as much. Specified: upstream's default.
pub const WATCH_MIN: Duration = Duration::from_mins(30);

/// The longest watch that a client may ask for. Chosen: a day; longer ones hide dead peers.
pub const WATCH_MAX: Duration = Duration::from_hours(24);

/// How often a watch that asks for bookmarks gets one. Specified: about once a minute upstream.
pub const BOOKMARK_EVERY: Duration = Duration::from_mins(1);

/// How long before its end a watch gets its last bookmark. Specified: upstream's value.
pub const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

/// How often a patch is applied anew because somebody else wrote in between. Chosen: far beyond any real contention.
pub const MAX_PATCH_ATTEMPTS: usize = 1_000;

/// How many names are tried for one `generateName`. Specified: upstream's count.
pub const MAX_NAME_ATTEMPTS: usize = 8;

/// Longest part of `generateName` that is kept, in bytes. Specified: 63 minus the suffix.
pub const MAX_GENERATE_NAME_BYTES: usize = 58;

/// The longest Warning text, in bytes, when all warnings together are too long. Specified: upstream's value.
pub const MAX_WARNING_BYTES: usize = 256;

/// The length of all warnings of an answer, in bytes, from which on each is cut. Specified: upstream's value.
pub const MAX_WARNINGS_BYTES: usize = 4_096;

/// The longest field manager, in characters. Specified: upstream's limit.
pub const MAX_MANAGER_CHARS: usize = 128;

/// How long an Event lives after it was written last. Specified: upstream's default.
pub const EVENT_TTL: Duration = Duration::from_hours(1);

/// How many objects the collector deletes at once. Chosen: enough to fill a group commit.
pub const COLLECTOR_WRITES: usize = 64;

/// How long the collector waits before it tries a failed write again. Chosen: below what people notice.
pub const COLLECTOR_RETRY: Duration = Duration::from_millis(500);
