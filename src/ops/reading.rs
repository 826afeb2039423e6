//! What every command that reads a snapshot begins with: a copy, its records, the one snapshot that is meant, its keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::context::{Context, Locking, NamedStore, VaultPin, open_pinned};
use super::select::{Names, SnapshotQuery, select};
use super::{Env, OpError};
use crate::crypto::identity::Identity;
use crate::format::record::Head;
use crate::model::ids::WriterId;
use crate::model::snapshot::SnapshotState;
use crate::vault::catalogue_reader::{SnapshotReader, read_manifest};
use crate::vault::copy::Copy;
use crate::vault::pruned::Pruned;
use crate::vault::snapshots::{Records, Snapshot};
use crate::vault::suspects::Suspects;
use crate::vault::unlock::{Unlocked, unlock};
use crate::vault::{MISSING, VaultError};

/// Which copy is read, and who opens it.
#[derive(Clone)]
pub struct ReadPlan {
    /// Whom to trust.
    pub pin: VaultPin,
    /// The copy.
    pub from: NamedStore,
    /// Names that are known here.
    pub names: Names,
    /// Who opens it; none sees what is plain.
    pub identities: Vec<Identity>,
}

/// An opened copy with its records.
pub struct Opened {
    /// The state of the vault here.
    pub context: Context,
    /// The copy.
    pub copy: Copy,
    /// Its records.
    pub records: Records,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Snapshots that were dropped from it.
    pub dropped: Vec<Snapshot>,
}

impl Opened {
    /// What is to be said of a snapshot that may hold what an intruder or a mistake made of the data: it, or one before it of
    /// its series, is suspect, and nobody has cleared that. The nights after it change little, and look good.
    #[must_use]
    pub fn suspicion_of(&self, snapshot: &Snapshot) -> Option<String> {
        let suspects = Suspects::read(&self.records);
        let upto = self.snapshots.iter().position(|other| other.id == snapshot.id)?;
        let mut before = None;
        for other in self.snapshots[..=upto].iter().filter(|other| other.body.series == snapshot.body.series) {
            if suspects.state_of(other) == SnapshotState::Suspect {
                let last = before.map_or_else(
                    || "there is no good one before it".to_owned(),
                    |last: &Snapshot| format!("the last good one before it is {} of {}", last.id.short(), last.time),
                );
                let is = if other.id == snapshot.id {
                    "is".to_owned()
                } else {
                    format!("comes after {}, which is", other.id.short())
                };
                return Some(format!(
                    "{is} suspect, and nobody has cleared that: data may have been encrypted or lost before; {last}"
                ));
            }
            if suspects.state_of(other) == SnapshotState::Good {
                before = Some(other);
            }
        }
        None
    }
}

impl ReadPlan {
    /// Opens the copy.
    ///
    /// # Errors
    /// When it is out of reach, or not the pinned vault, or went back in time.
    pub fn open(&self, env: &Env<'_>) -> Result<Opened, OpError> {
        refuse_rollback(self.open_with(Context::read_records, env)?)
    }

