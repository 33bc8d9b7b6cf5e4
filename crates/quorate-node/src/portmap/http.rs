//! One request to the router's web server, as UPnP needs it, and its answer.
//!
//! A general client would follow redirections, keep connections and read whatever comes. This one talks to the one
//! address it is given, once, and stops at [`MAX_ANSWER_BYTES`] or after [`ANSWER_WAIT`].
//!
//! Source: RFC 9112.

use std::{net::SocketAddrV4, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Bytes of an answer, with its header.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// From the first packet to the last byte.
pub const ANSWER_WAIT: Duration = Duration::from_secs(3);

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The text.
    pub body: String,
}

/// Sends a request and reads the answer. `None`: none, or not one of this kind.
pub async fn ask(server: SocketAddrV4, request: &str) -> Option<Answer> {
    let talk = async {
        let mut stream = TcpStream::connect(server).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let count = stream.read(&mut piece).await.ok()?;
            bytes.extend_from_slice(&piece[..count]);
            if bytes.len() > MAX_ANSWER_BYTES {
                return None;
            }
            match read(&bytes, count == 0) {
                Reading::More => {}
                Reading::Done(answer) => return answer,
            }
        }
    };
    timeout(ANSWER_WAIT, talk).await.ok().flatten()
}

#[derive(Debug, PartialEq, Eq)]
enum Reading {
    /// The answer goes on.
    More,
    /// That was all; `None` if it makes no sense.
    Done(Option<Answer>),
}

/// Reads what has come so far; `ended` says that no more will.
fn read(bytes: &[u8], ended: bool) -> Reading {
    let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return if ended {
            Reading::Done(None)
        } else {
            Reading::More
        };
    };
    let (head, body) = (&bytes[..at], &bytes[at + 4..]);
    let Some((status, length)) = std::str::from_utf8(head).ok().and_then(header) else {
        return Reading::Done(None);
    };
    let whole = match length {
        Length::Known(length) if body.len() >= length => Some(body[..length].to_vec()),
        Length::Chunks => match chunks(body) {
            Ok(whole) => whole,
            Err(Garbled) => return Reading::Done(None),
        },
        Length::ToTheEnd if ended => Some(body.to_vec()),
        _ => None,
    };
    match whole {
        Some(body) => Reading::Done(
            String::from_utf8(body)
                .ok()
                .map(|body| Answer { status, body }),
        ),
        None if ended => Reading::Done(None),
        None => Reading::More,
    }
}

enum Length {
    Known(usize),
    Chunks,
    ToTheEnd,
}

fn header(head: &str) -> Option<(u16, Length)> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    let status = words.next()?.parse().ok()?;
    let mut length = Length::ToTheEnd;
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            length = Length::Chunks;
        } else if name.eq_ignore_ascii_case("content-length") && !matches!(length, Length::Chunks) {
            length = Length::Known(value.parse().ok()?);
        }
    }
    Some((status, length))
}

struct Garbled;

/// Joins chunks; `None` while the last one has not come.
fn chunks(mut rest: &[u8]) -> Result<Option<Vec<u8>>, Garbled> {
    let mut whole = Vec::new();
    loop {
        let Some(at) = rest.windows(2).position(|w| w == b"\r\n") else {
            return Ok(None);
        };
        let line = std::str::from_utf8(&rest[..at]).map_err(|_| Garbled)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| Garbled)?;
        if size == 0 {
            return Ok(Some(whole));
        }
        if size > MAX_ANSWER_BYTES {
            return Err(Garbled);
        }
        rest = &rest[at + 2..];
        let Some(piece) = rest.get(..size) else {
            return Ok(None);
        };
        whole.extend_from_slice(piece);
        match rest.get(size..size + 2) {
            None => return Ok(None),
            Some(b"\r\n") => rest = &rest[size + 2..],
            Some(_) => return Err(Garbled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(text: &str, ended: bool) -> Option<(u16, String)> {
        match read(text.as_bytes(), ended) {
            Reading::Done(answer) => answer.map(|a| (a.status, a.body)),
            Reading::More => Some((0, "more".into())),
        }
    }

    #[test]
    fn the_three_ways_to_say_how_long_an_answer_is() {
        let hello = Some((200, "hello".to_owned()));
        let more = Some((0, "more".to_owned()));
        let known = "HTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\n\r\nhello";
        let open = "HTTP/1.0 200 OK\r\nServer: x\r\n\r\nhello";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
        assert_eq!(done(known, false), hello);
        assert_eq!(done(open, true), hello);
        assert_eq!(done(open, false), more);
        assert_eq!(done(chunked, false), hello);
        for cut in 1..known.len() {
            assert_eq!(done(&known[..cut], false), more, "{cut}");
            assert_eq!(done(&known[..cut], true), None, "{cut}");
        }
    }

    #[test]
    fn what_is_no_answer_ends_without_one() {
        for text in [
            "\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
        ] {
            assert_eq!(done(text, false), None, "{text:?}");
        }
        assert_eq!(
            read(b"HTTP/1.1 200 OK\r\n\r\n\xff", true),
            Reading::Done(None)
        );
    }
}
