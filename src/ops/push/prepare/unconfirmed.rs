//! What an earlier push began to send to a store and never saw arrive is read back before anything is built on it.

use std::collections::BTreeSet;

use crate::model::name::ObjectName;
use crate::state::unconfirmed::{Left, Unconfirmed};
use crate::store::Store;
use crate::vault::VaultError;
use crate::vault::objects::read_object;
use crate::vault::presence::Presence;

/// Takes out of `presence` what is not what its name says, and begins the notes anew.
pub fn settle(unconfirmed: &Unconfirmed, presence: &mut Presence, store: &dyn Store) -> Result<(), VaultError> {
    let Left { sent, mut wrong } = unconfirmed.left()?;
    for name in sent.into_iter().filter(|name| presence.has(name)) {
        match read_object(store, &name) {
            Ok(_) => {}
            Err(VaultError::Damaged { .. }) => {
                tracing::warn!(object = %name, "a push that failed has left it in part; what it held is sent anew");
                wrong.insert(name);
            }
            Err(error) => return Err(error),
        }
    }
    // What was removed meanwhile need not be remembered.
    let wrong: BTreeSet<ObjectName> = wrong.into_iter().filter(|name| presence.has(name)).collect();
    presence.forget(&wrong);
    Ok(unconfirmed.begin_anew(&wrong)?)
}
