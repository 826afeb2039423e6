//! Windows: a push waits outside its window, ends at once when it is told to, and goes on when the window opens.

use rustix::process::Signal;

use crate::world::background::until;
use crate::world::sshd::Served;
use crate::world::{Running, World, args, assert_same, bytes_below};

/// A world whose vault lies on the embedded server, with the clock of its windows.
fn world(served: &Served) -> World {
    let world = crate::served::world(served);
    world.agent.reconfigure(|text| text.replace("ssh_key", "timezone = \"UTC\"\nssh_key"));
    world
}

/// A window that begins in two hours.
fn later() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let hour = seconds / 3600 % 24;
    format!("window = \"{:02}:00-{:02}:00\"", (hour + 2) % 24, (hour + 4) % 24)
}

#[test]
fn a_push_outside_its_window_waits_and_goes_on_when_it_opens() {
    let served = Served::start();
    let world = world(&served);
    let tree = world.tree("data");
    tree.noise("large", 3 << 20, 1);
    let open = std::fs::read_to_string(&world.agent.config).unwrap();
    world.agent.reconfigure(|text| text.replace("timezone", &format!("{}\ntimezone", later())));

    let said = world.path("said");
    let push = Running::start_writing(&world.agent, args!["push", &tree.root], &said);
    until("it says that it waits", || std::fs::read_to_string(&said).unwrap().contains("waiting for its window"));
    push.signal(Signal::INT);
    push.wait().exits(130);
    assert!(bytes_below(&served.root.join("vault/packs")) < 1 << 20, "small ones go at any time");

    // What is read and put on record does not wait, and neither does a night without news.
    world.run(args!["verify", "--depth", "list"]).ok();
    world.run(args!["status"]).ok();

    std::fs::write(&world.agent.config, open).unwrap();
    world.push(&tree.root);
    world.agent.reconfigure(|text| text.replace("timezone", &format!("{}\ntimezone", later())));
    world.push(&tree.root);
    let back = world.path("back");
    world.restore("latest", &back);
    assert_same(&tree.root, &tree.below(&back));
}
