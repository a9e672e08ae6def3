//! What the project's tasks and its tests share: the BPF toolchain, network namespaces, the lab.
//!
//! The tasks themselves (`cargo xtask --help`) are in the binary.

pub mod bpf;
pub mod lab;
pub mod netns;
pub mod process;
pub mod tcpdump;
pub mod toolchain;
pub mod workspace;
pub mod xdp_pass;
