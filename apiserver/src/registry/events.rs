//! Events have two groups over one store: `v1` is what is kept, `events.k8s.io/v1` is a view of it.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::encode;

/// The name of a field in the core group, and in `events.k8s.io`.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn renamed(
    mut event: Map<String, Value>,
    api_version: &str,
    names: impl Iterator<Item = (&'static str, &'static str)>,
) -> Map<String, Value> {
    for (from, to) in names {
        if let Some(value) = event.remove(from) {
            event.insert(to.to_owned(), value);
        }
    }
    event.insert("apiVersion".to_owned(), api_version.into());
    event
}

/// A core event as `events.k8s.io/v1` shows it.
pub(super) fn from_core(event: Map<String, Value>) -> Map<String, Value> {
    renamed(event, "events.k8s.io/v1", RENAMED.iter().copied())
}

/// An `events.k8s.io/v1` event as the core event that is kept.
pub(super) fn to_core(event: Map<String, Value>) -> Map<String, Value> {
    renamed(event, "v1", RENAMED.iter().map(|(core, new)| (*new, *core)))
}

/// The bytes of a stored core event as `events.k8s.io/v1` shows it.
pub(super) fn present(bytes: &Bytes) -> Bytes {
    let Ok(event) = encode::decode(bytes) else {
        return bytes.clone();
    };
    encode::plain(&from_core(event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_group_reads_what_the_other_wrote() {
        let Value::Object(core) = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"kind": "Job", "name": "x"},
            "message": "m", "reason": "r", "type": "Normal", "source": {"component": "c"}, "firstTimestamp": "t1",
            "lastTimestamp": "t2", "count": 3, "reportingComponent": "rc", "reportingInstance": "ri", "action": "a",
            "eventTime": "t0", "series": {"count": 2},
        }) else {
            unreachable!("a literal object")
        };
        let new = from_core(core.clone());
        assert_eq!(new["regarding"]["name"], "x");
        assert_eq!(new["note"], "m");
        assert_eq!(new["deprecatedCount"], 3);
        assert_eq!(new["reportingController"], "rc");
        assert_eq!(new["apiVersion"], "events.k8s.io/v1");
        assert!(!new.contains_key("involvedObject"));
        assert_eq!(to_core(new), core);
    }
}
