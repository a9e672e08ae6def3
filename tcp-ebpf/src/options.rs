//! TCP options: the common layouts inline, all others in a function of its own.

use crate::classify::Segment;
use crate::packet::Packet;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use tcp_common::wire::options::{self, BadOption, Options, SackBlocks, Sink, Timestamps};

/// What [`walk_options`] found, as plain words in the caller's stack.
#[derive(Default)]
#[repr(C)]
pub struct Found {
    present: u32,
    mss: u32,
    window_scale: u32,
    tsval: u32,
    /// The echo; zero without timestamps.
    pub tsecr: u32,
    cursor: u32,
}

const MSS: u32 = 1;
const WINDOW_SCALE: u32 = 2;
const SACK_PERMITTED: u32 = 4;
const TIMESTAMPS: u32 = 8;

impl Found {
    /// Whether there are timestamps.
    #[inline(always)]
    pub const fn has_timestamps(&self) -> bool {
        self.present & TIMESTAMPS != 0
    }
}

impl Sink for Found {
    #[inline(always)]
    fn mss(&mut self, mss: u16) {
        self.mss = u32::from(mss);
        self.present |= MSS;
    }
    #[inline(always)]
    fn window_scale(&mut self, shift: u8) {
        self.window_scale = u32::from(shift);
        self.present |= WINDOW_SCALE;
    }
    #[inline(always)]
    fn sack_permitted(&mut self) {
        self.present |= SACK_PERMITTED;
    }
    #[inline(always)]
    fn timestamps(&mut self, timestamps: Timestamps) {
        self.tsval = timestamps.val;
        self.tsecr = timestamps.ecr;
        self.present |= TIMESTAMPS;
    }
    #[inline(always)]
    fn sack(&mut self, _blocks: SackBlocks) {}
    #[inline(always)]
    fn settle(&mut self, at: usize) -> usize {
        // SAFETY: a place of our own, written and read as one word.
        unsafe {
            core::ptr::write_volatile(&mut self.cursor, at as u32);
            (core::ptr::read_volatile(&self.cursor) & 0x7fff) as usize
        }
    }
}

/// Parses a SYN's options.
#[inline(always)]
pub fn parse(ctx: &XdpContext, packet: &Packet, seg: &Segment) -> Result<Options, BadOption> {
    let found = find(ctx, packet, seg)?;
    let has = |bit| found.present & bit != 0;
    Ok(Options {
        mss: has(MSS).then_some(found.mss as u16),
        window_scale: has(WINDOW_SCALE).then_some(found.window_scale as u8),
        sack_permitted: has(SACK_PERMITTED),
        timestamps: has(TIMESTAMPS).then_some(Timestamps {
            val: found.tsval,
            ecr: found.tsecr,
        }),
        sack: None,
    })
}

/// Finds the segment's options. What the common layouts lack is zero and not undefined, as it would
/// be in [`Options`]: the verifier does not let undefined words be moved about.
#[inline(always)]
pub fn find(ctx: &XdpContext, packet: &Packet, seg: &Segment) -> Result<Found, BadOption> {
    let (start, len) = (seg.options_at(), seg.options_len());
    let mut found = Found::default();
    if options::common(packet, start, len, &mut found) {
        return Ok(found);
    }
    // Another place, so that the first need not be in memory.
    let mut found = Found::default();
    match walk_options(ctx.ctx, start as u32, (start + len) as u32, &mut found) {
        0 => Ok(found),
        _ => Err(BadOption),
    }
}

/// Walks the options in `[start, end)`; nonzero if one is malformed. A global
/// function: the kernel verifies it once, on its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_options(ctx: *mut xdp_md, start: u32, end: u32, found: *mut Found) -> u32 {
    // SAFETY: the verifier holds callers to a pointer to a whole `Found`, or null.
    let Some(found) = (unsafe { found.as_mut() }) else {
        return 1;
    };
    let ctx = XdpContext::new(ctx);
    let packet = Packet::new(&ctx);
    let (start, end) = ((start & 0x7fff) as usize, (end & 0x7fff) as usize);
    u32::from(options::walk(&packet, start, end, found).is_err())
}
