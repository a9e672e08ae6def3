//! Verdicts and drop reasons of the XDP program. Every frame that it sees is
//! counted exactly once, so the counters sum to the frames received.

/// What became of the frames under a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Left to the kernel, untouched.
    Pass,
    /// Answered in place (`XDP_TX`).
    Answered,
    /// Sent to userspace (`XDP_REDIRECT`).
    Redirected,
    /// Dropped.
    Dropped,
}

impl Verdict {
    /// The verdict as a metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Answered => "answered",
            Self::Redirected => "redirected",
            Self::Dropped => "dropped",
        }
    }
}

macro_rules! counters {
    ($($variant:ident, $verdict:ident, $name:literal, $help:literal;)*) => {
        /// Index into the per-CPU `COUNTERS` map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Counter {
            $(#[doc = $help] $variant,)*
        }

        impl Counter {
            /// All counters in the order of their indices.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What becomes of a frame counted here.
            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict,)* }
            }

            /// Stable name, `snake_case`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One line of explanation.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

counters! {
    PassNotIp, Pass, "pass_not_ip", "Neither IPv4 nor IPv6 (ARP, unknown EtherType, a cut Ethernet header).";
    PassNotTcp, Pass, "pass_not_tcp", "IP, but not TCP.";
    PassNotServed, Pass, "pass_not_served", "TCP to an address or port that is not served.";
    PassFragment, Pass, "pass_fragment", "A later IP fragment: its port is not known.";
    PassMalformedIp, Pass, "pass_malformed_ip", "An IP or TCP header cut short or contradicting itself before its port was known.";
    PassExtensions, Pass, "pass_extensions", "More IPv6 extension headers than are walked.";
    PassObserved, Pass, "pass_observed", "A segment without a flow to a listen that is only observed.";
    PassObservedSyn, Pass, "pass_observed_syn", "A SYN to a listen that is only observed: it would have been answered.";
    PassKernelSocket, Pass, "pass_kernel_socket", "A segment of a connection of the kernel's, behind a listen that is shielded.";
    PassKernelAccept, Pass, "pass_kernel_accept", "An ACK with a valid cookie of the kernel: a new connection for its listener.";
    PassKernelSyn, Pass, "pass_kernel_syn", "A SYN that the kernel's listener is to answer itself: its settings are not known yet, or it is quiet.";
    PassKernelUnknown, Pass, "pass_kernel_unknown", "A tagged segment to a shielded listen, for which no socket is found: one may be bound to the VLAN.";
    SynAck, Answered, "syn_ack", "A SYN answered with a cookie.";
    SynAckKernel, Answered, "syn_ack_kernel", "A SYN to a listener of the kernel's, answered with a cookie of the kernel.";
    RstNoListener, Answered, "rst_no_listener", "To a shielded listen on which no socket of the kernel's listens: answered with RST.";
    RstBadCookie, Answered, "rst_bad_cookie", "No flow and no valid cookie: answered with RST.";
    RstOldCookie, Answered, "rst_old_cookie", "A cookie of ours that is too old: answered with RST.";
    RstFlowTableFull, Answered, "rst_flow_table_full", "A valid cookie, but no room for one more connection: answered with RST.";
    ToFlow, Redirected, "to_flow", "A segment of a known connection.";
    ToAccept, Redirected, "to_accept", "No flow yet, but a valid cookie: a new connection.";
    ToHandshake, Redirected, "to_handshake", "A SYN to an adaptive listen in quiet times: userspace answers it and keeps the handshake.";
    ToIcmp, Redirected, "to_icmp", "An ICMP error about a segment of a known connection.";
    DropEarly, Dropped, "drop_early", "Data of a new connection that came before its first segment: the client sends both again.";
    DropBadCookie, Dropped, "drop_bad_cookie", "No flow and no valid cookie: dropped, as `xdp.on_invalid_ack` says.";
    DropOldCookie, Dropped, "drop_old_cookie", "A cookie of ours that is too old: dropped, as `xdp.on_invalid_ack` says.";
    DropFlowTableFull, Dropped, "drop_flow_table_full", "A valid cookie, but no room for one more connection: dropped, as `xdp.on_invalid_ack` says.";
    DropDenied, Dropped, "drop_denied", "A source that the allow and deny lists keep out.";
    DropSynLimit, Dropped, "drop_syn_limit", "A SYN from a source prefix that has had its SYN-ACKs.";
    DropRstLimit, Dropped, "drop_rst_limit", "An RST was due, but the limit on them is reached.";
    DropNoTimestamps, Dropped, "drop_no_timestamps", "A SYN or first ACK without timestamps while `cookie.require_timestamps` refuses it.";
    DropRst, Dropped, "drop_rst", "An RST without a flow.";
    DropFlags, Dropped, "drop_flags", "Flags that open nothing and belong to no flow (none, SYN+FIN, SYN+ACK, no ACK).";
    DropSource, Dropped, "drop_source", "A source address or port that cannot be answered.";
    DropFragment, Dropped, "drop_fragment", "The first fragment of a segment to a served port.";
    DropLength, Dropped, "drop_length", "The packet is longer than its frame, or the header longer than the segment.";
    DropDataOffset, Dropped, "drop_data_offset", "A data offset below 5.";
    DropOptions, Dropped, "drop_options", "A TCP option whose length is wrong.";
    DropIpChecksum, Dropped, "drop_ip_checksum", "A wrong IPv4 header checksum.";
    DropTcpChecksum, Dropped, "drop_tcp_checksum", "A wrong TCP checksum on a SYN or first ACK.";
    DropListenerFull, Dropped, "drop_listener_full", "A SYN to a listener of the kernel's that has too many connections to accept.";
    DropStopping, Dropped, "drop_stopping", "A SYN or first ACK while the server lets connections end.";
    DropNoSocket, Dropped, "drop_no_socket", "For userspace, but no AF_XDP socket on this queue.";
    DropResize, Dropped, "drop_resize", "The frame could not be resized for the answer.";
}

/// Number of counters, the size of the `COUNTERS` map.
pub const COUNT: usize = Counter::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_names_and_verdicts_fit_together() {
        let mut names = std::collections::HashSet::new();
        for (i, c) in Counter::ALL.iter().enumerate() {
            assert_eq!(*c as usize, i);
            assert!(names.insert(c.name()), "{} twice", c.name());
            match c.verdict() {
                Verdict::Pass => assert!(c.name().starts_with("pass_")),
                Verdict::Dropped => assert!(c.name().starts_with("drop_")),
                Verdict::Redirected => assert!(c.name().starts_with("to_")),
                Verdict::Answered => {
                    assert!(c.name().starts_with("syn_") || c.name().starts_with("rst_"));
                }
            }
        }
    }
}
