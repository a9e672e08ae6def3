//! The lab: a namespace `tcplab` for the server, joined to the host by a veth pair.
//!
//! The server's side is `eth0` with 10.77.0.2/24 and `fd77::2/64`, the host's is `tcplab0` with
//! 10.77.0.1/24 and `fd77::1/64`. `tcplab0` does not forward, so answers to spoofed addresses stay here.

use anyhow::Result;

use crate::netns::{self, Namespace, VethEnd, VethPair};

/// The namespace of the server's side.
pub const NAMESPACE: &str = "tcplab";
/// The interface of the server's side.
pub const SERVER_INTERFACE: &str = "eth0";
/// The interface of the host's side.
pub const HOST_INTERFACE: &str = "tcplab0";

/// A lab that is up until this value is dropped.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order.
    pair: VethPair,
    namespace: Namespace,
}

impl Lab {
    /// Brings the lab up; one that is up already is replaced.
    pub fn up() -> Result<Self> {
        let namespace = Namespace::create(NAMESPACE)?;
        let pair = VethPair::create(
            &VethEnd::on_host(HOST_INTERFACE)
                .address("10.77.0.1/24")
                .address("fd77::1/64")
                .pass_program(),
            &VethEnd::new(&namespace, SERVER_INTERFACE)
                .address("10.77.0.2/24")
                .address("fd77::2/64"),
        )?;
        Ok(Self { pair, namespace })
    }

    /// The namespace of the server's side.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Leaves the lab up for good.
    pub fn keep(mut self) {
        self.pair.keep();
        self.namespace.keep();
    }
}

/// Takes the lab down, and the processes in it; nothing happens if it is not up.
pub fn down() -> Result<()> {
    netns::remove(NAMESPACE)?;
    netns::remove_host_interface(HOST_INTERFACE);
    Ok(())
}
