//! tcp-xdp in userspace. Imports follow `app → net → dataplane → proto → tcp-common`
//! and never run back.

pub mod proto;
