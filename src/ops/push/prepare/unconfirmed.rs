//! What was sent to a store and never seen to arrive is read back before anything is built on it.

use std::collections::BTreeSet;

use crate::model::name::ObjectName;
use crate::model::size::count;
use crate::ops::Env;
use crate::state::unconfirmed::Left;
use crate::vault::VaultError;
use crate::vault::destination::Destination;
use crate::vault::objects::read_object;
use crate::vault::presence::Presence;

/// Takes out of `presence` what is not what its name says, and begins the notes anew. What was read need not be read again
/// when this is stopped half-way.
pub fn settle(to: &Destination, presence: &mut Presence, env: &Env<'_>) -> Result<(), VaultError> {
    let Left { sent, mut wrong } = to.notes.left()?;
    let there: Vec<ObjectName> = sent.into_iter().filter(|name| presence.has(name)).collect();
    if !there.is_empty() {
        env.step(format!("reading back {} that an earlier run did not see arrive", count(there.len() as u64, "object")));
    }
    for name in there {
        env.check_cancel().map_err(|_| VaultError::Interrupted)?;
        match read_object(to.store.as_ref(), &name) {
            Ok(_) => to.notes.arrived(&name)?,
            Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
            Err(error) => {
                tracing::warn!(object = %name, %error, "an earlier run has left it in part; what it held is sent anew");
                to.notes.wrong(&name)?;
                wrong.insert(name);
            }
        }
    }
    // What was removed meanwhile need not be remembered.
    let wrong: BTreeSet<ObjectName> = wrong.into_iter().filter(|name| presence.has(name)).collect();
    presence.forget(&wrong);
    Ok(to.notes.begin_anew(&wrong)?)
}
