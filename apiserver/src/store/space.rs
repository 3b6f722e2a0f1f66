//! Free space: the floor below which nothing is written, and the reserve that lets a full disk be opened.
//!
//! The embedded store must never meet a full disk: it needs space to start, and an append that stops
//! half way makes it unusable until it is opened again. So writes are refused while there is still
//! space, and a file of [`RESERVE_BYTES`] is given up when there is too little to open.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Room, StoreError};

/// Free space below which writes are refused, in bytes. Chosen: several times the largest batch with
/// the pages around it.
pub const FREE_SPACE_FLOOR: u64 = 64 << 20;

/// What opening the store may need, in bytes. Chosen: a segment, a snapshot and room to replay them.
pub(super) const RESERVE_BYTES: u64 = 8 << 20;

const RESERVE_FILE: &str = "reserve";

/// Says how many bytes are free; a seam for tests.
pub(super) type FreeBytes = Box<dyn Fn() -> io::Result<u64> + Send + Sync>;

/// How long, and for how many written bytes, a reading of the free space is good enough. Chosen: a
/// small part of any floor, and what other processes write in that time.
const READING_LASTS: Duration = Duration::from_millis(100);
const READING_BYTES: u64 = 1 << 20;

/// Watches over the free space of one directory.
pub(super) struct Space {
    dir: PathBuf,
    floor: u64,
    free: FreeBytes,
    /// The last reading, where readings may be used again: to ask costs as much as all else that a
    /// commit does beside its write.
    reading: Option<Mutex<Option<Reading>>>,
    /// It was said that there is too little space.
    said: AtomicBool,
}

#[derive(Clone, Copy)]
struct Reading {
    free: u64,
    at: Instant,
    written: u64,
}

impl Space {
    pub(super) fn new(dir: &Path, floor: u64, free: Option<FreeBytes>) -> Self {
        let own = dir.to_owned();
        let reading = free.is_none().then(Mutex::default);
        let free = free.unwrap_or_else(|| Box::new(move || free_bytes(&own)));
        Self {
            dir: dir.to_owned(),
            floor,
            free,
            reading,
            said: AtomicBool::new(false),
        }
    }

    /// Makes sure that there is enough space to open the store: if need be, by calling `release`, which
    /// gives up what is dispensable, and then by giving up the reserve.
    pub(super) fn make_room_to_open(
        &self,
        release: &dyn Fn() -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let needed = RESERVE_BYTES.min(self.floor);
        let io = |source: io::Error| StoreError::Io {
            action: "read the free space of",
            path: self.dir.clone(),
            source: source.into(),
        };
        if (self.free)().map_err(io)? >= needed {
            return Ok(());
        }
        release().map_err(io)?;
        if (self.free)().map_err(io)? >= needed {
            return Ok(());
        }
        let reserve = self.dir.join(RESERVE_FILE);
        let size = fs::metadata(&reserve).map_or(0, |metadata| metadata.len());
        let released = fs::remove_file(&reserve).is_ok();
        let free = (self.free)().map_err(io)?;
        if free >= needed || (released && size >= needed) {
            tracing::warn!(
                free,
                "the disk is full, the reserve was released to open the store"
            );
            return Ok(());
        }
        Err(StoreError::Full {
            path: self.dir.clone(),
            free,
            needed,
        })
    }

