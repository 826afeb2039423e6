//! TCP connections that notice when the other side is gone.
//!
//! SSH's keepalive does not fire while the send buffer is full, so the kernel must give up on unacknowledged bytes by
//! itself (TCP_USER_TIMEOUT). And whoever gives up on a connection must be able to end it at once, whatever task is
//! waiting on it: a [`Severed`] does so when it is dropped.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::options::Times;
use crate::store::StoreError;

/// Before the next address of a host is tried beside the last one (RFC 8305, section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Ends a connection when it is dropped, even while others read from it or write to it.
#[derive(Debug)]
pub struct Severed(Socket);

impl Drop for Severed {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// Connects to the first address of the host that answers, trying the next one when the last is slow.
///
/// # Errors
/// [`StoreError::Unreachable`], with the reason of each address.
pub async fn connect(host: &str, port: u16, times: &Times) -> Result<(TcpStream, Severed), StoreError> {
    let unreachable = |why: String| StoreError::Unreachable(format!("{host} port {port}: {why}"));
    let work = async {
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.take(ADDRESSES_MAX).collect();
        race(addresses).await
    };
    let timed_out = |_| unreachable(format!("no answer for {} s", times.connect.as_secs_f32()));
    let stream =
        tokio::time::timeout(times.connect, work).await.map_err(timed_out)?.map_err(|e| unreachable(e.to_string()))?;
    let severed = prepare(&stream, times).map_err(|e| unreachable(e.to_string()))?;
    Ok((stream, severed))
}

async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut tries = JoinSet::new();
    for (number, address) in addresses.into_iter().enumerate() {
        let delay = NEXT_ADDRESS_AFTER * u32::try_from(number).unwrap_or(u32::MAX);
        tries.spawn(async move {
            tokio::time::sleep(delay).await;
            TcpStream::connect(address).await.map_err(|e| io::Error::new(e.kind(), format!("{address}: {e}")))
        });
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    while let Some(outcome) = tries.join_next().await {
        match outcome {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => last = e,
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
