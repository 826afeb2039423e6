//! Names of users and groups, asked once for each number.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::model::entry::Owner;

/// Remembers the names behind numbers.
#[derive(Debug, Default)]
pub struct Owners {
    users: Mutex<HashMap<u32, Option<String>>>,
    groups: Mutex<HashMap<u32, Option<String>>>,
}

impl Owners {
    /// The owner with the names that this machine knows for the two numbers.
    pub fn owner(&self, uid: u32, gid: u32) -> Owner {
        let user = cached(&self.users, uid, || uzers::get_user_by_uid(uid).map(|u| u.name().to_string_lossy().into_owned()));
        let group =
            cached(&self.groups, gid, || uzers::get_group_by_gid(gid).map(|g| g.name().to_string_lossy().into_owned()));
        Owner { uid, gid, user, group }
    }
}

fn cached(map: &Mutex<HashMap<u32, Option<String>>>, id: u32, ask: impl FnOnce() -> Option<String>) -> Option<String> {
    let mut map = map.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    map.entry(id).or_insert_with(ask).clone()
}

/// Changes when the local names of users and groups change.
pub fn fingerprint() -> String {
    let file = |path| std::fs::read(path).map(|bytes| crate::crypto::hash::hash(&bytes).to_string()).unwrap_or_default();
    file("/etc/passwd") + &file("/etc/group")
}
