//! The frames of a handshake that XDP answered, made again from the ACK that ends it.

use super::endpoint::check_cookie;
use super::frame::{LinkHeader, Outgoing};
use super::segment::{SackList, Segment};
use super::{Config, Keys};
use tcp_common::flow::FlowKey;
use tcp_common::seq::SeqNum;
use tcp_common::wire::{Flags, Timestamps, ip, options, tcp};

/// A SYN and its SYN-ACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The connection.
    pub flow: FlowKey,
    /// Our initial sequence number, which is the cookie.
    pub iss: u32,
    /// The client's SYN, as far as the cookie tells: its window stands as zero, its
    /// `TSval` as that of the ACK.
    pub syn: Vec<u8>,
    /// What XDP answered.
    pub syn_ack: Vec<u8>,
}

/// Whether a received frame ends a handshake, and which. Segments up to our first text
/// do so as well as the first ACK.
pub fn handshake(config: &Config, keys: &Keys, frame: &[u8]) -> Option<Handshake> {
    let seg = Segment::parse(frame, config.partial_checksums).ok()?;
    let negotiated = check_cookie(keys, &seg)?;
    let stamps = seg.timestamps.filter(|_| negotiated.timestamps);
    let ours = FlowKey {
        remote: seg.flow.local,
        local: seg.flow.remote,
        remote_port_be: seg.flow.local_port_be,
        local_port_be: seg.flow.remote_port_be,
    };
    let answer = seg.reply_link();
    let link = LinkHeader::reply_to(answer.as_slice());
    let ecn = |flags: Flags, with: Flags| {
        if negotiated.ecn {
            flags.with(with)
        } else {
            flags
        }
    };
    let syn_stamps = stamps.map(|ts| Timestamps {
        val: ts.val,
        ecr: 0,
    });
    let syn = Outgoing {
        link: &link,
        flow: &ours,
        hop_limit: config.hop_limit,
        ecn: 0,
        seq: seg.seq - 1,
        ack: SeqNum(0),
        flags: ecn(Flags::SYN, Flags::ECE.with(Flags::CWR)),
        window: 0,
        syn_ack: Some(options::syn_ack(
            negotiated.mss,
            negotiated.window_scale,
            negotiated.sack,
            syn_stamps,
        )),
        timestamps: None,
        sack: SackList::default(),
        payload: [&[], &[]],
    };
    let headers = tcp::HEADER_LEN
        + if seg.flow.is_v4() {
            ip::V4_LEN
        } else {
            ip::V6_LEN
        };
    let scale = negotiated.window_scale.map(|_| config.window_scale);
    let answer_stamps = stamps.map(|ts| Timestamps {
        val: ts.ecr,
        ecr: ts.val,
    });
    let syn_ack = Outgoing {
        link: &answer,
        flow: &seg.flow,
        seq: seg.ack - 1,
        ack: seg.seq,
        flags: ecn(Flags::SYN.with(Flags::ACK), Flags::ECE),
        window: config.initial_window,
        syn_ack: Some(options::syn_ack(
            config.mtu.saturating_sub(headers as u16),
            scale,
            negotiated.sack,
            answer_stamps,
        )),
        ..syn.clone()
    };
    let write = |segment: &Outgoing<'_>| {
        let mut frame = vec![0; 128];
        let len = segment.write(&mut frame)?;
        frame.truncate(len);
        Some(frame)
    };
    Some(Handshake {
        flow: seg.flow,
        iss: (seg.ack - 1).0,
        syn: write(&syn)?,
        syn_ack: write(&syn_ack)?,
    })
}
