//! A disk for tests that can lose power at any operation: what was not synced is gone, and the write
//! under way is there in part.

use std::{collections::BTreeMap, io, sync::Arc};

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// A flat folder in memory; clones are the same one.
#[derive(Clone, Default)]
pub(in crate::store) struct SimulatedDisk {
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    files: Vec<Vec<u8>>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// How many operations are left until the power goes, and a seed for what then survives.
    cut: Option<(usize, u64)>,
    off: bool,
    /// Bytes that may still be allocated.
    space: Option<usize>,
}

impl SimulatedDisk {
    /// Lets the power go at the `n`th operation from now; `seed` says what survives of it.
    pub(in crate::store) fn cut_after(&self, n: usize, seed: u64) {
        self.world.lock().cut = Some((n, seed));
    }

    /// Lets the power go now, if it has not gone yet, and come back.
    pub(in crate::store) fn restart(&self) {
        let mut world = self.world.lock();
        if !world.off {
            world.names = world.durable_names.clone();
        }
        (world.off, world.cut) = (false, None);
    }

    /// Lets only so many more bytes be allocated.
    pub(in crate::store) fn limit_space(&self, bytes: Option<usize>) {
        self.world.lock().space = bytes;
    }

    /// Changes a file behind the journal's back.
    pub(in crate::store) fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world.lock();
        let file = world.names[name];
        change(&mut world.files[file]);
    }
}

impl World {
    /// Counts an operation; the seed, if the power goes during it.
    fn operate(&mut self) -> io::Result<Option<u64>> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        let Some((left, seed)) = &mut self.cut else {
            return Ok(None);
        };
        if *left > 0 {
            *left -= 1;
            return Ok(None);
        }
        let seed = *seed;
        self.off = true;
        self.names = self.durable_names.clone();
        Ok(Some(seed))
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        let file = self.names.get(name).copied();
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimulatedDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.world.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut world = self.world.lock();
        world.operate()?;
        let next = world.files.len();
        let file = *world.names.entry(name.to_owned()).or_insert(next);
        if file == next {
            world.files.push(Vec::new());
        }
        let world = Arc::clone(&self.world);
        Ok(Box::new(SimulatedFile { world, file }))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let world = self.world.lock();
        Ok(world.files[world.find(name)?].clone())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        world.operate()?;
        let file = world.find(from)?;
        world.names.remove(from);
        world.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        world.operate()?;
        world.find(name)?;
        world.names.remove(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut world = self.world.lock();
        let names = world.names.clone();
        match world.operate()? {
            // All of it, or nothing.
            Some(seed) if seed.is_multiple_of(2) => {}
            _ => world.durable_names = names,
        }
        if world.off {
            world.names = world.durable_names.clone();
            return Err(io::Error::other("the power is off"));
        }
        Ok(())
    }
}

struct SimulatedFile {
    world: Arc<Mutex<World>>,
    file: usize,
}

impl DiskFile for SimulatedFile {
    fn write_durably(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut world = self.world.lock();
        let cut = world.operate()?;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let end = at + bytes.len();
        let grown = end.saturating_sub(world.files[self.file].len());
        if let Some(space) = &mut world.space {
            if *space < grown {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *space -= grown;
        }
        let file = &mut world.files[self.file];
        file.resize(file.len().max(end), 0);
        let mut random = cut.unwrap_or_default();
        for (n, sector) in bytes.chunks(SECTOR).enumerate() {
            // A linear congruence is random enough to choose sectors.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            if cut.is_none() || random >> 62 != 0 {
                let start = at + n * SECTOR;
                file[start..start + sector.len()].copy_from_slice(sector);
            }
        }
        match cut {
            Some(_) => Err(io::Error::other("the power is off")),
            None => Ok(()),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.world.lock().files[self.file].len() as u64)
    }
}
