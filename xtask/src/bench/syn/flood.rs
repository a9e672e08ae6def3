//! The generator: a program run on live frames, in one call that a signal ends.

use std::{os::fd::AsFd as _, path::Path, sync::mpsc, thread, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray},
    programs::{Xdp, XdpMode},
};
use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    time::{ClockId, clock_gettime},
    unistd::{Pid, getpid, gettid},
};
use tcp_common::{
    flood::{self, Flood, answer},
    wire::Flags,
};
use xtask::bpf;

use super::{
    super::frames::{LINUX, Segment},
    PORT,
    bed::{self, Bed, RESPONDER},
};

/// Frames in a batch, between whose ends the kernel does nothing else on that CPU.
const BATCH: u32 = 64;
/// No flood is longer.
const LONGEST: Duration = Duration::from_mins(1);
/// What ends the call. Its default would end the process, so it has a handler.
const STOP: Signal = Signal::SIGUSR1;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// SYNs with the options of a Linux SYN.
    Options,
    /// SYNs without options.
    Bare,
    /// ACKs of no connection, with random numbers, with timestamps.
    Ack,
    /// The same without options.
    BareAck,
}

impl Shape {
    pub(super) const ALL: [Self; 4] = [Self::Options, Self::Bare, Self::Ack, Self::BareAck];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Options => "SYN, all options",
            Self::Bare => "SYN, no options",
            Self::Ack => "bad ACK, timestamps",
            Self::BareAck => "bad ACK, no options",
        }
    }

    /// Whether these are ACKs.
    pub(super) fn is_ack(self) -> bool {
        matches!(self, Self::Ack | Self::BareAck)
    }
}

/// The generator, with its programs in place.
pub(super) struct Generator {
    ebpf: Ebpf,
    flood: Array<MapData, Flood>,
    counters: Counters,
}

/// Counters of the generator's programs.
struct Counters {
    sent: PerCpuArray<MapData, u64>,
    answers: PerCpuArray<MapData, u64>,
}

/// What the generator has counted so far.
#[derive(Clone, Copy)]
pub(super) struct Counted {
    pub(super) sent: u64,
    pub(super) syn_acks: u64,
    pub(super) resets: u64,
    pub(super) others: u64,
}

impl Generator {
    /// Loads the object and attaches the counting program at the generator's end.
    pub(super) fn new(object: &Path, bed: &Bed) -> Result<Self> {
        let mut ebpf =
            Ebpf::load_file(object).with_context(|| format!("cannot load {}", object.display()))?;
        let mut take = |name| ebpf.take_map(name).context("a map is missing");
        let flood = take(flood::FLOOD)?.try_into()?;
        let counters = Counters {
            sent: take(flood::SENT)?.try_into()?,
            answers: take(flood::ANSWERS)?.try_into()?,
        };
        for name in [flood::GENERATOR, flood::TAKER] {
            program(&mut ebpf, name)?.load()?;
        }
        let taker = program(&mut ebpf, flood::TAKER)?;
        bed.generator
            .enter(|| taker.attach(&bed.generator_if, XdpMode::Driver))??;
        // SAFETY: the handler does nothing.
        unsafe {
            extern "C" fn nothing(_: libc::c_int) {}
            let handler = SigHandler::Handler(nothing);
            sigaction(
                STOP,
                &SigAction::new(handler, SaFlags::empty(), SigSet::empty()),
            )?;
        }
        Ok(Self {
            ebpf,
            flood,
            counters,
        })
    }

    /// Calls `f` while the flood is on; `rate` in frames per second, or as many as there can be.
    pub(super) fn during<T>(
        &mut self,
        bed: &Bed,
        shape: Shape,
        rate: Option<u32>,
        f: impl FnOnce(&mut dyn FnMut() -> Result<Counted>) -> Result<T>,
    ) -> Result<T> {
        let mut flood = template(bed, shape);
        flood.interval = rate.map_or(0, |rate| 1_000_000_000 / u64::from(rate));
        flood.until = (now()? + LONGEST).as_nanos() as u64;
        self.flood.set(0, flood, 0)?;

        let interface = bed
            .generator
            .enter(|| nix::net::if_::if_nametoindex(bed.generator_if.as_str()))??;
        let generator = self.ebpf.program(flood::GENERATOR).context("no program")?;
        let generator = generator.fd()?.as_fd();
        let counters = &self.counters;
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let worker = scope.spawn(move || {
                bed.generator.enter(|| {
                    bed::pin(Pid::from_raw(0), bed.cpus.generator)?;
                    bed::put_last()?;
                    let _ = sender.send(gettid());
                    let room = [0; flood::ROOM];
                    bpf::run_live(generator, &room, interface, u32::MAX, BATCH)
                        .context("cannot run the generator")
                })?
            });
            let Ok(thread) = receiver.recv() else {
                // It did not get that far.
                worker.join().expect("the generator does not panic")?;
                anyhow::bail!("the generator does not start");
            };
            let result = f(&mut || counters.read());
            // Whatever happens to the signal, nothing is sent from here on.
            flood.until = 0;
            self.flood.set(0, flood, 0)?;
            while !worker.is_finished() {
                // SAFETY: a system call without pointers; the thread may be gone.
                unsafe {
                    libc::syscall(
                        libc::SYS_tgkill,
                        getpid().as_raw(),
                        thread.as_raw(),
                        STOP as libc::c_int,
                    );
                }
                thread::sleep(Duration::from_millis(5));
            }
            worker.join().expect("the generator does not panic")?;
            result
        })
    }
}

impl Counters {
    fn read(&self) -> Result<Counted> {
        let sum = |map: &PerCpuArray<MapData, u64>, index| -> Result<u64> {
            Ok(map.get(&index, 0)?.iter().sum())
        };
        Ok(Counted {
            sent: sum(&self.sent, 0)?,
            syn_acks: sum(&self.answers, answer::SYN_ACK)?,
            resets: sum(&self.answers, answer::RST)?,
            others: sum(&self.answers, answer::OTHER)?,
        })
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

/// The time that `bpf_ktime_get_ns` tells.
fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// The frame without what differs from one to the next.
fn template(bed: &Bed, shape: Shape) -> Flood {
    let echo = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    let segment = Segment {
        from: "0.0.0.0:0".parse().expect("an address"),
        to: format!("{RESPONDER}:{PORT}").parse().expect("an address"),
        flags: if shape.is_ack() {
            Flags::ACK
        } else {
            Flags::SYN
        },
        seq: 0,
        ack: 0,
        options: match shape {
            Shape::Options => LINUX,
            Shape::Bare | Shape::BareAck => &[],
            Shape::Ack => &echo,
        },
    };
    let mut frame = segment.frame();
    frame[..6].copy_from_slice(&bed.responder_mac);
    frame[6..12].copy_from_slice(&bed.generator_mac);
    // The checksums are the complements of the sums, in the order of memory.
    let mut take = |at: usize| {
        let sum = !u16::from_ne_bytes([frame[at], frame[at + 1]]);
        frame[at..at + 2].fill(0);
        u32::from(sum)
    };
    let (ip_sum, tcp_sum) = (take(24), take(50));
    let len = frame.len() as u32;
    frame.resize(80, 0);
    let mut template = [0; 10];
    for (word, octets) in template.iter_mut().zip(frame.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*octets);
    }
    Flood {
        template,
        len,
        ip_sum,
        tcp_sum,
        ack_bits: if shape.is_ack() { u32::MAX } else { 0 },
        interval: 0,
        until: 0,
        reserved: 0,
    }
}
