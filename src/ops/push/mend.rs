//! What every snapshot needs beside its own objects and that went away from a copy: what this machine has is sent again, the
//! rest is named.

use std::sync::Arc;

use super::prepare::Prepared;
use crate::crypto::hash::hash;
use crate::format::inventory::Line;
use crate::model::finding::{Finding, FindingKind};
use crate::model::name::{Area, ObjectName};
use crate::ops::OpError;
use crate::ops::context::Context;
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::VaultError;
use crate::vault::copy::{keep_key_file, kept_key_file};
use crate::vault::create::{RECOVER_PAGE, RECOVER_SCRIPT};
use crate::vault::objects::read_hashed;

/// Keeps the sealed key files here, as trust records are: those say that an epoch began, and when a copy loses both, what is
/// sealed to it from then on opens for nobody.
pub fn keep_key_files(prepared: &Prepared, context: &Context) -> Result<(), OpError> {
    for Line { name, hash } in prepared.plain_lines().iter().filter(|line| line.name.area() == Area::Keys) {
        if kept_key_file(&context.state, name, *hash).is_some() {
            continue;
        }
        let with_it = prepared.sides.iter().filter(|side| side.presence.has(name));
        if let Some(bytes) = with_it.filter_map(|side| read_hashed(side.named.store.as_ref(), name, *hash).ok()).next() {
            keep_key_file(&context.state, name, &bytes).map_err(VaultError::from)?;
        }
    }
    Ok(())
}

/// Sends recovery page, script and key files again where they are gone, and of the other plain files what another copy has, as
/// after an epoch began while this one was away. What nobody has is a finding and ends no push, since no push can make it.
pub fn plain_files(prepared: &mut Prepared, context: &Context) {
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
            let elsewhere = made.or_else(found);
            let is_kept = elsewhere.is_none();
            let bytes = elsewhere.or_else(|| kept_key_file(&context.state, &line.name, line.hash));
            let sent = bytes.map(|bytes| deliver(side.named.store.as_ref(), &line.name, &bytes, RetryPolicy::DEFAULT));
            if let Some(Ok(_)) = sent {
                if is_kept {
                    let message = format!("was missing in {} and is there again", side.named.name);
                    prepared.findings.push(Finding::new(FindingKind::Mended, &line.name, message));
                }
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
