//! Planted bugs for `make mutants`: without the feature `mutants` they are compiled out.

#[cfg(feature = "mutants")]
mod chosen {
    use std::sync::RwLock;

    static NAME: RwLock<String> = RwLock::new(String::new());

    /// Plants one bug by its name; an empty name plants none.
    pub fn plant(name: &str) {
        *NAME.write().expect("not poisoned") = name.to_string();
    }

    pub fn planted(name: &str) -> bool {
        *NAME.read().expect("not poisoned") == name
    }
}

#[cfg(feature = "mutants")]
pub use chosen::{plant, planted};

/// Whether the bug of this name is planted.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn planted(_name: &str) -> bool {
    false
}
