//! The floor: the cheapest server that could answer a produce workload at all.
//!
//! One thread. Per wake-up of a connection one recv, CRC32C over what came, one pwrite of it, one send of all the answers.
//! It keeps no topics and answers nothing but Produce: it is the denominator of "close to the limit", not a broker.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::event::epoll;

/// Bytes of a connection's buffer: the largest request and what comes with it.
const BUFFER_BYTES: usize = 2 << 20;
/// Bytes of an answer with its length, about those of a produce response.
const ANSWER_BYTES: usize = 60;
/// A file is followed by the next here, as a broker's segment is.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Files that are kept.
const FILES_MAX: u64 = 16;
/// The listener's number among the events.
const LISTENER: u64 = u64::MAX;

struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    have: usize,
}

/// The files that everything is written to.
struct Log {
    folder: PathBuf,
    number: u64,
    file: File,
    at: u64,
    checksums: u32,
}

/// Serves until the process is killed.
///
/// # Errors
/// The port or a file cannot be had.
pub fn serve(port: u16, folder: &Path) -> Result<()> {
    let listener =
        TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("listening on port {port}"))?;
    let mut log = Log::create(folder)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watch = |number: u64, socket: &dyn std::os::fd::AsFd| {
        epoll::add(
            &epoll,
            socket.as_fd(),
            epoll::EventData::new_u64(number),
            epoll::EventFlags::IN,
        )
    };
    watch(LISTENER, &listener)?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut answers = Vec::new();
    let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
    loop {
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for sockets"),
        }
        for event in events.drain(..) {
            let number = event.data.u64();
            if number == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                watch(peers.len() as u64, &stream)?;
                peers.push(Some(Peer {
                    stream,
                    buffer: vec![0; BUFFER_BYTES],
                    have: 0,
                }));
                continue;
            }
            let place = &mut peers[usize::try_from(number).expect("the number of a peer")];
            if let Some(peer) = place
                && !wake(peer, &mut log, &mut answers)?
            {
                *place = None;
            }
        }
    }
}

/// Takes what came; false when the peer is gone.
fn wake(peer: &mut Peer, log: &mut Log, answers: &mut Vec<u8>) -> Result<bool> {
    match peer.stream.read(&mut peer.buffer[peer.have..]) {
        Ok(0) => return Ok(false),
        Ok(count) => peer.have += count,
        Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
        Err(_) => return Ok(false),
    }
    answers.clear();
    let mut taken = 0;
    while let Some(length) = peer.buffer[taken..peer.have].first_chunk::<4>() {
        let end = taken + 4 + u32::from_be_bytes(*length) as usize;
        if end > peer.have {
            break;
        }
        log.checksums ^= crc32c::crc32c(&peer.buffer[taken + 4..end]);
        answer(&peer.buffer[taken..end], answers);
        taken = end;
    }
    if taken == 0 {
        return Ok(true);
    }
    log.append(&peer.buffer[..taken])?;
    peer.buffer.copy_within(taken..peer.have, 0);
    peer.have -= taken;
    // A peer that has gone shows at the next recv.
    _ = peer.stream.write_all(answers);
    Ok(true)
}

/// The length, the request's correlation id, and zeros: no error, no topics.
fn answer(request: &[u8], answers: &mut Vec<u8>) {
    let start = answers.len();
    answers.resize(start + ANSWER_BYTES, 0);
    let length = u32::try_from(ANSWER_BYTES - 4).expect("a small number");
    answers[start..start + 4].copy_from_slice(&length.to_be_bytes());
    if let Some(correlation_id) = request.get(8..12) {
        answers[start + 4..start + 8].copy_from_slice(correlation_id);
    }
}

impl Log {
    fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let file = File::create(path(folder, 0))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            number: 0,
            file,
            at: 0,
            checksums: 0,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.at > FILE_BYTES_MAX {
            self.roll()?;
        }
        self.file
            .write_all_at(bytes, self.at)
            .context("writing the floor's file")?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn roll(&mut self) -> Result<()> {
        self.number += 1;
        self.file =
            File::create(path(&self.folder, self.number)).context("creating the floor's next file")?;
        self.at = 0;
        if let Some(old) = self.number.checked_sub(FILES_MAX) {
            let old = path(&self.folder, old);
            // Giving back a file's pages takes tens of milliseconds; a file that stays only takes room.
            std::thread::spawn(move || _ = fs::remove_file(old));
        }
        Ok(())
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.log"))
}
