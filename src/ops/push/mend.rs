//! What every snapshot needs beside its own objects and that went away from a copy: what this machine has is sent again, the
//! rest is named.

use std::sync::Arc;

use super::prepare::Prepared;
use crate::crypto::hash::hash;
use crate::model::finding::{Finding, FindingKind};
use crate::model::name::ObjectName;
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::create::{RECOVER_PAGE, RECOVER_SCRIPT};
use crate::vault::objects::read_hashed;

/// Sends recovery page and script again where they are gone, and of the other plain files what another copy has, as after an
/// epoch began while this one was away. What nobody has is a finding and ends no push, since no push can make it.
pub fn plain_files(prepared: &mut Prepared) {
    let known = [RECOVER_PAGE, RECOVER_SCRIPT].map(str::as_bytes);
    let lines = prepared.plain_lines();
    let stores: Vec<_> = prepared.sides.iter().map(|side| Arc::clone(&side.named.store)).collect();
    for side in &mut prepared.sides {
        for line in lines.iter().filter(|line| !matches!(line.name, ObjectName::Trust { .. })).cloned() {
            if side.presence.has(&line.name) {
                continue;
            }
            let made = known.into_iter().find(|bytes| hash(bytes) == line.hash).map(<[u8]>::to_vec);
            let found = || stores.iter().find_map(|store| read_hashed(store.as_ref(), &line.name, line.hash).ok());
            let bytes = made.or_else(found);
            let sent = bytes.map(|bytes| deliver(side.named.store.as_ref(), &line.name, &bytes, RetryPolicy::DEFAULT));
            if let Some(Ok(_)) = sent {
                side.presence.add_all(std::slice::from_ref(&line.name));
                continue;
            }
            let message = format!("missing in {}; `farkeep sync` brings it from another copy", side.named.name);
            prepared.findings.push(Finding::new(FindingKind::Damage, &line.name, message));
            side.lost.insert(line.name);
        }
    }
}

/// Sends trust records again where they are gone: this machine remembers them, and nobody else could open the copy.
pub fn trust_records(prepared: &mut Prepared) {
    for side in &mut prepared.sides {
        for (name, bytes) in side.copy.lost_trust() {
            let store = &side.named.name;
            let finding = match deliver(side.named.store.as_ref(), name, bytes, RetryPolicy::DEFAULT) {
                Ok(_) => Finding::new(FindingKind::Mended, name, format!("was missing in {store} and is there again")),
                Err(error) => Finding::new(FindingKind::Damage, name, format!("missing in {store}: {error}")),
            };
            prepared.findings.push(finding);
        }
    }
}
