//! `--pcap`: what userspace receives and sends, and the handshakes that XDP answered, in
//! pcapng files of bounded size and number.
//!
//! The workers do not wait for the disk: frames go through a bounded queue to a thread
//! that writes; what finds no room is counted, and the file says how many.

use super::pcapng::{self, Way};
use crate::proto::{self, Config, Keys};
use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tcp_common::flow::FlowKey;

/// Frames on their way to the file.
const QUEUE: usize = 8192;
/// Handshakes that are remembered, so that each is written once.
const REMEMBERED: usize = 8192;
/// How long frames may lie in memory when it is quiet.
const FLUSH: Duration = Duration::from_millis(100);

const ABOUT: &str =
    "what userspace receives and sends; handshakes that XDP answered are reconstructed";
const SYN: &str = "answered in XDP, reconstructed from the cookie: the window is not known, TSval is that of the ACK";
const SYN_ACK: &str = "made in XDP, reconstructed from the cookie: TSecr is the TSval of the ACK";

/// Where to, and how much at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The file that is being written; older ones have `.1`, `.2`, ... behind it.
    pub path: PathBuf,
    /// Octets of a file.
    pub size: u64,
    /// Files.
    pub count: usize,
}

struct Record {
    at: Duration,
    way: Way,
    frame: Box<[u8]>,
    comment: &'static str,
}

/// A capture under way.
pub struct Capture {
    records: SyncSender<Record>,
    dropped: Arc<AtomicU64>,
    keys: Arc<RwLock<Keys>>,
    thread: JoinHandle<()>,
}

impl Capture {
    /// Creates the first file.
    pub fn create(files: Files, interface: &str) -> io::Result<Writer> {
        Writer::create(files, interface)
    }

