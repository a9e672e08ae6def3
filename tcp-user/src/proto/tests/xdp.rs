//! What the XDP program does to a frame before the endpoint sees it, as far as a
//! simulation needs it: SYNs are answered without state, and only known flows and
//! valid cookies pass.

use super::network::{CWR, ECE};
use super::wire::{ACK, FIN, Options, Parsed, Path, RST, SYN, Segment};
use crate::proto::Config;
use std::collections::HashSet;
use tcp_common::abi::Secrets;
use tcp_common::cookie::{self, Key};
use tcp_common::flow::FlowKey;
use tcp_common::wire::Timestamps;
use tcp_common::wire::options::SynOptions;

/// What becomes of a frame.
#[derive(Debug)]
pub(super) enum Verdict {
    /// To the endpoint.
    Redirect,
    /// Answered in place.
    Answer(Segment),
    Drop,
}

pub(super) struct XdpModel {
    pub(super) flows: HashSet<FlowKey>,
    secrets: Secrets,
    slot: u32,
    mtu: u16,
    window: u16,
    window_scale: u8,
    ecn: bool,
    /// `xdp.on_invalid_ack`: answer RST, or drop.
    pub(super) rst: bool,
    /// SYNs go to the endpoint.
    adaptive: bool,
}

impl XdpModel {
    pub(super) fn new(config: &Config, seed: u64, rst: bool) -> Self {
        let mut new = Self {
            flows: HashSet::new(),
            secrets: Secrets::default(),
            slot: 0,
            mtu: config.mtu,
            window: config.initial_window,
            window_scale: config.window_scale,
            ecn: config.ecn,
            rst,
            adaptive: config.half_open > 0,
        };
        new.rotate(seed);
        new.rotate(seed);
        new
    }

    /// The next time slot; returns the keys for the endpoint.
    pub(super) fn rotate(&mut self, seed: u64) -> Secrets {
        self.slot += 1;
        self.secrets.current = self.slot & 1;
        self.secrets.keys[(self.slot & 1) as usize] = Key {
            k0: super::rng::mix(seed ^ u64::from(self.slot)),
            k1: super::rng::mix(!seed ^ u64::from(self.slot)),
        };
        self.secrets
    }

    pub(super) fn secrets(&self) -> Secrets {
        self.secrets
    }

    /// Judges a well-formed frame that came over `path`.
    pub(super) fn judge(&mut self, path: &Path, parsed: &Parsed) -> Verdict {
        let flow = path.flow();
        let seg = &parsed.segment;
        if self.flows.contains(&flow) {
            return Verdict::Redirect;
        }
        match seg.flags & (SYN | ACK | RST | FIN) {
            SYN if self.adaptive => return Verdict::Redirect,
            SYN => return Verdict::Answer(self.syn_ack(path, seg)),
            f if f & RST != 0 => return Verdict::Drop,
            f if f & (SYN | ACK) != ACK => return Verdict::Drop,
            _ => {}
        }
        let iss = seg.ack.wrapping_sub(1);
        let tsecr = seg.options.timestamps.map(|(_, ecr)| ecr);
        let parity = cookie::slot_parity(iss, tsecr);
        let key = &self.secrets.keys[parity as usize];
        if cookie::check(key, &flow, seg.seq.wrapping_sub(1), iss, tsecr).is_some() {
            self.flows.insert(flow);
            return Verdict::Redirect;
        }
        let (irs, len) = (seg.seq.wrapping_sub(1), seg.data.len() as u32);
        if len > 0 && cookie::is_early(key, &flow, irs, iss, tsecr, len) {
            // Its first segment is still to come.
            return Verdict::Drop;
        }
        if self.rst {
            Verdict::Answer(Segment {
                flags: RST,
                seq: seg.ack,
                ..Segment::default()
            })
        } else {
            Verdict::Drop
        }
    }

    fn syn_ack(&self, path: &Path, syn: &Segment) -> Segment {
        let offered = SynOptions {
            mss: syn.options.mss,
            window_scale: syn.options.window_scale,
            sack_permitted: syn.options.sack_permitted,
            timestamps: syn
                .options
                .timestamps
                .map(|(val, ecr)| Timestamps { val, ecr }),
            sack: None,
        };
        let parity = self.secrets.current;
        let key = &self.secrets.keys[parity as usize];
        // RFC 3168 §6.1.1.
        let ecn = self.ecn && syn.has(ECE) && syn.has(CWR);
        let (cookie, agreed) = cookie::make(key, parity, &path.flow(), syn.seq, &offered, ecn);
        Segment {
            flags: if agreed.ecn {
                SYN | ACK | ECE
            } else {
                SYN | ACK
            },
            seq: cookie.iss,
            ack: syn.seq.wrapping_add(1),
            window: self.window,
            options: Options {
                mss: Some(self.mtu - path.ip_len() as u16 - 20),
                window_scale: agreed.window_scale.map(|_| self.window_scale),
                sack_permitted: agreed.sack,
                timestamps: syn.options.timestamps.map(|(val, _)| (cookie.tsval, val)),
                ..Options::default()
            },
            ..Segment::default()
        }
    }
}
