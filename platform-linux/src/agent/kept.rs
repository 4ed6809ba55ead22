//! The flow table in memory that outlives the process, so that connections go on when the agent is restarted.
//!
//! A file on a RAM disk, named after the state directory: gone with a reboot, as the connections are, and no
//! write ever wears out flash. It holds addresses and ports, never keys. A file of another build's layout, of
//! another boot, of a wrong length, or that others can write to is replaced by an empty one, and the log says why; what
//! a killed process left half written, the engine mends. Without a RAM disk the agent works the same but for this.
//!
//! The file is sparse. Which slots were ever used, the kernel knows: there is memory behind those. The others are
//! holes, which the engine is told not to look at, so a table costs what its fullest moment needed, whatever its size.

use crate::sys::mapping;
use edgemesh_core::flow::{AdmittedSlot, FlowSlot, Kept};
use rustix::fs::{OFlags, SeekFrom as Seeking, seek};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// RAM disks, in order of preference.
const PLACES: [&str; 2] = ["/run/edgemesh", "/dev/shm"];
/// Where the slots begin: a page, on every architecture that we build for.
const OFFSET: usize = 65_536;
/// What the file is, and the number of the slots' meaning, to be changed with every change of it.
const LAYOUT: &[u8; 17] = b"EDGEMESH-FLOWS 2\n";
/// Numbers behind it.
const SIZES: usize = 4;

/// Slots of the earlier run, or empty ones.
pub type Slots = (Kept<'static, FlowSlot>, Kept<'static, AdmittedSlot>);

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
    let header = header(flows, admitted)?;
    let middle = OFFSET + size_of::<FlowSlot>() * flows;
    let end = middle + size_of::<AdmittedSlot>() * admitted;
    let mut file = open_own(path)?;
    if let Some(why) = refusal(&mut file, &header, end as u64)? {
        if !why.is_empty() {
            refused(path, why);
        }
        reset(&mut file, &header, end as u64)?;
    }
    let used = [used::<FlowSlot>(&file, OFFSET..middle)?, used::<AdmittedSlot>(&file, middle..end)?];
    let (flows, admitted) = mapping::flows(&file, OFFSET, flows, admitted)?;
    Ok((Kept { slots: flows, used: used[0] }, Kept { slots: admitted, used: used[1] }))
}

/// How many slots of the range, from its first, were ever used.
fn used<T>(file: &File, range: Range<usize>) -> io::Result<usize> {
    let bytes = extent(file, range.clone());
    let (slots, rest) = (bytes / size_of::<T>(), bytes % size_of::<T>());
    // A slot that reaches into a hole was never written to its end: what there is of it is none.
    file.write_all_at(&vec![0; rest], (range.start + bytes - rest) as u64)?;
    Ok(slots)
}

/// Bytes of the range up to its last one that is not in a hole; all, where the file system cannot tell.
fn extent(file: &File, range: Range<usize>) -> usize {
    let end = range.end as u64;
    let (mut at, mut last) = (range.start as u64, range.start);
    while at < end {
        let data =
            seek(file, Seeking::Data(at)).and_then(|data| Ok((data, seek(file, Seeking::Hole(data))?)));
        match data {
            Ok((data, hole)) if data < end => (at, last) = (hole, hole.min(end) as usize),
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return range.len(),
        }
    }
    last - range.start
}

/// Opens the file, making it when it is not there, or is not this user's alone: on a RAM disk that everybody may write
/// to, anybody can have put something in its place.
fn open_own(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let nofollow = OFlags::NOFOLLOW.bits() as i32;
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow);
    match options.open(path) {
        Ok(file) => {
            let found = file.metadata()?;
            let own = found.is_file() && found.uid() == geteuid().as_raw() && found.nlink() == 1;
            if own && found.mode() & 0o077 == 0 {
                return Ok(file);
            }
            refused(path, "it is not this user's alone");
        }
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            refused(path, "it is a link");
        }
        Err(error) => return Err(error),
    }
    std::fs::remove_file(path)?;
    options.create_new(true).open(path)
}

/// Why what is in the file cannot be gone on with, if it cannot; nothing to be said of a new file.
fn refusal(file: &mut File, header: &[u8], len: u64) -> io::Result<Option<&'static str>> {
    let size = file.metadata()?.len();
    let mut found = vec![0; header.len()];
    if size == 0 {
        return Ok(Some(""));
    }
    if size != len || file.read_exact(&mut found).is_err() {
        return Ok(Some("it has another size than this build's: it was cut off, or is of another build"));
    }
    let (kind, sizes) = (LAYOUT.len(), LAYOUT.len() + SIZES * size_of::<u64>());
    Ok(if found == header {
        None
    } else if found[..kind] != header[..kind] {
        Some("it is damaged, or of another build")
    } else if found[..sizes] != header[..sizes] {
        Some("its slots are of another build")
    } else {
        Some("it is of another boot")
    })
}

