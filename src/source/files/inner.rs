//! Roots that lie in other ones: the walk over the outer one comes to them in the order of the catalogue, and to nothing
//! else on the way where its rules would not go.

use crate::model::path::EntryPath;

/// What a path is to the roots that lie in others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is one of them.
    Root,
    /// One of them lies below it.
    Above,
    /// Neither.
    Aside,
}

/// The inner roots, in order.
#[derive(Debug, Clone, Default)]
pub struct InnerRoots(Vec<EntryPath>);

impl InnerRoots {
    /// Takes what lies in another root out of the roots; none among them is `/`. Leaves them in order, each once.
    pub fn take_from(roots: &mut Vec<Option<EntryPath>>) -> Self {
        let mut inner = Vec::new();
        let mut outer: Vec<Option<EntryPath>> = Vec::new();
        roots.sort();
        roots.dedup();
        for root in roots.drain(..) {
            match (outer.last(), root) {
                (Some(None), Some(root)) => inner.push(root),
                (Some(Some(last)), Some(root)) if root.is_at_or_below(last) => inner.push(root),
                (_, root) => outer.push(root),
            }
        }
        *roots = outer;
        Self(inner)
    }

    pub fn paths(&self) -> &[EntryPath] {
        &self.0
    }

    /// What `path` is to them.
    pub fn at(&self, path: &EntryPath) -> Way {
        match self.0.get(self.0.partition_point(|root| root < path)) {
            Some(root) if root == path => Way::Root,
            Some(root) if root.is_at_or_below(path) => Way::Above,
            _ => Way::Aside,
        }
    }
}
