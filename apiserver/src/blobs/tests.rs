//! Properties of streams: any order, overlap and repetition of appends gives the same bytes; restarts lose nothing.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn id(attempt: u32) -> StreamId {
    StreamId {
        resource: "jobs.gctl.dev".into(),
        uid: "u-1".into(),
        stream: "log".into(),
        attempt,
    }
}

fn owner() -> Owner {
    Owner {
        namespace: "default".to_owned(),
        name: "a".to_owned(),
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from(at * 31 % 251).unwrap())
        .collect()
}

async fn append(store: &LogStore, offset: usize, bytes: &[u8], last: bool) -> Position {
    let body = Bytes::copy_from_slice(bytes);
    store
        .append(&id(1), &owner(), offset as u64, body, last)
        .await
        .unwrap()
}

async fn read_all(store: &LogStore, id: &StreamId) -> Vec<u8> {
    let stream = store.find(id).await.unwrap().expect("the stream exists");
    let mut all = Vec::new();
    loop {
        let piece = store
            .read(&stream, all.len() as u64, READ_BYTES)
            .await
            .unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend_from_slice(&piece);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Plays appends, some of them far ahead, with restarts in between, and then sends the rest as a writer would.
async fn play(
    mut store: LogStore,
    folder: Option<&Path>,
    total: usize,
    steps: &[(usize, usize, bool)],
) {
    let text = content(total);
    for (offset, length, restart) in steps {
        let offset = offset % (total + 1);
        let end = (offset + length).min(total);
        let position = append(&store, offset, &text[offset..end], false).await;
        assert!(position.synced <= position.size && position.size <= total as u64);
        if *restart && let Some(folder) = folder {
            store = LogStore::open(folder).unwrap();
        }
    }
    let have = usize::try_from(append(&store, 0, b"", false).await.size).unwrap();
    let position = append(&store, have, &text[have..], true).await;
    let whole = Position {
        size: total as u64,
        synced: total as u64,
        is_final: true,
    };
    assert_eq!(position, whole);
    assert_eq!(append(&store, total, b"more", false).await, whole);
    assert_eq!(read_all(&store, &id(1)).await, text);
    if let Some(folder) = folder {
        assert_eq!(
            read_all(&LogStore::open(folder).unwrap(), &id(1)).await,
            text
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn overlapping_appends_with_restarts_give_the_same_bytes(
        total in 0usize..5000,
        steps in proptest::collection::vec((0usize..5000, 0usize..900, proptest::bool::ANY), 0..12),
    ) {
        runtime().block_on(async {
            let folder = tempfile::tempdir().unwrap();
            play(LogStore::open(folder.path()).unwrap(), Some(folder.path()), total, &steps).await;
            play(LogStore::in_memory(), None, total, &steps).await;
        });
    }
}

#[tokio::test]
async fn a_long_stream_is_sealed_in_chunks_and_read_across_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path()).unwrap();
    let text = content(9 << 20);
    let mut at = 0;
    while at < text.len() {
        let end = (at + MAX_APPEND_BYTES).min(text.len());
        append(&store, at, &text[at..end], false).await;
        at = end;
    }
    let position = append(&store, at, b"", false).await;
    assert_eq!(position.size, text.len() as u64);
    assert!(position.synced >= SEAL_BYTES, "a sealed chunk is durable");
    assert_eq!(read_all(&store, &id(1)).await, text);
    assert_eq!(
        read_all(&LogStore::open(folder.path()).unwrap(), &id(1)).await,
        text
    );
}

#[tokio::test]
async fn synced_moves_only_with_a_sync() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path()).unwrap();
    assert_eq!(append(&store, 0, b"hello", false).await.synced, 0);
    store.sync_dirty().await;
    assert_eq!(append(&store, 5, b"", false).await.synced, 5);
    assert_eq!(append(&store, 5, b"!", false).await.synced, 5);
    let reopened = LogStore::open(folder.path()).unwrap();
    let position = append(&reopened, 6, b"", false).await;
    assert_eq!(
        (position.size, position.synced),
        (6, 0),
        "what a former process synced is not known"
    );
    reopened.sync_dirty().await;
    assert_eq!(append(&reopened, 6, b"", false).await.synced, 6);
}

#[tokio::test]
async fn a_gap_is_refused_with_the_size() {
    let store = LogStore::in_memory();
    assert_eq!(append(&store, 10, b"late", false).await.size, 0);
    assert_eq!(
        append(&store, 10, b"late", true).await,
        Position {
            size: 0,
            synced: 0,
            is_final: false
        }
    );
}

#[tokio::test]
async fn the_latest_attempt_is_the_one_that_has_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    for store in [
        LogStore::open(folder.path()).unwrap(),
        LogStore::in_memory(),
    ] {
        assert_eq!(
            store
                .latest_attempt("jobs.gctl.dev", "u-1", "log")
                .await
                .unwrap(),
            None
        );
        for (attempt, last) in [(2, true), (10, false), (9, true)] {
            store
                .append(&id(attempt), &owner(), 0, Bytes::from_static(b"x"), last)
                .await
                .unwrap();
        }
        assert!(store.find(&id(11)).await.unwrap().is_none());
        assert_eq!(
            store
                .latest_attempt("jobs.gctl.dev", "u-1", "log")
                .await
                .unwrap(),
            Some(10)
        );
    }
}

#[tokio::test]
async fn streams_of_deleted_objects_go_at_the_second_visit_and_followers_are_told() {
    let folder = tempfile::tempdir().unwrap();
    for store in [
        LogStore::open(folder.path()).unwrap(),
        LogStore::in_memory(),
    ] {
        append(&store, 0, b"x", false).await;
        let stream = store.find(&id(1)).await.unwrap().unwrap();
        let progress = stream.progress();
        let alive = |_: &str, owner: &Owner, uid: &str| owner.name == "a" && uid == "u-1";
        let gone = |_: &str, _: &Owner, _: &str| false;
        let missing = store.sweep(&alive, &BTreeSet::new()).await.unwrap();
        assert!(missing.is_empty());
        let missing = store.sweep(&gone, &missing).await.unwrap();
        assert_eq!(missing.len(), 1);
        assert!(store.find(&id(1)).await.unwrap().is_some());
        store.sweep(&gone, &missing).await.unwrap();
        assert!(progress.borrow().ended);
        drop(stream);
        assert!(store.find(&id(1)).await.unwrap().is_none());
        assert_eq!(store.stored_objects().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn names_that_would_leave_the_folder_are_refused() {
    let store = Arc::new(LogStore::in_memory());
    for uid in ["", "..", "a/b", ".hidden"] {
        let bad = StreamId {
            uid: uid.into(),
            ..id(1)
        };
        assert!(
            matches!(store.find(&bad).await, Err(BlobError::Name(_))),
            "{uid:?}"
        );
    }
}
