//! One connection: the TCB and what an application does with it.
//!
//! A connection knows nothing of other connections, of ids or of queues. Every
//! entry point returns a [`Step`]; what it means for the endpoint (an event, a
//! TIME-WAIT entry, an RST) is the endpoint's to do.
//!
//! - `receive`: a segment in the order of RFC 9293 §3.10.7.4
//! - `acknowledge`: its fifth step, the ACK field
//! - `flight`: what is in flight and loss recovery, with `scoreboard`, `rack` and `probe`
//! - `send`: what to send next, and sending it
//! - `timer`: retransmission, persist, delayed ACK, keepalive, FIN-WAIT-2
//! - `ecn`, `path_mtu`: what the network says
//! - `state`: the states

mod acknowledge;
mod ecn;
mod flight;
mod path_mtu;
mod probe;
mod rack;
mod receive;
mod scoreboard;
mod send;
pub(super) mod state;
mod timer;

use self::ecn::Ecn;
use self::flight::Flight;
use self::rack::Reordering;
use self::state::Phase;
pub(super) use self::timer::NEVER;
use self::timer::Timers;
use super::assembler::Assembler;
use super::congestion::{Congestion, Controller};
use super::endpoint::{ConnInfo, Refused};
use super::frame::{LinkHeader, TIMESTAMPS_LEN};
use super::limit::AckLimit;
use super::memory::Memory;
use super::recv_buffer::RecvBuffer;
use super::rtt::RttEstimator;
use super::segment::Segment;
use super::send_buffer::SendBuffer;
use super::time_wait::TimeWait;
use super::{CloseReason, Config, Instant, State};
use std::time::Duration;
use tcp_common::cookie::Negotiated;
use tcp_common::flow::FlowKey;
use tcp_common::seq::SeqNum;
use tcp_common::wire::{Timestamps, ip, tcp};

/// What a connection may use of its endpoint.
pub(super) struct Env<'a> {
    pub(super) config: &'a Config,
    pub(super) limit: &'a mut AckLimit,
    pub(super) memory: &'a mut Memory,
    /// What is worth a word in the trace about the segment at hand.
    pub(super) note: &'static str,
}

/// What came of a segment, a timer or a verb.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum Step {
    /// The connection goes on.
    Open,
    /// It enters TIME-WAIT; its last ACK is due.
    TimeWait,
    /// It is CLOSED.
    Closed(CloseReason),
    /// It is CLOSED, and the peer is told by an RST with this sequence number.
    Abort(SeqNum),
}

/// The send sequence space (RFC 9293 §3.3.1).
struct Send {
    una: SeqNum,
    nxt: SeqNum,
    /// Octets, scaled.
    wnd: u32,
    wl1: SeqNum,
    wl2: SeqNum,
    /// Largest window ever announced (RFC 9293 §3.8.6.2.1, RFC 5961 §5.2).
    max_wnd: u32,
    /// End of the last segment sent that was not full (Minshall's Nagle).
    small: SeqNum,
    /// Octets of text in a segment at most.
    mss: u16,
    /// Shift count of the windows that the peer announces.
    shift: u8,
}

/// The receive sequence space.
struct Receive {
    nxt: SeqNum,
    /// The right edge of the window announced; never moves left.
    edge: SeqNum,
    /// RCV.NXT in the last segment sent (RFC 7323's Last.ACK.sent).
    acked: SeqNum,
    /// Sequence number of a FIN that came before the text in front of it.
    fin: Option<SeqNum>,
    /// A duplicate to report (RFC 2883): its start and octets, 0 if there is none.
    duplicate: (SeqNum, u16),
    /// Largest text seen, an estimate of the peer's segment size.
    mss: u16,
    /// Shift count of the windows that we announce.
    shift: u8,
    tuning: Tuning,
}

/// Dynamic right-sizing: how much the application reads in a round trip.
struct Tuning {
    /// The round ends when text beyond this arrives: its sender knows of the window that
    /// was announced as the round began.
    end: SeqNum,
    /// Octets read when it began, modulo 2^32.
    read: u32,
    /// When that was, milliseconds.
    start: u32,
}

