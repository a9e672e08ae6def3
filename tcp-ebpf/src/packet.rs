//! Packet memory: the only place that makes references out of packet pointers.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_tail;
use aya_ebpf::programs::XdpContext;
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

/// Grows or cuts the frame's tail to `len` octets; `false` if there is no room.
#[inline(always)]
pub fn resize(ctx: &XdpContext, len: usize) -> bool {
    let now = Packet::new(ctx).len();
    if now == len {
        return true;
    }
    let delta = len as i32 - now as i32;
    // SAFETY: `ctx` is the context of this run.
    unsafe { bpf_xdp_adjust_tail(ctx.as_ptr().cast(), delta) == 0 }
}
