//! `/metrics` and `/healthz` for the operator's own machine.
//!
//! ```text
//!   accept ─ room? ─► request line and headers, bounded ─► one answer ─► closed
//! ```
//! Two fixed answers need no web framework: a request is `GET PATH HTTP/1.x`, its headers are read
//! and ignored but for `Host`, a body is not read, the connection ends with the answer.
//!
//! Limits: loopback addresses only; [`MAX_CLIENTS`] at a time; [`MAX_HEAD_BYTES`] of request within
//! [`CLIENT_WAIT`].
//!
//! Security: provides numbers and nothing else, to processes of this machine. A `Host` that is not
//! this machine is refused: a web page whose name was made to lead here reads nothing. Does not
//! provide access control among processes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quorate_identity::Code;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::timeout,
};

use crate::Fault;

/// Clients served at a time; one more waits in the system's queue.
const MAX_CLIENTS: usize = 8;
/// Longest request that is read, in bytes.
const MAX_HEAD_BYTES: usize = 4096;
/// Time for one client, from its connection to the end.
const CLIENT_WAIT: Duration = Duration::from_secs(5);
/// Pause after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Gives the text of a page.
pub(super) trait Pages: Send + Sync + 'static {
    /// For `/metrics`.
    fn metrics(&self) -> String;
    /// For `/healthz`: nothing, or what is wrong.
    fn unhealthy(&self) -> Option<&'static str>;
}

/// The pages, until it is dropped.
#[derive(Debug)]
pub(super) struct HttpServer {
    /// Where.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HttpServer {
    /// Serves `pages` at a loopback address.
    pub async fn start(address: SocketAddr, pages: Arc<dyn Pages>) -> Result<Self, Fault> {
        if !address.ip().is_loopback() {
            let text = format!("{address} is not a loopback address");
            return Err(Fault::new(Code::Address, text)
                .hint("metrics are for this machine only; put a proxy of your own in front"));
        }
        let cannot = |e: std::io::Error| {
            Fault::new(
                Code::Port,
                format!("{address} for metrics cannot be used: {e}"),
            )
            .hint("choose another one with --metrics, or none with --no-metrics")
        };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let task = tokio::spawn(accept(listener, pages));
        Ok(Self { address, task })
    }
}

async fn accept(listener: TcpListener, pages: Arc<dyn Pages>) {
    let room = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let _permit = permit;
            let _ = timeout(CLIENT_WAIT, serve(client, pages)).await;
        });
    }
}

async fn serve(mut client: TcpStream, pages: Arc<dyn Pages>) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(MAX_HEAD_BYTES);
    while !ended(&head) {
        if head.len() >= MAX_HEAD_BYTES {
            return client.write_all(&page(431, "too long\n")).await;
        }
        let left = MAX_HEAD_BYTES - head.len();
        let read = (&mut client).take(left as u64).read_buf(&mut head).await?;
        if read == 0 {
            return Ok(());
        }
    }
    client.write_all(&answer(&head, &*pages)).await?;
    client.shutdown().await
}

fn ended(head: &[u8]) -> bool {
    head.windows(4).any(|w| w == b"\r\n\r\n") || head.windows(2).any(|w| w == b"\n\n")
}

fn answer(head: &[u8], pages: &dyn Pages) -> Vec<u8> {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return page(400, "not a request\n");
    };
    if !is_for_this_machine(head) {
        return page(400, "ask for localhost\n");
    }
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => page(200, &pages.metrics()),
        (Some("GET"), Some("/healthz")) => match pages.unhealthy() {
            None => page(200, "ok\n"),
            Some(why) => page(503, &format!("{why}\n")),
        },
        (Some("GET"), Some(_)) => page(404, "there is /metrics and /healthz\n"),
        (Some(_), Some(_)) => page(405, "only GET\n"),
        _ => page(400, "not a request\n"),
    }
}

/// Whether every `Host` that is named is this machine.
fn is_for_this_machine(head: &[u8]) -> bool {
    let lines = head.split(|b| *b == b'\n').skip(1);
    let headers = lines.map(String::from_utf8_lossy);
    headers.into_iter().all(|header| {
        let Some((name, value)) = header.split_once(':') else {
            return true;
        };
        !name.trim().eq_ignore_ascii_case("host") || is_this_machine(value.trim())
    })
}

fn is_this_machine(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let name = bracketed.map_or_else(|| host.split(':').next().unwrap_or_default(), |(ip, _)| ip);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn page(status: u16, body: &str) -> Vec<u8> {
    let word = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {word}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Fixed(Option<&'static str>);

    impl Pages for Fixed {
        fn metrics(&self) -> String {
            "quorate_relay_circuits 0\n".into()
        }
        fn unhealthy(&self) -> Option<&'static str> {
            self.0
        }
    }

    async fn ask(at: SocketAddr, request: &[u8]) -> String {
        let mut client = TcpStream::connect(at).await.unwrap();
        // A server that refuses early may close while the rest is being written.
        let _ = client.write_all(request).await;
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn pages_are_served_and_everything_else_is_answered_shortly() {
        let any = "127.0.0.1:0".parse().unwrap();
        let server = HttpServer::start(any, Arc::new(Fixed(None))).await.unwrap();
        for (request, status) in [
            ("GET /metrics HTTP/1.1\r\nHost: localhost:9\r\n\r\n", "200"),
            ("GET /metrics HTTP/1.1\r\nhost: 127.0.0.1:9\r\n\r\n", "200"),
            (
                "GET /metrics HTTP/1.1\r\nA: b\r\nHost: [::1]:9\r\n\r\n",
                "200",
            ),
            // A page that made its own name lead here.
            (
                "GET /metrics HTTP/1.1\r\nHost: evil.example:9\r\n\r\n",
                "400",
            ),
            (
                "GET /metrics HTTP/1.1\nA: b\nHOST : evil.example\n\n",
                "400",
            ),
            (
                "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n",
                "400",
            ),
            ("GET /healthz HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", "400"),
            (
                "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: x\r\n\r\n",
                "400",
            ),
            ("GET /healthz HTTP/1.0\n\n", "200"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("\r\n\r\n", "400"),
        ] {
            let answer = ask(server.address, request.as_bytes()).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
        }
        let metrics = ask(server.address, b"GET /metrics HTTP/1.1\r\n\r\n").await;
        assert!(metrics.ends_with("\r\n\r\nquorate_relay_circuits 0\n"));
        let long = ask(server.address, &[b'a'; MAX_HEAD_BYTES]).await;
        assert!(long.starts_with("HTTP/1.1 431 "), "{long}");
        let bytes = ask(server.address, b"\xff\xff / \r\n\r\n").await;
        assert!(bytes.starts_with("HTTP/1.1 400 "), "{bytes}");
    }

    #[tokio::test]
    async fn health_is_told_and_other_machines_are_not_served() {
        let any = "127.0.0.1:0".parse().unwrap();
        let server = HttpServer::start(any, Arc::new(Fixed(Some("draining"))));
        let answer = ask(
            server.await.unwrap().address,
            b"GET /healthz HTTP/1.1\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("draining\n"));
        let everywhere = "0.0.0.0:0".parse().unwrap();
        let refused = HttpServer::start(everywhere, Arc::new(Fixed(None))).await;
        assert_eq!(refused.unwrap_err().code, Code::Address);
    }
}