/// The timestamps option's state (RFC 7323 §4.3, §5.4).
#[derive(Clone, Copy)]
struct Stamps {
    /// Our clock is `offset` plus milliseconds.
    offset: u32,
    /// TS.Recent.
    recent: u32,
    /// When TS.Recent was set, whole seconds.
    recent_at: u32,
}

/// Days after which TS.Recent says nothing any more (RFC 7323 §5.5), in seconds.
const STAMP_VALID: u32 = 24 * 24 * 3600;

impl Stamps {
    fn at(&self, now: Instant) -> Timestamps {
        Timestamps {
            val: self.offset.wrapping_add(now.millis()),
            ecr: self.recent,
        }
    }

    /// R1 of RFC 7323 §5.3.
    fn is_old(&self, now: Instant, val: u32) -> bool {
        (val.wrapping_sub(self.recent) as i32) < 0
            && seconds(now).wrapping_sub(self.recent_at) < STAMP_VALID
    }
}

fn seconds(now: Instant) -> u32 {
    (now.0 / 1_000_000_000) as u32
}

/// A connection.
pub(super) struct Connection {
    pub(super) flow: FlowKey,
    link: LinkHeader,
    phase: Phase,
    /// The client's state, inferred.
    pub(super) client: State,
    snd: Send,
    rcv: Receive,
    stamps: Option<Stamps>,
    ecn: Ecn,
    /// SND.MSS before the path lowered it, and when it did, whole minutes.
    full_mss: u16,
    lowered_at: u16,
    /// SACK negotiated.
    sack: bool,
    rtt: RttEstimator,
    congestion: Controller,
    /// What is in flight; `None` while nothing is.
    flight: Option<Box<Flight>>,
    reordering: Reordering,
    send_buffer: SendBuffer,
    recv_buffer: RecvBuffer,
    assembler: Assembler,
    pub(super) timers: Timers,
    /// Retransmissions or probes without an answer.
    retries: u8,
    /// R2: how many of those at most.
    max_retries: u8,
    /// Probes without an answer, with [`timer::KEEPALIVE`] if they are wanted at all.
    keepalives: u8,
    /// An ACK is due now.
    ack_now: bool,
    /// Duplicate ACKs due, one for each segment out of order (RFC 5681 §4.2).
    dup_acks_due: u8,
    /// The window keeps data back and the persist timer fired.
    probe: bool,
    keepalive_due: bool,
    /// The congestion window, not the application, limits what is sent.
    cwnd_limited: bool,
    nagle: bool,
    /// Fully closed: nobody reads any more.
    orphan: bool,
    /// FIN-WAIT-2 is limited: nobody waits for what the peer may still have to say.
    finishing: bool,
    /// A write was cut short.
    want_write: bool,
    /// Signals for the application, taken by the endpoint.
    readable: bool,
    writable: bool,
    /// A `Readable` event lies in the endpoint's queue.
    pub(super) readable_queued: bool,
    /// The connection lies in the endpoint's queue of senders.
    pub(super) send_queued: bool,
    /// Challenge ACKs sent in a second, in four bits; above them, which second.
    challenges: u16,
    /// Whole seconds.
    created: u32,
    /// When the last valid segment came, and when text was last sent; milliseconds
    /// modulo 2^32.
    heard: u32,
    sent: u32,
    bytes_in: u64,
    bytes_out: u64,
    retransmits: u32,
}

/// What the handshake of a connection has settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    /// The client's initial sequence number, and ours.
    pub(super) irs: SeqNum,
    pub(super) iss: SeqNum,
    pub(super) negotiated: Negotiated,
    /// `TSval` of our SYN-ACK and the client's last, if timestamps were negotiated.
    pub(super) timestamps: Option<(u32, u32)>,
}