fn refused(path: &Path, why: &str) {
    tracing::warn!(file = %path.display(), "flow table of an earlier run refused, beginning with an empty one: {why}");
}

fn reset(file: &mut File, header: &[u8], len: u64) -> io::Result<()> {
    file.set_len(0)?;
    file.set_len(len)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(header)
}

/// What must be equal for the slots to mean the same: layout, sizes, byte order, and the boot, whose clock they use.
fn header(flows: usize, admitted: usize) -> io::Result<Vec<u8>> {
    let mut out = LAYOUT.to_vec();
    let sizes: [usize; SIZES] = [size_of::<FlowSlot>(), flows, size_of::<AdmittedSlot>(), admitted];
    for n in sizes {
        out.extend_from_slice(&(n as u64).to_ne_bytes());
    }
    out.extend_from_slice(&std::fs::read("/proc/sys/kernel/random/boot_id")?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgemesh_core::flow::{Endpoint, Flows, Mesh, NewFlow, PeerRef};
    use edgemesh_core::rng::Rng;
    use edgemesh_core::time::{Duration, Instant};
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Mutex;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("edgemesh-kept-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn write(path: &Path, at: u64, byte: u8) {
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[byte], at).unwrap();
    }

    /// Why the file is refused, `None` when it is taken over.
    fn refused_as(path: &Path, flows: usize, admitted: usize) -> Option<&'static str> {
        let end = OFFSET + size_of::<FlowSlot>() * flows + size_of::<AdmittedSlot>() * admitted;
        let mut file = File::open(path).unwrap();
        refusal(&mut file, &header(flows, admitted).unwrap(), end as u64).unwrap()
    }

    #[test]
    fn a_table_of_this_boot_is_taken_over_and_any_other_replaced() {
        let path = scratch("header");
        open_file(&path, 8, 4).unwrap();
        let len = std::fs::metadata(&path).unwrap().len();
        let last = || *std::fs::read(&path).unwrap().last().unwrap();
        write(&path, len - 1, 7);
        open_file(&path, 8, 4).unwrap();
        assert_eq!(last(), 7, "the same layout is kept");
        assert!(refused_as(&path, 8, 5).unwrap().contains("another size"));
        open_file(&path, 8, 5).unwrap();
        assert_eq!(last(), 0, "another size starts empty");
        for (at, why) in [(3, "damaged"), (15, "another build"), (17, "slots are of"), (60, "another boot")] {
            let before = std::fs::read(&path).unwrap()[at];
            write(&path, len - 1, 7);
            write(&path, at as u64, before ^ 0x10);
            assert!(refused_as(&path, 8, 5).unwrap().contains(why), "byte {at}");
            open_file(&path, 8, 5).unwrap();
            assert_eq!(last(), 0, "byte {at}");
            assert_eq!(refused_as(&path, 8, 5), None, "what replaces it is good");
        }
        for len in [1, 20, OFFSET as u64, len - 1] {
            OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
            assert!(refused_as(&path, 8, 5).unwrap().contains("cut off"), "{len} bytes");
            open_file(&path, 8, 5).unwrap();
        }
        std::fs::remove_file(path).unwrap();
    }

    /// What somebody else has put in its place is neither followed nor written to.
    #[test]
    fn a_file_that_others_can_reach_is_replaced() {
        let (path, other) = (scratch("link"), scratch("other"));
        std::fs::write(&other, b"somebody's").unwrap();
        let ways: [fn(&Path, &Path) -> io::Result<()>; 2] =
            [|other, path| symlink(other, path), |other, path| std::fs::hard_link(other, path)];
        for put in ways {
            put(&other, &path).unwrap();
            open_file(&path, 8, 4).unwrap();
            assert_eq!(std::fs::read(&other).unwrap(), b"somebody's");
            let found = std::fs::symlink_metadata(&path).unwrap();
            assert!(found.is_file() && found.mode() & 0o777 == 0o600);
            std::fs::remove_file(&path).unwrap();
        }
        open_file(&path, 8, 4).unwrap();
        write(&path, OFFSET as u64, 7);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        open_file(&path, 8, 4).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[OFFSET], 0, "everybody could have written it");
        for left in [path, other] {
            std::fs::remove_file(left).unwrap();
        }
    }

    /// Bytes that changed in the slots: what cannot be an entry is left out, the rest goes on, and nothing fails.
    #[test]
    fn slots_that_were_damaged_are_left_out() {
        let path = Path::new("/dev/shm").join(format!("edgemesh-kept-damaged-{}", std::process::id()));
        let now = Instant::ZERO.after(Duration::from_secs(1));
        let mut first = run(&path, 2, now);
        for port in 1..=50 {
            first.open(now, &new(port), &ENDPOINT, 1, &mut Rng::new([2; 32])).unwrap();
        }
        let mut rng = Rng::new([3; 32]);
        for _ in 0..200 {
            let at = rng.below(50 * size_of::<FlowSlot>() as u32);
            write(&path, OFFSET as u64 + u64::from(at), rng.u32() as u8);
        }
        let next = run(&path, 3, now);
        assert!(next.len() <= 50 && next.deadlines().count() == next.len(), "{}", next.len());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn garbage_is_no_reason_to_fail() {
        let path = scratch("garbage");
        std::fs::write(&path, vec![0xFF; 300]).unwrap();
        let (flows, admitted) = open_file(&path, 8, 4).unwrap();
        assert_eq!((flows.slots.len(), admitted.slots.len()), (8, 4));
        assert_eq!((flows.used, admitted.used), (0, 0), "nothing was used");
        std::fs::remove_file(path).unwrap();
    }

    edgemesh_core::memory! {
        struct Memory {
            peers: 2, window: 17, handshakes: 2, flows: 65_536, admitted: 65_536,
            services: 2, ports: 2, endpoints: 2, names: 2, namespaces: 8, side: 8,
        }
    }

    /// The machine of one run of the agent over the file.
    fn run(path: &Path, number: usize, now: Instant) -> Flows<'static> {
        static RUNS: [Mutex<Memory>; 4] = [const { Mutex::new(Memory::ZERO) }; 4];
        let (flows, admitted) = open_file(path, 65_536, 65_536).unwrap();
        let memory = Box::leak(Box::new(RUNS[number].lock().unwrap()));
        Flows::new(now, memory.lend().with_flows(flows, admitted).flows, Mesh::NONE, &mut Rng::new([1; 32]))
    }

    const ENDPOINT: Endpoint =
        Endpoint { peer: PeerRef(2), address: IpAddr::V4(Ipv4Addr::new(172, 17, 0, 3)), port: 8080 };

    fn new(client_port: u16) -> NewFlow {
        NewFlow {
            protocol: 6,
            client: [172, 17, 0, 2].into(),
            client_port,
            vip: [10, 96, 0, 1].into(),
            vip_port: 80,
        }
    }

    /// On a RAM disk the blocks of a file are the pages of it that anyone has touched, be it only to read them.
    #[test]
    fn a_run_that_takes_over_a_few_flows_of_many_touches_few_pages() {
        let path = Path::new("/dev/shm").join(format!("edgemesh-kept-pages-{}", std::process::id()));
        let touched = || std::fs::metadata(&path).unwrap().blocks() * 512;
        let now = Instant::ZERO.after(Duration::from_secs(1));
        let mut first = run(&path, 0, now);
        let empty = touched();
        for port in 1..=200 {
            first.open(now, &new(port), &ENDPOINT, 1, &mut Rng::new([2; 32])).unwrap();
        }
        let used = touched();
        let next = run(&path, 1, now);
        assert_eq!((next.len(), next.deadlines().count()), (200, 200));
        assert_eq!(touched(), used, "no page beyond those of the flows");
        assert!(used - empty <= 200 * size_of::<FlowSlot>() as u64 + 2 * 4_096, "{used} and {empty} bytes");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_was_used_is_told_for_each_array_and_a_hole_before_it_counts() {
        let path = Path::new("/dev/shm").join(format!("edgemesh-kept-used-{}", std::process::id()));
        open_file(&path, 4_096, 4_096).unwrap();
        let middle = OFFSET + 4_096 * size_of::<FlowSlot>();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_at(&[1], (middle - 4_096) as u64).unwrap();
        let (flows, admitted) = open_file(&path, 4_096, 4_096).unwrap();
        assert_eq!((flows.used, admitted.used), (4_096, 0));
        file.write_at(&[1], (middle + 4_096) as u64).unwrap();
        let (_, admitted) = open_file(&path, 4_096, 4_096).unwrap();
        let whole = 8_192 / size_of::<AdmittedSlot>();
        assert_eq!(admitted.used, whole);
        let at = middle + whole * size_of::<AdmittedSlot>();
        file.write_all_at(&[7; 8], at as u64).unwrap();
        let (_, admitted) = open_file(&path, 4_096, 4_096).unwrap();
        let mut begun = [7; 8];
        File::open(&path).unwrap().read_exact_at(&mut begun, at as u64).unwrap();
        assert_eq!((admitted.used, begun), (whole, [0; 8]), "what was begun is no slot");
        std::fs::remove_file(path).unwrap();
    }
}
