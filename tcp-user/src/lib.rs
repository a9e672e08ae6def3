//! tcp-xdp in userspace. Imports follow `app → net → dataplane → proto → tcp-common`
//! and never run back.

pub mod app;
pub mod cli;
pub mod control;
pub mod dataplane;
pub mod proto;