    /// Starts the thread.
    pub fn start(writer: Writer, keys: Keys) -> io::Result<Self> {
        let (to, records) = sync_channel(QUEUE);
        let dropped = Arc::clone(&writer.dropped);
        let thread = std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || writer.run(&records))?;
        Ok(Self {
            records: to,
            dropped,
            keys: Arc::new(RwLock::new(keys)),
            thread,
        })
    }

    /// For one worker.
    pub fn recorder(&self, config: &Config) -> Recorder {
        Recorder {
            records: self.records.clone(),
            dropped: Arc::clone(&self.dropped),
            keys: Arc::clone(&self.keys),
            config: config.clone(),
            seen: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    /// After a rotation of the cookie's keys.
    pub fn set_keys(&self, keys: Keys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Writes what is under way and closes the file; the recorders must be gone.
    pub fn finish(self) {
        drop(self.records);
        let _ = self.thread.join();
    }
}

/// Takes the frames of one worker.
pub struct Recorder {
    records: SyncSender<Record>,
    dropped: Arc<AtomicU64>,
    keys: Arc<RwLock<Keys>>,
    config: Config,
    seen: HashSet<(FlowKey, u32)>,
    order: VecDeque<(FlowKey, u32)>,
}

impl Recorder {
    /// A frame that came; before the first of a connection, its handshake.
    pub fn received(&mut self, frame: &[u8]) {
        let keys = *self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let at = now();
        if let Some(handshake) = proto::handshake(&self.config, &keys, frame)
            && self.is_new((handshake.flow, handshake.iss))
        {
            self.send(at, Way::In, handshake.syn.into(), SYN);
            self.send(at, Way::Out, handshake.syn_ack.into(), SYN_ACK);
        }
        self.send(at, Way::In, frame.into(), "");
    }

    /// A frame that goes.
    pub fn sent(&mut self, frame: &[u8]) {
        self.send(now(), Way::Out, frame.into(), "");
    }

    fn is_new(&mut self, handshake: (FlowKey, u32)) -> bool {
        if !self.seen.insert(handshake) {
            return false;
        }
        self.order.push_back(handshake);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }

    fn send(&self, at: Duration, way: Way, frame: Box<[u8]>, comment: &'static str) {
        let record = Record {
            at,
            way,
            frame,
            comment,
        };
        if self.records.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Writes the files.
#[derive(Debug)]
pub struct Writer {
    files: Files,
    interface: String,
    file: BufWriter<File>,
    /// Octets in it.
    written: u64,
    dropped: Arc<AtomicU64>,
    /// How many the last file has told of.
    told: u64,
}

impl Writer {
    /// The file that is being written.
    pub fn path(&self) -> &Path {
        &self.files.path
    }

    fn create(files: Files, interface: &str) -> io::Result<Self> {
        let (file, written) = begin(&files.path, interface)?;
        Ok(Self {
            files,
            interface: interface.to_owned(),
            file,
            written,
            dropped: Arc::default(),
            told: 0,
        })
    }

    fn run(mut self, records: &Receiver<Record>) {
        let result = loop {
            let step = match records.recv_timeout(FLUSH) {
                Ok(record) => self.write(&record),
                Err(RecvTimeoutError::Timeout) => self.file.flush(),
                Err(RecvTimeoutError::Disconnected) => break self.end(),
            };
            if step.is_err() {
                break step;
            }
        };
        if let Err(error) = result {
            eprintln!(
                "tcp-user: --pcap {}: {error}; no more is written",
                self.files.path.display()
            );
        }
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.written + record.frame.len() as u64 > self.files.size {
            self.rotate()?;
        }
        self.written += pcapng::packet(
            &mut self.file,
            record.at,
            record.way,
            &record.frame,
            record.comment,
        )?;
        Ok(())
    }

    /// Says what is missing, and writes it all.
    fn end(&mut self) -> io::Result<()> {
        let dropped = self.dropped.load(Ordering::Relaxed);
        pcapng::statistics(&mut self.file, now(), dropped - self.told)?;
        self.told = dropped;
        self.file.flush()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.end()?;
        for n in (1..self.files.count).rev() {
            let from = if n == 1 {
                self.files.path.clone()
            } else {
                older(&self.files.path, n - 1)
            };
            match std::fs::rename(from, older(&self.files.path, n)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        (self.file, self.written) = begin(&self.files.path, &self.interface)?;
        Ok(())
    }
}

fn begin(path: &Path, interface: &str) -> io::Result<(BufWriter<File>, u64)> {
    let mut file = BufWriter::with_capacity(1 << 18, File::create(path)?);
    let written = pcapng::begin(&mut file, interface, ABOUT)?;
    file.flush()?;
    Ok((file, written))
}

fn older(path: &Path, n: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcp_common::abi::Secrets;

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let directory = std::env::temp_dir().join(format!("tcp-xdp-pcap-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("temporary directory");
        let files = Files {
            path: directory.join("x.pcapng"),
            size: 10_000,
            count: 3,
        };
        let writer = Capture::create(files, "eth0").expect("a file");
        let capture = Capture::start(writer, Secrets::default()).expect("a thread");
        let mut recorder = capture.recorder(&Config::default());
        for n in 0..100_u8 {
            recorder.sent(&[n; 1000]);
        }
        drop(recorder);
        capture.finish();
        let mut found: Vec<(String, u64)> = std::fs::read_dir(&directory)
            .expect("there")
            .map(|entry| {
                let entry = entry.expect("there");
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, entry.metadata().expect("there").len())
            })
            .collect();
        found.sort();
        let newest = std::fs::read(directory.join("x.pcapng")).expect("there");
        std::fs::remove_dir_all(&directory).expect("there");
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x.pcapng", "x.pcapng.1", "x.pcapng.2"]);
        assert!(found.iter().all(|(_, len)| *len < 10_500), "{found:?}");
        assert!(
            newest.windows(1000).any(|w| w == [99; 1000]),
            "the last is in the newest"
        );
    }
}
