//! Bounds-checked access to packet memory.

/// Packet memory that can be looked at in fixed-size windows.
pub trait Bytes {
    /// The `N` octets at `offset`, or `None` if they do not all exist.
    fn window<const N: usize>(&self, offset: usize) -> Option<Window<'_, N>>;
}

impl Bytes for [u8] {
    #[inline]
    fn window<const N: usize>(&self, offset: usize) -> Option<Window<'_, N>> {
        let octets = self.get(offset..)?.first_chunk::<N>()?;
        Some(Window(octets))
    }
}

/// `N` octets of a frame. Offsets are checked against `N` at compile time.
#[derive(Clone, Copy)]
pub struct Window<'a, const N: usize>(pub &'a [u8; N]);

impl<const N: usize> Window<'_, N> {
    /// The octet at `O`.
    #[inline(always)]
    pub fn u8<const O: usize>(&self) -> u8 {
        const { assert!(O < N) };
        self.0[O]
    }

    /// Two octets at `O`, as they lie in memory.
    #[inline(always)]
    pub fn ne16<const O: usize>(&self) -> u16 {
        const { assert!(O + 2 <= N) };
        #[cfg(target_arch = "bpf")]
        // SAFETY: in bounds by the assertion above; BPF on the architectures we
        // build for loads unaligned words, but LLVM splits a load that is marked
        // unaligned into octets.
        unsafe {
            *self.0.as_ptr().add(O).cast::<u16>()
        }
        #[cfg(not(target_arch = "bpf"))]
        u16::from_ne_bytes([self.0[O], self.0[O + 1]])
    }

    /// Four octets at `O`, as they lie in memory.
    #[inline(always)]
    pub fn ne32<const O: usize>(&self) -> u32 {
        const { assert!(O + 4 <= N) };
        #[cfg(target_arch = "bpf")]
        // SAFETY: as in `ne16`.
        unsafe {
            *self.0.as_ptr().add(O).cast::<u32>()
        }
        #[cfg(not(target_arch = "bpf"))]
        u32::from_ne_bytes([self.0[O], self.0[O + 1], self.0[O + 2], self.0[O + 3]])
    }

    /// A big-endian 16-bit number at `O`.
    #[inline(always)]
    pub fn be16<const O: usize>(&self) -> u16 {
        u16::from_be(self.ne16::<O>())
    }

    /// A big-endian 32-bit number at `O`.
    #[inline(always)]
    pub fn be32<const O: usize>(&self) -> u32 {
        u32::from_be(self.ne32::<O>())
    }
}
