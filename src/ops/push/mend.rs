//! What every snapshot needs beside its own objects and that went away from a copy: what this machine has is sent again, the
//! rest is named.

use super::prepare::Prepared;
use crate::crypto::hash::hash;
use crate::model::finding::{Finding, FindingKind};
use crate::model::name::ObjectName;
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::create::{RECOVER_PAGE, RECOVER_SCRIPT};

/// Sends recovery page and script again where they are gone; what else of the plain files is gone is a finding and ends no
/// push, since no push can make it.
pub fn plain_files(prepared: &mut Prepared) {
    let known = [RECOVER_PAGE, RECOVER_SCRIPT].map(str::as_bytes);
    for side in &mut prepared.sides {
        let lines = side.copy.plain_lines().into_iter();
        for line in lines.filter(|line| !matches!(line.name, ObjectName::Trust { .. })) {
            if side.presence.has(&line.name) {
                continue;
            }
            let bytes = known.into_iter().find(|bytes| hash(bytes) == line.hash);
            let sent = bytes.map(|bytes| deliver(side.named.store.as_ref(), &line.name, bytes, RetryPolicy::DEFAULT));
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
