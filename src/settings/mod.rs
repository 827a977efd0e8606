//! Settings: raw as they are written, checked as they are used.

mod checked;

pub use checked::{Ack, Balancer, Cluster, Discovery, Manager, Method, Node, Session, Settings, StaticMember};