    /// As [`open`](Self::open), with every record read from the copy itself: for whoever verifies what lies there.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_verify(&self, env: &Env<'_>) -> Result<Opened, OpError> {
        refuse_rollback(self.open_for_audit(env)?)
    }

    /// Opens the copy even when it went back in time, and gives the newest records that were seen there and are gone: for
    /// whoever looks into it.
    ///
    /// # Errors
    /// When it is out of reach, or not the pinned vault, or its root's chain went back.
    pub fn open_for_audit(&self, env: &Env<'_>) -> Result<(Opened, BTreeMap<WriterId, Head>), OpError> {
        self.open_with(Context::read_stored_records, env)
    }

    fn open_with(
        &self,
        read: impl FnOnce(&mut Context, &mut Copy) -> Result<Records, VaultError>,
        env: &Env<'_>,
    ) -> Result<(Opened, BTreeMap<WriterId, Head>), OpError> {
        env.step(format!("opening {}", self.from.name));
        // Its id decides which state belongs to it.
        let vault = match self.pin.vault {
            Some(vault) => vault,
            None => open_pinned(Arc::clone(&self.from.store), &self.pin, None)?.vault(),
        };
        let mut context = Context::open(env, vault, Locking::Shared)?;
        let mut copy = open_pinned(Arc::clone(&self.from.store), &self.pin, Some(&context.state))?;
        copy.check_trust(&context.ratchet)?;
        let gone = copy.book.gone(&copy.store.identity(), context.ratchet.seen());
        let records = read(&mut context, &mut copy)?;
        let mut snapshots = records.snapshots();
        let dropped = Pruned::read(&records, copy.store.as_ref()).map_err(VaultError::from)?.take_dropped(&mut snapshots);
        Ok((Opened { context, copy, records, snapshots, dropped }, gone))
    }

    /// An identity must be there; the message says whose.
    ///
    /// # Errors
    /// When there is none.
    pub fn need_identity(&self, opened: &Opened) -> Result<(), OpError> {
        if !self.identities.is_empty() {
            return Ok(());
        }
        let needed = opened.copy.trust.epoch().sealed_to.join(" or ");
        Err(OpError::Usage(format!(
            "no identity to open the vault with: name its file with --identity; needed is the identity of {needed}"
        )))
    }

    /// The snapshot that is meant. Where this machine does not know the names of series, an identity does.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn select(&self, opened: &Opened, query: &SnapshotQuery, env: &Env<'_>) -> Result<Snapshot, OpError> {
        let (now, suspects) = (env.clock.now(), Suspects::read(&opened.records));
        let error = match select(query, &opened.snapshots, &self.names, &suspects, now) {
            Ok(snapshot) => return Ok(snapshot.clone()),
            Err(error) => error,
        };
        if let Ok(gone) = select(query, &opened.dropped, &self.names, &suspects, now)
            && gone.id.to_string().starts_with(&query.text.to_ascii_lowercase())
        {
            let why = format!("{}: was dropped from {} by retention; another copy may hold it", query.text, self.from.name);
            return Err(VaultError::NoSnapshot(why).into());
        }
        if !self.names.secrets.is_empty() || self.identities.is_empty() {
            return Err(error.into());
        }
        let names = self.all_names(opened, &unlock(&opened.copy, &self.identities)?);
        Ok(select(query, &opened.snapshots, &names, &suspects, now)?.clone())
    }

    /// Host and job of every series, as its newest manifest has them.
    #[must_use]
    pub fn all_names(&self, opened: &Opened, unlocked: &Unlocked) -> Names {
        let mut names = Names { secrets: unlocked.secrets.values().cloned().collect(), ..self.names.clone() };
        let mut seen = BTreeSet::new();
        for snapshot in opened.snapshots.iter().rev().filter(|snapshot| seen.insert(snapshot.body.series)) {
            let store = opened.copy.store.as_ref();
            if let Ok(manifest) = read_manifest(store, &snapshot.body.manifest, &unlocked.epochs) {
                names.series.push((manifest.host, manifest.job));
            }
        }
        names
    }
}

fn refuse_rollback((opened, gone): (Opened, BTreeMap<WriterId, Head>)) -> Result<Opened, OpError> {
    opened.copy.refuse_gone(&gone).map_err(VaultError::from)?;
    Ok(opened)
}

impl Opened {
    /// The number up to which a writer's records once lay in this copy: they come in order, and it was seen.
    #[must_use]
    pub fn delivered(&self, writer: &WriterId) -> u64 {
        let seen = self.context.ratchet.seen().stores.get(&self.copy.store.identity());
        let seen = seen.and_then(|heads| heads.get(writer)).map_or(0, |head| head.seq);
        seen.max(self.copy.book.last_seq(writer))
    }

    /// Opens a snapshot.
    ///
    /// # Errors
    /// When the identities do not open it, or it is damaged.
    pub fn snapshot(&self, identities: &[Identity], snapshot: &Snapshot) -> Result<SnapshotReader, OpError> {
        let unlocked = unlock(&self.copy, identities)?;
        let read = SnapshotReader::open(&self.copy, snapshot, &unlocked, &self.context.state.cache());
        Ok(read.map_err(|error| match error {
            VaultError::Damaged { object, why } if why == MISSING && object == snapshot.body.manifest.to_string() => {
                let why =
                    format!("{why}: this copy holds its record alone. Another copy, or an earlier snapshot, may be whole");
                VaultError::Damaged { object, why }
            }
            other => other,
        })?)
    }
}
