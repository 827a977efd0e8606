//! Equal names shared by all sessions that a thread makes: a million sessions of one webapp have few different names.
//!
//! A pool is bounded and forgets nothing. What it has no room for is simply owned by its session.

use std::{cell::RefCell, collections::HashSet, hash::Hash, sync::Arc};

use crate::{limits, names::ContextPath};

thread_local! {
    // One for each thread, so that looking up waits for nobody.
    static NAMES: RefCell<HashSet<Arc<str>>> = RefCell::default();
    static CONTEXTS: RefCell<HashSet<ContextPath>> = RefCell::default();
}

/// The shared form of an attribute's name.
pub(super) fn name(name: &Arc<str>) -> Arc<str> {
    NAMES.with_borrow_mut(|pool| shared(pool, name, limits::POOLED_NAMES))
}

/// The shared form of a context path.
pub(super) fn context(context: &ContextPath) -> ContextPath {
    CONTEXTS.with_borrow_mut(|pool| shared(pool, context, limits::POOLED_CONTEXTS))
}

fn shared<T: Clone + Eq + Hash>(pool: &mut HashSet<T>, value: &T, most: usize) -> T {
    match pool.get(value) {
        Some(known) => known.clone(),
        None => {
            if pool.len() < most {
                pool.insert(value.clone());
            }
            value.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_one() {
        let (first, second): (Arc<str>, Arc<str>) = ("count".into(), "count".into());
        assert!(Arc::ptr_eq(&name(&first), &name(&second)));
        assert_eq!(context(&"/shop".parse().unwrap()).as_str(), "/shop");
    }

    #[test]
    fn a_full_pool_takes_nothing_more_and_gives_everything() {
        let mut pool = HashSet::new();
        for n in 0..10 {
            assert_eq!(shared(&mut pool, &n, 3), n);
        }
        assert_eq!(pool.len(), 3);
    }
}
