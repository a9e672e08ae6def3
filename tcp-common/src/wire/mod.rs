//! Frames, packets and segments as they lie on the wire.
//!
//! [`Window`] is the only way at packet memory: a reference to a fixed number of
//! octets that were bounds-checked once. The parsers in [`link`], [`ip`], [`icmp`] and
//! [`tcp`] are generic over [`Bytes`], which a slice implements on the host and
//! the packet pointers in the XDP program.

pub mod checksum;
pub mod icmp;
pub mod ip;
pub mod link;
pub mod options;
pub mod tcp;
mod window;

pub use checksum::Sum;
pub use options::{SynOptions, Timestamps};
pub use tcp::Flags;
pub use window::{Bytes, Window};