impl Opening {
    /// The one that a segment with a valid cookie proves.
    pub(super) fn of_cookie(seg: &Segment<'_>, negotiated: Negotiated) -> Self {
        Self {
            irs: seg.seq - 1,
            iss: seg.ack - 1,
            negotiated,
            timestamps: seg
                .timestamps
                .filter(|_| negotiated.timestamps)
                .map(|ts| (ts.ecr, ts.val)),
        }
    }
}

impl Connection {
    /// The connection whose handshake `seg` completes: it acknowledges our SYN. It is
    /// processed afterwards like any other.
    pub(super) fn open(
        now: Instant,
        seg: &Segment<'_>,
        opening: &Opening,
        config: &Config,
    ) -> Self {
        let negotiated = opening.negotiated;
        let headers = tcp::HEADER_LEN
            + if seg.flow.is_v4() {
                ip::V4_LEN
            } else {
                ip::V6_LEN
            };
        // RFC 6691: the MSS option does not count options, so they come off here.
        let stamps = opening.timestamps.map(|(ours, theirs)| Stamps {
            offset: ours.wrapping_sub(now.millis()),
            recent: theirs,
            recent_at: seconds(now),
        });
        let mss = negotiated
            .mss
            .min(config.mtu.saturating_sub(headers as u16))
            .saturating_sub(if stamps.is_some() {
                TIMESTAMPS_LEN as u16
            } else {
                0
            })
            .max(1);
        let (snd_shift, rcv_shift) = match negotiated.window_scale {
            Some(shift) => (shift.min(14), config.window_scale.min(14)),
            None => (0, 0),
        };
        let wnd = u32::from(seg.window) << snd_shift;
        let una = opening.iss + 1;
        let rcv_nxt = opening.irs + 1;
        let mut connection = Self {
            flow: seg.flow,
            link: seg.reply_link(),
            phase: Phase::Established,
            client: State::Established,
            snd: Send {
                una,
                nxt: una,
                wnd,
                wl1: seg.seq,
                wl2: seg.ack,
                max_wnd: wnd,
                small: una,
                mss,
                shift: snd_shift,
            },
            rcv: Receive {
                nxt: rcv_nxt,
                edge: rcv_nxt + u32::from(config.initial_window),
                acked: rcv_nxt,
                fin: None,
                duplicate: (rcv_nxt, 0),
                mss: 0,
                shift: rcv_shift,
                tuning: Tuning {
                    end: rcv_nxt + u32::from(config.initial_window),
                    read: 0,
                    start: now.millis(),
                },
            },
            stamps,
            ecn: Ecn::new(negotiated.ecn, una),
            full_mss: mss,
            lowered_at: 0,
            sack: negotiated.sack,
            rtt: RttEstimator::new(config.rto_min),
            congestion: Controller::new(config.congestion, u32::from(mss)),
            flight: None,
            reordering: Reordering::new(),
            send_buffer: SendBuffer::new(config.send_buffer.min(acknowledge::FIRST_SEND_BUFFER)),
            recv_buffer: RecvBuffer::new(receive::capacity(
                usize::from(config.initial_window),
                rcv_shift,
            )),
            assembler: Assembler::new(),
            timers: Timers::new(),
            retries: 0,
            max_retries: config.max_retries,
            keepalives: if config.keepalive.is_some() {
                timer::KEEPALIVE
            } else {
                0
            },
            ack_now: false,
            dup_acks_due: 0,
            probe: false,
            keepalive_due: false,
            cwnd_limited: false,
            nagle: true,
            orphan: false,
            finishing: false,
            want_write: false,
            readable: false,
            writable: false,
            readable_queued: false,
            send_queued: false,
            challenges: 0,
            created: seconds(now),
            heard: now.millis(),
            sent: now.millis(),
            bytes_in: 0,
            bytes_out: 0,
            retransmits: 0,
        };
        connection.start_keepalive(now, config);
        connection
    }

