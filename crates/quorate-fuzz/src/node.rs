//! Readers of the shell: the guard's first bytes of a stream, the requests and answers of the control socket.

use quorate_node::{
    attach::Attach,
    control::{Answer, Request},
};
use std::{io::Read, net::Shutdown, os::unix::net::UnixStream, sync::LazyLock};
use tokio::{io::AsyncWriteExt as _, runtime::Runtime};

/// Most bytes that one guarded stream brings; they fit a socket's buffer, so nobody has to read meanwhile.
const MAX_STREAM_BYTES: usize = 4096;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime can be made")
});

/// A stream to party 2 of 4: the first byte says from whom, the rest comes in pieces. The program hears exactly what an
/// authenticated lower party says on its own link, and nothing of anybody else.
pub fn guard_hello(data: &[u8]) {
    let Some((from, bytes)) = data.split_first() else {
        return;
    };
    let peer = u16::from(from % 5);
    let bytes = &bytes[..bytes.len().min(MAX_STREAM_BYTES)];
    let heard = RUNTIME.block_on(stream(peer, bytes));
    let said_its_number = bytes.len() >= 2 && u16::from_le_bytes([bytes[0], bytes[1]]) == peer;
    if peer < 2 && said_its_number {
        assert_eq!(heard, bytes);
    } else {
        assert!(heard.is_empty(), "party {peer} was heard: {heard:?}");
    }
}

async fn stream(peer: u16, bytes: &[u8]) -> Vec<u8> {
    let (attach, child, _events) = Attach::prepare(2, 4).expect("socket pairs can be made");
    let ends: Vec<(u16, UnixStream)> = child
        .into_iter()
        .map(|(pid, fd)| (pid, fd.into()))
        .collect();
    for (_, end) in &ends {
        end.shutdown(Shutdown::Write).expect("a fresh socket");
    }
    let (ours, mut theirs) = tokio::io::duplex(MAX_STREAM_BYTES);
    theirs.write_all(bytes).await.expect("it fits");
    theirs.shutdown().await.expect("a fresh stream");
    // The result says whether it was refused; what was delivered is looked at below.
    let _ = attach.run_inbound(peer, ours).await;
    attach.close();
    drop(attach);
    let mut heard = Vec::new();
    for (pid, mut end) in ends {
        let mut one = Vec::new();
        end.read_to_end(&mut one).expect("the other end is gone");
        assert!(
            pid == peer || one.is_empty(),
            "bytes of {peer} on the link of {pid}"
        );
        heard.extend(one);
    }
    heard
}

/// Lines of the control socket, in both directions.
pub fn control(data: &[u8]) {
    if let Ok(request) = Request::parse(data) {
        let line = request.line();
        let again = Request::parse(line.strip_suffix(b"\n").unwrap_or(&line));
        assert_eq!(again.expect("its own line"), request);
    }
    if let Ok(answer) = Answer::parse(data) {
        let text = serde_json::to_vec(&answer).expect("what was read can be written");
        assert_eq!(Answer::parse(&text).expect("its own text"), answer);
    }
}
