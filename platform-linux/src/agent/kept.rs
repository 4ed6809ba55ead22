//! The flow table in memory that outlives the process, so that connections go on when the agent is restarted.
//!
//! A file on a RAM disk, named after the state directory: gone with a reboot, as the connections are, and no
//! write ever wears out flash. It holds addresses and ports, never keys. A file of another build's layout, of
//! another boot, or of a wrong length is replaced by an empty one; what a killed process left half written, the
//! engine mends. Without a RAM disk the agent works the same but for this.

use crate::sys::mapping;
use edgemesh_core::flow::{AdmittedSlot, FlowSlot};
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// RAM disks, in order of preference.
const PLACES: [&str; 2] = ["/run/edgemesh", "/dev/shm"];
/// Where the slots begin: a page, on every architecture that we build for.
const OFFSET: usize = 65_536;
/// To be changed with every change of the slots' meaning.
const LAYOUT: u32 = 1;

/// Slots of the earlier run, or empty ones.
pub type Slots = (&'static mut [FlowSlot], &'static mut [AdmittedSlot]);

/// The file of the agent with this state directory.
pub fn files(state: &Path) -> impl Iterator<Item = PathBuf> {
    let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    let name = format!("edgemesh-flows-{:016x}", hasher.finish());
    PLACES.into_iter().map(move |place| Path::new(place).join(&name))
}

/// Maps the table of `flows` and `admitted` slots that belongs to the state directory.
///
/// # Errors
/// When there is no RAM disk to keep it on.
pub fn open(state: &Path, flows: usize, admitted: usize) -> io::Result<Slots> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for path in files(state) {
        match open_file(&path, flows, admitted) {
            Ok(slots) => return Ok(slots),
            Err(error) => last = io::Error::new(error.kind(), format!("{}: {error}", path.display())),
        }
    }
    Err(last)
}

/// Removes the table; true when there was one.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(state: &Path) -> io::Result<bool> {
    let mut removed = false;
    for path in files(state) {
        match std::fs::remove_file(&path) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }
    Ok(removed)
}

fn open_file(path: &Path, flows: usize, admitted: usize) -> io::Result<Slots> {
    if let Some(parent) = path.parent().filter(|parent| parent.ends_with("edgemesh")) {
        std::fs::create_dir_all(parent)?;
    }
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let header = header(flows, admitted)?;
    let len = (OFFSET + size_of::<FlowSlot>() * flows + size_of::<AdmittedSlot>() * admitted) as u64;
    let mut found = vec![0; header.len()];
    let same = file.metadata()?.len() == len && file.read_exact(&mut found).is_ok() && found == header;
    if !same {
        reset(&mut file, &header, len)?;
    }
    mapping::flows(&file, OFFSET, flows, admitted)
}

fn reset(file: &mut File, header: &[u8], len: u64) -> io::Result<()> {
    file.set_len(0)?;
    file.set_len(len)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(header)
}

/// What must be equal for the slots to mean the same: layout, sizes, byte order, and the boot, whose clock they use.
fn header(flows: usize, admitted: usize) -> io::Result<Vec<u8>> {
    let mut out = b"EDGEMESH-FLOWS\n".to_vec();
    for n in [LAYOUT as usize, size_of::<FlowSlot>(), flows, size_of::<AdmittedSlot>(), admitted] {
        out.extend_from_slice(&(n as u64).to_ne_bytes());
    }
    out.extend_from_slice(&std::fs::read("/proc/sys/kernel/random/boot_id")?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("edgemesh-kept-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn a_table_of_this_boot_is_taken_over_and_any_other_replaced() {
        let path = scratch("header");
        open_file(&path, 8, 4).unwrap();
        let len = std::fs::metadata(&path).unwrap().len();
        let mark = |at: u64| {
            let mut file = OpenOptions::new().write(true).open(&path).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[7]).unwrap();
        };
        let last = || *std::fs::read(&path).unwrap().last().unwrap();
        mark(len - 1);
        open_file(&path, 8, 4).unwrap();
        assert_eq!(last(), 7, "the same layout is kept");
        open_file(&path, 8, 5).unwrap();
        assert_eq!(last(), 0, "another size starts empty");
        mark(len - 1);
        mark(3);
        open_file(&path, 8, 5).unwrap();
        assert_eq!(last(), 0, "a foreign file starts empty");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn garbage_is_no_reason_to_fail() {
        let path = scratch("garbage");
        std::fs::write(&path, vec![0xFF; 300]).unwrap();
        let (flows, admitted) = open_file(&path, 8, 4).unwrap();
        assert_eq!((flows.len(), admitted.len()), (8, 4));
        std::fs::remove_file(path).unwrap();
    }
}