    /// Puts the reserve back once there is plenty of space; not having one is no error.
    pub(super) fn restore_reserve(&self) {
        let path = self.dir.join(RESERVE_FILE);
        let missing = fs::metadata(&path).map_or(true, |metadata| metadata.len() < RESERVE_BYTES);
        let plenty = (self.free)().is_ok_and(|free| free >= self.floor + RESERVE_BYTES);
        if !missing || !plenty {
            return;
        }
        let made = File::create(&path).and_then(|file| {
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, flags, 0, RESERVE_BYTES)?;
            file.sync_all()
        });
        if let Err(error) = made {
            tracing::warn!(%error, "the reserve could not be made, a full disk may prevent a start");
            let _ = fs::remove_file(&path);
        }
    }

    /// The free space, as it was a moment and a few of our own writes ago; `written` counts those.
    fn recent(&self, written: u64) -> io::Result<u64> {
        let Some(reading) = &self.reading else {
            return (self.free)();
        };
        let mut reading = reading.lock();
        if let Some(known) = &*reading
            && known.at.elapsed() < READING_LASTS
            && written.saturating_sub(known.written) < READING_BYTES
        {
            return Ok(known.free);
        }
        let free = (self.free)()?;
        let at = Instant::now();
        *reading = Some(Reading { free, at, written });
        Ok(free)
    }

    /// May another batch be written, when `owed` bytes of the free space are spoken for and `written`
    /// bytes have been written so far? When the free space cannot be told, yes.
    pub(super) fn room(&self, owed: u64, written: u64) -> Room {
        let floor = self.floor;
        let free = self.recent(written);
        let room = match free.map(|free| free.saturating_sub(owed)) {
            Ok(free) if free < floor / 2 => Room::None { free, floor },
            Ok(free) if free < floor => Room::Low { free, floor },
            _ => Room::Enough,
        };
        self.say(room);
        room
    }

    /// Whoever runs the server is told once that writes are refused, and once that they are not any more.
    fn say(&self, room: Room) {
        let low = match room {
            Room::Enough => None,
            Room::Low { free, floor } | Room::None { free, floor } => Some((free, floor)),
        };
        if low.is_some() == self.said.load(Ordering::Relaxed) {
            return;
        }
        self.said.store(low.is_some(), Ordering::Relaxed);
        let dir = self.dir.display();
        if let Some((free, floor)) = low {
            tracing::error!(
                %dir, free, needed = floor,
                "the disk is nearly full: writes are refused until there is space, reads go on",
            );
        } else {
            tracing::warn!(%dir, "there is enough space again, writes go on");
        }
    }
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicU64};

    use super::*;

    fn space(dir: &Path) -> (Space, Arc<AtomicU64>) {
        let free = Arc::new(AtomicU64::new(u64::MAX / 2));
        let seen = Arc::clone(&free);
        let free_bytes: FreeBytes = Box::new(move || Ok(seen.load(Ordering::Relaxed)));
        (Space::new(dir, FREE_SPACE_FLOOR, Some(free_bytes)), free)
    }

    #[test]
    fn room_shrinks_from_everything_to_deletes_to_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (space, free) = space(dir.path());
        let floor = FREE_SPACE_FLOOR;
        for (bytes, wanted) in [
            (floor, Room::Enough),
            (
                floor - 1,
                Room::Low {
                    free: floor - 1,
                    floor,
                },
            ),
            (
                floor / 2,
                Room::Low {
                    free: floor / 2,
                    floor,
                },
            ),
            (
                floor / 2 - 1,
                Room::None {
                    free: floor / 2 - 1,
                    floor,
                },
            ),
            (0, Room::None { free: 0, floor }),
        ] {
            free.store(bytes, Ordering::Relaxed);
            assert_eq!(space.room(0, 0), wanted);
        }
    }

    #[test]
    fn the_reserve_is_given_up_once_to_open_a_full_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (space, free) = space(dir.path());
        let reserve = dir.path().join(RESERVE_FILE);
        space.restore_reserve();
        assert_eq!(fs::metadata(&reserve).unwrap().len(), RESERVE_BYTES);

        free.store(0, Ordering::Relaxed);
        space.make_room_to_open(&|| Ok(())).unwrap();
        assert!(!reserve.exists(), "the reserve is still there");
        space.restore_reserve();
        assert!(!reserve.exists(), "the reserve came back on a full disk");

        let error = space.make_room_to_open(&|| Ok(())).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StoreError::Full { .. }), "{text}");
        assert!(text.contains(&*dir.path().to_string_lossy()) && text.contains("free some space"));
    }

    #[test]
    fn the_free_space_of_a_real_directory_is_known() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(dir.path()).unwrap() > 0);
    }
}
