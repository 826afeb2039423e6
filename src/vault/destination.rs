//! A store that objects are sent to, with the notes about what was sent there.

use std::sync::Arc;

use crate::model::name::ObjectName;
use crate::state::unconfirmed::Unconfirmed;
use crate::state::{StateDir, StateError};
use crate::store::deliver::{Delivered, RetryPolicy, deliver};
use crate::store::{StoreError, WriteOnceStore};

/// Where objects go.
#[derive(Clone)]
pub struct Destination {
    /// The store.
    pub store: Arc<dyn WriteOnceStore>,
    /// What was handed to it and never confirmed.
    pub notes: Arc<Unconfirmed>,
}

impl Destination {
    /// The store, with the notes that this machine keeps about it.
    #[must_use]
    pub fn new(store: Arc<dyn WriteOnceStore>, state: &StateDir) -> Self {
        let notes = Arc::new(Unconfirmed::of(state, &store.identity()));
        Self { store, notes }
    }

    /// Delivers an object, noted before it goes and crossed out when it has arrived.
    ///
    /// # Errors
    /// As [`deliver`]; and when the notes cannot be written.
    pub fn deliver(&self, name: &ObjectName, bytes: &[u8], policy: RetryPolicy) -> Result<Delivered, StoreError> {
        let noted = |e: StateError| StoreError::Io { name: name.to_string(), why: e.to_string() };
        self.notes.sent(name).map_err(noted)?;
        let delivered = deliver(self.store.as_ref(), name, bytes, policy);
        match &delivered {
            Ok(_) => self.notes.arrived(name).map_err(noted)?,
            // Whether it lies there nobody knows.
            Err(error) if error.is_store_wide() => {}
            // The store said no. What its disk refused it may still show for a while, out of memory.
            Err(_) => self.notes.wrong(name).map_err(noted)?,
        }
        delivered
    }
}
