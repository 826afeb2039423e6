//! A vault on the embedded server, reached directly or through a proxy.

use std::ffi::OsString;

use crate::proxy::Proxy;
use crate::world::sshd::Served;
use crate::world::{Run, World, args};

/// A world whose vault lies on the embedded server.
pub fn world(served: &Served) -> World {
    let world = World::bare();
    let url = format!("sftp://x@127.0.0.1:{}/vault", served.running.address().port());
    world.init(&args!["--store", url, "--ssh-key", &served.writer.private, "--host-key", served.running.host_fingerprint()]);
    world
}

/// Runs a push through `proxy`.
pub fn push_through(world: &World, served: &Served, proxy: &Proxy) -> Run {
    run_through(world, served, proxy, args!["push", world.path("data"), "--json"])
}

/// Runs farkeep with the vault's port replaced by that of `proxy`.
pub fn run_through(world: &World, served: &Served, proxy: &Proxy, args: Vec<OsString>) -> Run {
    let (direct, harmed) = (format!(":{}/", served.running.address().port()), format!(":{}/", proxy.port()));
    let config = std::fs::read_to_string(&world.agent.config).unwrap();
    world.agent.reconfigure(|text| text.replace(&direct, &harmed));
    let run = world.run(args);
    std::fs::write(&world.agent.config, config).unwrap();
    run
}
