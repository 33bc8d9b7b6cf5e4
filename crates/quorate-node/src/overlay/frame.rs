//! Frames on a session stream: four bytes of length, big endian, then that many bytes.
//!
//! Limits: a frame has 1 to [`MAX_FRAME_BYTES`] bytes; a frame that began must end within
//! [`FRAME_TIMEOUT`] in either direction. The length is checked before anything is allocated, so a
//! peer costs at most one frame of memory. What is inside a frame is not looked at here.

use std::{io, time::Duration};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// Largest frame on a link.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;
/// A frame that began must be complete within this time, read or written.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of the length in front of each frame.
const LENGTH_BYTES: usize = 4;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {0} bytes, allowed are 1 to {MAX_FRAME_BYTES}")]
    Size(u64),
    #[error("the stream ended inside a frame")]
    Truncated,
    #[error("a frame took longer than {} s", FRAME_TIMEOUT.as_secs())]
    Timeout,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads one frame; `None` when the peer closed its side between two frames.
pub(super) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<Option<Vec<u8>>, FrameError> {
    let mut length = [0; LENGTH_BYTES];
    // The wait for the first byte has no limit: a healthy link may be silent.
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    let rest = async {
        exact(stream, &mut length[1..]).await?;
        let length = u32::from_be_bytes(length);
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes == 0 || bytes > MAX_FRAME_BYTES {
            return Err(FrameError::Size(length.into()));
        }
        let mut frame = vec![0; bytes];
        exact(stream, &mut frame).await?;
        Ok(Some(frame))
    };
    timeout(FRAME_TIMEOUT, rest)
        .await
        .map_err(|_| FrameError::Timeout)?
}

async fn exact<S: AsyncRead + Unpin>(stream: &mut S, bytes: &mut [u8]) -> Result<(), FrameError> {
    stream.read_exact(bytes).await.map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Truncated,
        _ => FrameError::Io(e),
    })
}

/// Writes one frame and flushes it.
pub(super) async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    frame: &[u8],
) -> Result<(), FrameError> {
    let length = u32::try_from(frame.len())
        .ok()
        .filter(|_| (1..=MAX_FRAME_BYTES).contains(&frame.len()))
        .ok_or(FrameError::Size(frame.len() as u64))?;
    let all = async {
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(frame).await?;
        stream.flush().await
    };
    timeout(FRAME_TIMEOUT, all)
        .await
        .map_err(|_| FrameError::Timeout)?
        .map_err(FrameError::Io)
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    fn read_all(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<FrameError>) {
        run(async {
            let mut stream = Cursor::new(bytes);
            let mut frames = Vec::new();
            loop {
                match read(&mut stream).await {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => return (frames, None),
                    Err(error) => return (frames, Some(error)),
                }
            }
        })
    }

    #[test]
    fn written_frames_are_read_again() {
        let frames = [vec![1], vec![2; 1000], vec![3; MAX_FRAME_BYTES]];
        let mut wire = Vec::new();
        run(async {
            for frame in &frames {
                write(&mut wire, frame).await.expect("within limits");
            }
        });
        let (read, error) = read_all(&wire);
        assert!(error.is_none());
        assert_eq!(read, frames);
    }

    #[test]
    fn wrong_sizes_are_refused_in_both_directions() {
        for size in [0, MAX_FRAME_BYTES + 1] {
            let refused = run(write(&mut Vec::new(), &vec![0; size]));
            assert!(matches!(refused, Err(FrameError::Size(_))));
            let length = u32::try_from(size).expect("small").to_be_bytes();
            let (_, error) = read_all(&length);
            assert!(matches!(error, Some(FrameError::Size(_))), "{error:?}");
        }
        let (_, error) = read_all(&[0xff; 64]);
        assert!(matches!(error, Some(FrameError::Size(_))));
    }

    #[test]
    fn an_end_inside_a_frame_is_named() {
        let (_, error) = read_all(&[0, 0]);
        assert!(matches!(error, Some(FrameError::Truncated)));
        let (_, error) = read_all(&[0, 0, 0, 5, 1, 2]);
        assert!(matches!(error, Some(FrameError::Truncated)));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_frames_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let (frames, error) = read_all(&bytes);
            let taken: usize = frames.iter().map(|f| f.len() + LENGTH_BYTES).sum();
            prop_assert!(taken <= bytes.len());
            prop_assert!(error.is_some() || taken == bytes.len());
        }
    }
}
