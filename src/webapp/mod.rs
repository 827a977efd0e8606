//! The room: what a webapp is, where it comes from, and how one of its pages answers.
//!
//! ```text
//! webapps/ ─ notify, poll ─► Deployer ─ folder::read ─► Webapp ─┐
//!                              (rollout decides)                ▼
//! request path ─► Catalogue.load() ─► Catalog.find ─► Webapp.resolve ─► Page.render (with a session's Draft)
//!                                                                   └─► assets::answer
//! ```
//!
//! A webapp is read and compiled whole, beside the one that answers, and takes its place between two requests; a
//! broken one takes nobody's place. Nothing here knows the network, cookies' session ids or other nodes: the node
//! brings a request and a draft, and commits the draft that comes back.

mod actor;
mod app;
pub mod assets;
mod catalog;
#[cfg(test)]
mod demo;
mod descriptor;
mod folder;
mod page;
mod path;
mod rollout;

pub use actor::{Deployer, NoFolder, Observe, WebappReport};
pub use app::{Resource, Webapp};
pub use catalog::{Catalog, Catalogue, Found};
pub use descriptor::{Descriptor, SessionTimeout};
pub use folder::Refusal;
pub use page::{
    Body, Content, Follows, MemberInfo, NodeInfo, Page, PageError, Rendered, Request, TooManyParameters, Upload,
    base_name, json, parameters,
};
