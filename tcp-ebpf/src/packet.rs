//! Packet memory: the only place that makes references out of packet pointers.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use tcp_common::wire::link::MAX_LINK_LEN;
use tcp_common::wire::{Bytes, Window};

/// The frame between `data` and `data_end`. Invalid after [`resize`]: make a new one.
#[derive(Clone, Copy)]
pub struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    /// The frame of this run.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    /// Octets in the frame.
    #[inline(always)]
    pub fn len(self) -> usize {
        self.end - self.start
    }

    /// The `N` octets at `offset` for writing, or `None` if they do not all exist.
    #[inline(always)]
    pub fn window_mut<const N: usize>(&mut self, offset: usize) -> Option<WindowMut<N>> {
        let at = self.start + offset;
        if at + N > self.end {
            return None;
        }
        Some(WindowMut(at as *mut u8))
    }
}

impl Bytes for Packet {
    #[inline(always)]
    fn window<const N: usize>(&self, offset: usize) -> Option<Window<'_, N>> {
        let at = self.start + offset;
        if at + N > self.end {
            return None;
        }
        // SAFETY: inside the frame by the check above, which the verifier repeats.
        Some(Window(unsafe { &*(at as *const [u8; N]) }))
    }
}

/// `N` writable octets of the frame.
pub struct WindowMut<const N: usize>(*mut u8);

impl<const N: usize> WindowMut<N> {
    /// Stores `value` as it lies in a register at `O`.
    #[inline(always)]
    pub fn put<const O: usize, T: Copy>(&mut self, value: T) {
        const { assert!(O + size_of::<T>() <= N) };
        // SAFETY: in bounds by the assertion; BPF stores unaligned words on the
        // architectures we build for.
        unsafe { *self.0.add(O).cast::<T>() = value };
    }

    /// Stores `value` at `offset`, a constant after inlining.
    #[inline(always)]
    pub fn put_at<T: Copy>(&mut self, offset: usize, value: T) {
        if offset + size_of::<T>() <= N {
            // SAFETY: in bounds by the check, which is decided at compile time.
            unsafe { *self.0.add(offset).cast::<T>() = value };
        }
    }

    /// Stores a 16-bit number big-endian at `O`.
    #[inline(always)]
    pub fn put_be16<const O: usize>(&mut self, value: u16) {
        self.put::<O, u16>(value.to_be());
    }

    /// Stores a 32-bit number big-endian at `O`.
    #[inline(always)]
    pub fn put_be32<const O: usize>(&mut self, value: u32) {
        self.put::<O, u32>(value.to_be());
    }
}

/// Grows or cuts the frame to `len` octets with its link header in front; what
/// follows that is undefined. `false` if there is no room.
#[inline(always)]
pub fn resize(ctx: &XdpContext, len: usize) -> bool {
    let now = Packet::new(ctx).len();
    if now == len {
        return true;
    }
    let delta = len as i32 - now as i32;
    // SAFETY: `ctx` is the context of this run.
    if unsafe { bpf_xdp_adjust_tail(ctx.as_ptr().cast(), delta) } == 0 {
        return true;
    }
    // veth copies small frames into buffers that may end right behind them. There
    // is always room in front (`XDP_PACKET_HEADROOM`).
    // SAFETY: as above.
    delta > 0
        && unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), -delta) } == 0
        && pull_link(ctx, delta as usize).is_some()
}

/// Moves the link header `by` octets to the front of the frame, and with a shorter
/// one some octets behind it.
#[inline(always)]
fn pull_link(ctx: &XdpContext, by: usize) -> Option<()> {
    let mut packet = Packet::new(ctx);
    // In this order: the check of the farther octets implies the other, which LLVM
    // then leaves out and the verifier misses.
    let mut to = packet.window_mut::<MAX_LINK_LEN>(0)?;
    // The verifier wants a bound; an answer grows by its options at the most.
    let from = packet.window::<MAX_LINK_LEN>(by & 0x3f)?;
    let words = (
        from.ne32::<0>(),
        from.ne32::<4>(),
        from.ne32::<8>(),
        from.ne32::<12>(),
        from.ne32::<16>(),
        from.ne16::<20>(),
    );
    to.put::<0, u32>(words.0);
    to.put::<4, u32>(words.1);
    to.put::<8, u32>(words.2);
    to.put::<12, u32>(words.3);
    to.put::<16, u32>(words.4);
    to.put::<20, u16>(words.5);
    Some(())
}
