//! What the network says: marks of congestion (RFC 3168) and packets that are too big
//! (RFC 1191, RFC 8201); and a client's side of the former.

use super::wire::{ACK, Path, SYN, Segment, checksum};
use std::net::IpAddr;

pub(super) const ECE: u8 = 0x40;
pub(super) const CWR: u8 = 0x80;
/// ECT(0), and congestion experienced.
pub(super) const ECT: u8 = 2;
pub(super) const CE: u8 = 3;

/// A client's ECN.
#[derive(Debug, Default)]
pub(super) struct Ecn {
    pub(super) agreed: bool,
    /// ACKs carry ECE.
    echo: bool,
    /// The next new text carries CWR.
    reduced: bool,
}

impl Ecn {
    /// The SYN-ACK to a SYN that offered it, or did not.
    pub(super) fn shake_hands(&mut self, offered: bool, seg: &Segment) {
        self.agreed = offered && seg.has(ECE) && !seg.has(CWR);
    }

    pub(super) fn hear(&mut self, seg: &Segment) {
        if !self.agreed || seg.has(SYN) {
            return;
        }
        self.echo &= !seg.has(CWR);
        self.echo |= seg.ecn == CE && !seg.data.is_empty();
        self.reduced |= seg.has(ECE);
    }

    /// Marks a segment to be sent.
    pub(super) fn mark(&mut self, seg: &mut Segment, new: bool) {
        if !self.agreed || !seg.has(ACK) {
            return;
        }
        if self.echo {
            seg.flags |= ECE;
        }
        if new && !seg.data.is_empty() {
            seg.ecn = ECT;
            if std::mem::take(&mut self.reduced) {
                seg.flags |= CWR;
            }
        }
    }
}

/// Marks a packet that begins at `l3`; false if its sender does not do ECN.
pub(super) fn mark_congestion(frame: &mut [u8], l3: usize) -> bool {
    let v4 = frame[l3] >> 4 == 4;
    let (at, shift) = if v4 { (l3 + 1, 0) } else { (l3 + 1, 4) };
    let bits = frame[at] >> shift & 3;
    if bits == 0 || bits == CE {
        return false;
    }
    frame[at] |= CE << shift;
    if v4 {
        frame[l3 + 10..l3 + 12].fill(0);
        let sum = checksum(&[&frame[l3..l3 + 20]]);
        frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// What a router answers the server for a frame that does not fit the next link.
pub(super) fn too_big(path: &Path, frame: &[u8], mtu: usize) -> Vec<u8> {
    let packet = &frame[path.link_len()..];
    let quoted = &packet[..path.ip_len() + 8];
    let v6 = path.is_v6();
    let mut message = vec![if v6 { 2 } else { 3 }, if v6 { 0 } else { 4 }, 0, 0];
    message.extend((mtu as u32).to_be_bytes());
    message.extend(quoted);
    let mut out = Vec::new();
    out.extend(path.server_mac);
    out.extend(path.client_mac);
    if let Some(tag) = path.vlan {
        out.extend([0x81, 0x00]);
        out.extend(tag.to_be_bytes());
    }
    let len = (message.len() as u16).to_be_bytes();
    match path.server.ip() {
        IpAddr::V4(to) => {
            let sum = checksum(&[&message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let total = (20 + message.len() as u16).to_be_bytes();
            let mut ip = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 1, 0, 0];
            ip.extend([10, 0, 0, 1]);
            ip.extend(to.octets());
            let sum = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            out.extend([0x08, 0x00]);
            out.extend(ip);
        }
        IpAddr::V6(to) => {
            let from = [0xfd; 16];
            let pseudo = [0, 0, len[0], len[1], 0, 0, 0, 58];
            let sum = checksum(&[&from, &to.octets(), &pseudo, &message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], 58, 64]);
            out.extend(from);
            out.extend(to.octets());
        }
    }
    out.extend(message);
    out
}
