//! A TCP proxy that harms what passes.

#![allow(dead_code, reason = "each test binary takes what it needs")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Up,
    Down,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    None,
    /// Both directions end after so many bytes one way.
    Cut(Way, usize),
    /// Nothing more passes one way after so many bytes, and nobody says so.
    Stall(Way, usize),
    /// Each byte travels alone.
    Dribble,
}

/// A running proxy; connections end when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    up: Arc<AtomicUsize>,
    down: Arc<AtomicUsize>,
}

impl Proxy {
    /// Passes on to `upstream`; `harm` tells what happens to each connection, by its number from 0.
    pub fn start(upstream: SocketAddr, harm: impl Fn(usize) -> Harm + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicUsize::new(0));
        let (up, down) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted, went_up, went_down) = (stop.clone(), connections.clone(), up.clone(), down.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let harm = harm(counted.fetch_add(1, Ordering::Relaxed));
                let Ok(server) = TcpStream::connect(upstream) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                for (from, to, way) in [(&client, &server, Way::Up), (&server, &client, Way::Down)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let stopped = stopped.clone();
                    let went = if way == Way::Up { went_up.clone() } else { went_down.clone() };
                    std::thread::spawn(move || went.fetch_add(pass(from, to, way, harm, &stopped), Ordering::Relaxed));
                }
            }
        });
        Self { address, stop, connections, up, down }
    }

    /// Bytes that went up on connections that have ended.
    pub fn passed_up(&self) -> usize {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes that came down on connections that have ended.
    pub fn passed_down(&self) -> usize {
        self.down.load(Ordering::Relaxed)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, way: Way, harm: Harm, stop: &AtomicBool) -> usize {
    let _ = from.set_read_timeout(Some(std::time::Duration::from_millis(200)));
    let mut left = match harm {
        Harm::Cut(at, bytes) | Harm::Stall(at, bytes) if at == way => bytes,
        _ => usize::MAX,
    };
    let mut buffer = [0; 32 * 1024];
    let mut passed = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && !stop.load(Ordering::Relaxed) => continue,
            Err(_) => break,
        };
        let whole = count.min(left);
        let step = if harm == Harm::Dribble { 1 } else { whole.max(1) };
        if buffer[..whole].chunks(step).any(|piece| to.write_all(piece).is_err()) {
            break;
        }
        left -= whole;
        passed += whole;
        if left == 0 {
            if matches!(harm, Harm::Stall(..)) {
                // Swallows everything until the end.
                while !stop.load(Ordering::Relaxed) && !matches!(from.read(&mut buffer), Ok(0)) {}
            }
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    passed
}
