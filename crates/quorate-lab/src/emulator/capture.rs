//! Packets as a capture file that tcpdump and Wireshark read.
//!
//! Source: the classic pcap format, link type 101 (raw IP).

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// A capture stops growing here.
pub const MAX_CAPTURE_BYTES: u64 = 256 << 20;

/// A capture file that grows up to [`MAX_CAPTURE_BYTES`].
#[derive(Debug)]
pub struct Capture {
    file: BufWriter<File>,
    written: u64,
}

impl Capture {
    /// A new file.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
            file.write_all(&word.to_ne_bytes())?;
        }
        Ok(Self { file, written: 24 })
    }

    /// One packet, now. A capture that cannot be written ends; the network goes on.
    pub fn packet(&mut self, packet: &[u8]) {
        if self.written >= MAX_CAPTURE_BYTES {
            return;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let header = [seconds, now.subsec_micros(), length, length];
        let written = header
            .iter()
            .try_for_each(|w| self.file.write_all(&w.to_ne_bytes()))
            .and_then(|()| self.file.write_all(packet));
        self.written = match written {
            Ok(()) => self.written + 16 + packet.len() as u64,
            Err(_) => MAX_CAPTURE_BYTES,
        };
    }

    /// Makes what was captured visible in the file.
    pub fn flush(&mut self) {
        let _ = self.file.flush();
    }
}
