//! What the machine can do at all, measured in a few seconds before each run: figures of two machines compare only beside
//! these.

use std::fmt;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::clock::{self, Nanos, SECOND};
use crate::latency::Latencies;
use crate::{proc, systems};

/// How long each of the short measurements takes.
const SPAN: Nanos = SECOND / 4;
/// Bytes of a block that is copied or summed.
const BLOCK: usize = 1 << 20;
/// Bytes of one write.
const PIECE: usize = 64 << 10;
/// Bytes of the file that is written and read.
const FILE_BYTES: u64 = 512 << 20;
/// Bytes of a ping.
const PING: usize = 100;

/// What the machine can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Copying memory.
    pub memcpy_gb_per_s: f64,
    /// Checksums of the crate that the broker uses.
    pub crc32c_gb_per_s: f64,
    /// The cheapest system call.
    pub syscall_ns: f64,
    /// Writing to the page cache in pieces of 64 KiB, when the pages were used before.
    pub pwrite_cpu_s_per_gb: f64,
    /// A message over loopback and back, median.
    pub ping_pong_ms: f64,
    /// 4 KiB written and on the disk, median.
    pub fdatasync_ms: f64,
    /// Reading a file that is not in memory.
    pub disk_read_mb_per_s: f64,
}

impl Calibration {
    /// Measures; files are written below `folder`.
    ///
    /// # Errors
    /// A file or a connection cannot be had.
    pub fn measure(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let folder = tempfile::Builder::new()
            .prefix("odradek-calibrate-")
            .tempdir_in(folder)?;
        let file = folder.path().join("file");
        // The first pass takes new pages, the second those of the first.
        write_file(&file)?;
        let pwrite_cpu_s_per_gb = write_file(&file)?;
        Ok(Self {
            memcpy_gb_per_s: memcpy(),
            crc32c_gb_per_s: checksum(),
            syscall_ns: syscall(),
            pwrite_cpu_s_per_gb,
            ping_pong_ms: ping_pong()?,
            fdatasync_ms: fdatasync(&folder.path().join("synced"))?,
            disk_read_mb_per_s: read_file(&file)?,
        })
    }
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "memcpy {:.1} GB/s, CRC32C {:.1} GB/s, system call {:.0} ns, pwrite to used pages {:.2} CPU-s/GB,",
            self.memcpy_gb_per_s, self.crc32c_gb_per_s, self.syscall_ns, self.pwrite_cpu_s_per_gb
        )?;
        writeln!(
            f,
            "loopback ping-pong {:.3} ms, 4 KiB and fdatasync {:.1} ms, disk read {:.0} MB/s.",
            self.ping_pong_ms, self.fdatasync_ms, self.disk_read_mb_per_s
        )
    }
}

/// Nanoseconds of one call of `work`, which is repeated for a while.
fn nanoseconds_of(mut work: impl FnMut()) -> f64 {
    let began = clock::now();
    let mut rounds = 0_u64;
    loop {
        work();
        rounds += 1;
        let elapsed = clock::now() - began;
        if elapsed >= SPAN {
            return elapsed as f64 / rounds as f64;
        }
    }
}

fn memcpy() -> f64 {
    let (from, mut to) = (vec![1_u8; BLOCK], vec![0_u8; BLOCK]);
    BLOCK as f64 / nanoseconds_of(|| black_box(&mut to).copy_from_slice(black_box(&from)))
}

fn checksum() -> f64 {
    let block = vec![7_u8; BLOCK];
    BLOCK as f64
        / nanoseconds_of(|| {
            black_box(crc32c::crc32c(black_box(&block)));
        })
}

fn syscall() -> f64 {
    const CALLS: u32 = 1000;
    let calls = || {
        for _ in 0..CALLS {
            black_box(rustix::process::getppid());
        }
    };
    nanoseconds_of(calls) / f64::from(CALLS)
}

/// Writes the file anew; CPU seconds of this process per GB.
fn write_file(path: &Path) -> Result<f64> {
    let piece = vec![5_u8; PIECE];
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let before = proc::cpu_seconds(std::process::id())?;
    let mut at = 0;
    while at < FILE_BYTES {
        file.write_all_at(&piece, at)?;
        at += PIECE as u64;
    }
    let used = proc::cpu_seconds(std::process::id())? - before;
    Ok(used * 1e9 / FILE_BYTES as f64)
}

/// MB/s of reading the file after it was put on the disk and dropped from memory.
fn read_file(path: &Path) -> Result<f64> {
    systems::page_cache::drop_file(path)?;
    let mut file = File::open(path)?;
    let mut piece = vec![0_u8; BLOCK];
    let began = clock::now();
    let mut bytes = 0;
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => bytes += count,
        }
    }
    Ok(bytes as f64 * 1e3 / (clock::now() - began) as f64)
}

fn fdatasync(path: &Path) -> Result<f64> {
    let mut file = File::create(path)?;
    let mut latencies = Latencies::new();
    let limit = clock::now() + 4 * SPAN;
    while clock::now() < limit {
        let began = clock::now();
        file.write_all(&[3; 4096])?;
        rustix::fs::fdatasync(file.as_fd())?;
        latencies.record(began, clock::now());
    }
    Ok(latencies.percentile_ms(50.0))
}

fn ping_pong() -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut ping = [0; PING];
        while stream.read_exact(&mut ping).is_ok() {
            stream.write_all(&ping)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut latencies = Latencies::new();
    let limit = clock::now() + SPAN;
    let mut ping = [9; PING];
    while clock::now() < limit {
        let began = clock::now();
        stream.write_all(&ping)?;
        stream.read_exact(&mut ping)?;
        latencies.record(began, clock::now());
    }
    drop(stream);
    echo.join()
        .map_err(|_| anyhow!("the echoing thread panicked"))??;
    Ok(latencies.percentile_ms(50.0))
}
