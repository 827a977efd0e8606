//! The memory: sessions, who owns them, and what may be done to them.

pub mod draft;
pub mod value;