    /// What the time from SYN-ACK to ACK tells; `None`: it was sent more than once (Karn, RFC
    /// 6298 §3). Then the initial window is one segment (RFC 5681 §3.1) and the RTO 3 s (RFC
    /// 6298 §5.7).
    pub(super) fn measure_handshake(&mut self, rtt: Option<Duration>) {
        if let Some(rtt) = rtt {
            self.rtt.sample(rtt);
        } else {
            self.congestion.set_cwnd(u32::from(self.snd.mss));
            self.rtt.syn_was_lost();
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Nobody will read or write any more.
    pub(super) fn is_orphan(&self) -> bool {
        self.orphan
    }

    /// Windows of incoming segments are this many bits short.
    pub(super) fn peer_shift(&self) -> u8 {
        self.snd.shift
    }

    /// Leaves only the received data.
    pub(super) fn linger(&mut self, reason: CloseReason) {
        self.phase = Phase::Lingering { reason };
        self.timers = Timers::new();
    }

    /// Whether the application has something to read, and can write again: each once.
    pub(super) fn take_signals(&mut self) -> (bool, bool) {
        (
            std::mem::take(&mut self.readable) && !self.orphan,
            std::mem::take(&mut self.writable) && !self.orphan,
        )
    }

    /// What remains in TIME-WAIT.
    pub(super) fn time_wait(&self) -> TimeWait {
        TimeWait {
            flow: self.flow,
            snd_nxt: self.snd.nxt,
            rcv_nxt: self.rcv.nxt,
            timestamps: self.stamps.map(|s| (s.offset, s.recent)),
            window: self.window_to_announce().0,
            shifts: (self.rcv.shift, self.snd.shift),
            client: self.client,
        }
    }

    /// The peer waits for an ACK.
    pub(super) fn ack_due(&self) -> bool {
        self.ack_now
    }

    pub(super) fn link(&self) -> &LinkHeader {
        &self.link
    }

    /// RCV.NXT, for the acknowledgment field of an RST.
    pub(super) fn rcv_nxt(&self) -> SeqNum {
        self.rcv.nxt
    }

    // The application's verbs (RFC 9293 §3.10).

    pub(super) fn read(&mut self, buf: &mut [u8], memory: &mut Memory) -> Result<usize, Refused> {
        if self.orphan {
            return Err(Refused);
        }
        let octets = self.recv_buffer.read(buf, memory);
        self.after_read();
        Ok(octets)
    }

    pub(super) fn peek(&self) -> Result<[&[u8]; 2], Refused> {
        if self.orphan {
            return Err(Refused);
        }
        Ok(self.recv_buffer.readable())
    }

    pub(super) fn consume(&mut self, octets: usize, memory: &mut Memory) -> Result<(), Refused> {
        if self.orphan {
            return Err(Refused);
        }
        let octets = octets.min(self.recv_buffer.len());
        self.recv_buffer.consume(octets, memory);
        self.after_read();
        Ok(())
    }

    pub(super) fn unread(&self) -> usize {
        self.recv_buffer.len()
    }

    pub(super) fn is_read_closed(&self) -> bool {
        self.orphan || (!self.phase.receives() && self.recv_buffer.is_empty())
    }

    pub(super) fn write(
        &mut self,
        now: Instant,
        data: &[u8],
        memory: &mut Memory,
    ) -> Result<usize, Refused> {
        if self.orphan || !self.phase.accepts_writes() {
            return Err(Refused);
        }
        let octets = self.send_buffer.write(data, memory);
        self.want_write |= octets < data.len();
        self.arm_retransmit(now);
        Ok(octets)
    }

    pub(super) fn send_room(&self) -> usize {
        if self.orphan || !self.phase.accepts_writes() {
            return 0;
        }
        self.send_buffer.room()
    }

    pub(super) fn set_nagle(&mut self, on: bool) {
        self.nagle = on;
    }

    /// R2 of RFC 9293 §3.8.3, as a number of retransmissions.
    pub(super) fn set_max_retries(&mut self, retries: u8) {
        self.max_retries = retries.max(1);
    }

    /// The timestamps of a segment sent now.
    pub(super) fn timestamps(&self, now: Instant) -> Option<Timestamps> {
        self.stamps.map(|s| s.at(now))
    }

    /// CLOSE of one half (RFC 9293 §3.10.4).
    pub(super) fn shutdown(&mut self, now: Instant) -> Result<(), Refused> {
        match self.phase {
            Phase::Established => self.phase = Phase::FinWait1,
            Phase::CloseWait { .. } => self.phase = Phase::CloseWait { closing: true },
            Phase::Lingering { .. } => return Err(Refused),
            Phase::FinWait1 | Phase::FinWait2 | Phase::Closing | Phase::LastAck => {}
        }
        self.arm_retransmit(now);
        Ok(())
    }

    /// CLOSE of both halves. Received data that nobody read is lost, and the peer
    /// is told so by an RST (RFC 9293 §3.6.1, RFC 2525 §2.17).
    pub(super) fn close(&mut self, now: Instant, config: &Config) -> Step {
        if !self.recv_buffer.is_empty() || !self.assembler.is_empty() {
            return self.abort();
        }
        self.orphan = true;
        self.want_write = false;
        let _ = self.finish(now, config);
        Step::Open
    }

    /// CLOSE of one half, after which the peer is not waited for without end.
    pub(super) fn finish(&mut self, now: Instant, config: &Config) -> Result<(), Refused> {
        self.finishing = true;
        self.shutdown(now)?;
        if self.phase == Phase::FinWait2 {
            self.start_fin_wait_2(now, config);
        }
        Ok(())
    }

    /// ABORT (RFC 9293 §3.10.5).
    pub(super) fn abort(&self) -> Step {
        Step::Abort(self.snd.nxt)
    }

    /// Gives back the memory of the buffers; nothing is done with the connection after that.
    pub(super) fn release(&mut self, memory: &mut Memory) {
        self.send_buffer.release(memory);
        self.recv_buffer.release(memory);
    }

    pub(super) fn info(&self, now: Instant) -> ConnInfo {
        ConnInfo {
            id: None,
            flow: self.flow,
            state: self.phase.name(),
            send_queue: self.send_buffer.len(),
            recv_queue: self.recv_buffer.len(),
            srtt: self.rtt.srtt(),
            rttvar: self.rtt.rttvar(),
            rto: self.rtt.rto(),
            cwnd: self.congestion.cwnd(),
            ssthresh: self.congestion.ssthresh(),
            in_flight: self.pipe(),
            mss: self.snd.mss,
            options: super::Options {
                timestamps: self.stamps.is_some(),
                sack: self.sack,
                ecn: self.ecn.agreed,
                shifts: (self.snd.shift, self.rcv.shift),
                nodelay: !self.nagle,
                keepalive: self.keepalives & timer::KEEPALIVE != 0,
            },
            snd_wnd: self.snd.wnd,
            rcv_wnd: self.rcv.edge.distance_from(self.rcv.nxt),
            backoff: self.retries,
            heard: Duration::from_millis(u64::from(now.millis().wrapping_sub(self.heard))),
            sent: Duration::from_millis(u64::from(now.millis().wrapping_sub(self.sent))),
            retransmits: u64::from(self.retransmits),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            age: Duration::from_secs(u64::from(seconds(now).wrapping_sub(self.created))),
        }
    }

    /// A window update is due when the window can grow by two segments or half the
    /// buffer (RFC 9293 §3.8.6.2.2; two rather than one segment, as reads come in
    /// small pieces).
    fn after_read(&mut self) {
        let promised = self.rcv.edge.distance_from(self.rcv.nxt) as usize;
        let enough = (2 * usize::from(self.rcv.mss.max(536))).min(self.recv_buffer.capacity() / 2);
        if self.phase.receives() && self.open_window() >= promised + enough {
            self.ack_now = true;
        }
    }
}

/// Most of an idle connection's memory; DESIGN wants 400 octets in all.
const _: () = assert!(size_of::<Connection>() <= 400);
