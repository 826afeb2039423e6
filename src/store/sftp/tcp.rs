//! TCP connections that notice when the other side is gone.
//!
//! SSH's keepalive does not fire while the send buffer is full, so the kernel must give up on unacknowledged bytes by
//! itself (TCP_USER_TIMEOUT). And whoever gives up on a connection must be able to end it at once, whatever task is
//! waiting on it: a [`Severed`] does so when it is dropped.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::options::Times;
use crate::store::StoreError;

/// Before the next address of a host is tried beside the last one (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// A connection is young while it logs in; OpenSSH sends about 3 KB by then.
const YOUNG_BYTES: usize = 16 * 1024;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Ends a connection when it is dropped, even while others read from it or write to it.
#[derive(Debug)]
pub struct Severed(Socket);

impl Severed {
    /// Ends the connection now.
    pub fn cut(&self) {
        // It may be closed already.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

impl Drop for Severed {
    fn drop(&mut self) {
        self.cut();
    }
}

/// A connection that acknowledges what it receives at once while it is young. sshd does not turn Nagle's algorithm off: its
/// next packet waits for the acknowledgement of the last one, and the kernel would wait 40 ms with that.
#[derive(Debug)]
pub struct Stream {
    inner: TcpStream,
    young_bytes: usize,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if self.young_bytes > 0 {
            self.young_bytes = self.young_bytes.saturating_sub(buffer.filled().len() - before);
            // The kernel forgets it by itself, and it is no more than a wish.
            let _ = SockRef::from(&self.inner).set_tcp_quickack(true);
        }
        outcome
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Connects to the first address of the host that answers, trying the next one when the last is slow.
///
/// # Errors
/// [`StoreError::Unreachable`], with the reason of each address.
pub async fn connect(host: &str, port: u16, times: &Times) -> Result<(Stream, Severed), StoreError> {
    let unreachable = |why: String| StoreError::Unreachable(format!("{host} port {port}: {why}"));
    let work = async {
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.take(ADDRESSES_MAX).collect();
        race(host, addresses).await
    };
    let timed_out = |_| unreachable(format!("no answer for {} s", times.connect.as_secs_f32()));
    let stream =
        tokio::time::timeout(times.connect, work).await.map_err(timed_out)?.map_err(|e| unreachable(e.to_string()))?;
    let severed = prepare(&stream, times).map_err(|e| unreachable(e.to_string()))?;
    Ok((Stream { inner: stream, young_bytes: YOUNG_BYTES }, severed))
}

async fn race(host: &str, addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut tries = JoinSet::new();
    for (number, address) in addresses.into_iter().enumerate() {
        let delay = NEXT_ADDRESS_AFTER * u32::try_from(number).unwrap_or(u32::MAX);
        tries.spawn(async move {
            tokio::time::sleep(delay).await;
            TcpStream::connect(address).await.map_err(|e| (address, e))
        });
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    while let Some(outcome) = tries.join_next().await {
        match outcome {
            Ok(Ok(stream)) => return Ok(stream),
            // The caller names the host: an address that it was given is not said twice.
            Ok(Err((address, e))) if address.ip().to_string() == host => last = e,
            Ok(Err((address, e))) => last = io::Error::new(e.kind(), format!("{address}: {e}")),
            Err(e) => last = io::Error::other(e),
        }
    }
    Err(last)
}

fn prepare(stream: &TcpStream, times: &Times) -> io::Result<Severed> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(times.keepalive).with_interval(times.keepalive))?;
    socket.set_tcp_user_timeout(Some(times.unacknowledged))?;
    Ok(Severed(socket.try_clone()?))
}
