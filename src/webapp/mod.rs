//! The room: what a webapp is, where it comes from, and how one of its pages answers.
//!
//! ```text
//! webapps/ ─ notify, poll ─► Deployer ─ reader, archive ─► Webapp ─┐
//! the cluster ─ orders ─────►    (rollout decides)                 ▼
//! request path ─► Catalogue.load() ─► Catalog.find ─► Webapp.resolve ─► Page.render (with a session's Draft)
//!                                                                   └─► assets::answer
//! ```
//!
//! A webapp is read and compiled whole, beside the one that answers, and takes its place between two requests; a
//! broken one takes nobody's place. Nothing here knows the network, cookies' session ids or other nodes: the node
//! brings a request and a draft, and commits the draft that comes back.

mod actor;
mod app;
mod archive;
pub mod assets;
mod catalog;
#[cfg(test)]
mod demo;
mod deployments;
mod descriptor;
mod folder;
mod listing;
mod name;
mod orders;
mod pack;
#[cfg(test)]
mod packing;
mod page;
mod path;
mod reader;
mod refusal;
mod rehearsal;
mod rollout;
mod work;

pub use actor::{Deployer, NoFolder, Observe, Sources};
pub use app::{ErrorPage, Resource, Tally, VERSION_ATTRIBUTE, Webapp};
pub use catalog::{Catalog, Catalogue, Found, Versions};
pub use descriptor::{Concurrency, CookieRules, Descriptor, ErrorPages, Secure, SessionTimeout};
pub use orders::{Check, Checked, SetDeployed};
pub use pack::pack;
pub use page::{
    Body, Content, Follows, MemberInfo, NodeInfo, Page, PageError, Place, Rendered, Request, RequestError,
    TooManyParameters, Upload, base_name, json, parameters,
};
pub use refusal::Refusal;
pub use rehearsal::Rehearsal;
