use super::*;
use proptest::prelude::*;

fn contents(b: &RecvBuffer) -> Vec<u8> {
    b.readable().concat()
}

#[test]
fn an_empty_buffer_holds_no_memory() {
    let m = &mut Memory::new(usize::MAX);
    let mut b = RecvBuffer::new(1 << 20);
    assert_eq!(b.ring.allocated(), 0);
    assert_eq!(b.write_at(0, b"hello", m), 5);
    assert_eq!(b.len(), 0);
    b.commit(5);
    assert_eq!(
        (contents(&b), b.window()),
        (b"hello".to_vec(), (1 << 20) - 5)
    );
    let mut out = [0; 3];
    assert_eq!(b.read(&mut out, m), 3);
    assert_eq!(&out, b"hel");
    assert!(b.ring.allocated() > 0);
    b.consume(2, m);
    assert_eq!(b.ring.allocated(), 0);
    assert!(size_of::<RecvBuffer>() <= 32);
}

#[test]
fn out_of_order_octets_keep_the_memory() {
    let m = &mut Memory::new(usize::MAX);
    let mut b = RecvBuffer::new(4096);
    b.write_at(0, b"ab", m);
    b.write_at(3, b"de", m);
    b.commit(2);
    b.consume(2, m);
    assert!(b.is_empty() && b.ring.allocated() > 0);
    b.write_at(0, b"c", m);
    b.commit(3);
    assert_eq!(contents(&b), b"cde");
}

#[test]
fn what_passes_the_capacity_is_cut() {
    let m = &mut Memory::new(usize::MAX);
    let mut b = RecvBuffer::new(10);
    assert_eq!(b.write_at(8, b"xyz", m), 2);
    assert_eq!(b.write_at(10, b"xyz", m), 0);
    assert_eq!(b.write_at(usize::MAX, b"xyz", m), 0);
    b.set_capacity(3);
    assert_eq!(b.capacity(), 10);
}

#[test]
fn memory_that_runs_out_cuts_what_is_stored() {
    let m = &mut Memory::new(8192);
    let mut first = RecvBuffer::new(1 << 20);
    assert_eq!(first.write_at(0, &[1; 8192], m), 8192);
    let mut second = RecvBuffer::new(1 << 20);
    assert_eq!(second.write_at(0, &[2; 8192], m), 4096, "the floor");
    assert_eq!(second.write_at(6000, b"x", m), 0);
    first.release(m);
    second.commit(4096);
    assert_eq!(second.write_at(0, &[3; 4096], m), 4096);
    second.release(m);
    assert_eq!(m.used(), 0);
}

proptest! {
    /// Segments of a known stream in any order against the stream.
    #[test]
    fn segments_in_any_order_give_the_stream(
        capacity in 1usize..5000,
        ops in prop::collection::vec((0usize..3000, 1usize..1500, 0usize..4000, any::<bool>()), 1..60),
    ) {
        use crate::proto::assembler::Assembler;
        let octet = |i: usize| (i * 7 + i / 256) as u8;
        let m = &mut Memory::new(usize::MAX);
        let mut b = RecvBuffer::new(capacity);
        let mut a = Assembler::new();
        let (mut received, mut read) = (0usize, 0usize);
        for (offset, len, take, in_order) in ops {
            let offset = if in_order { 0 } else { offset };
            let data: Vec<u8> = (received + offset..received + offset + len).map(octet).collect();
            let stored = b.write_at(offset, &data, m);
            prop_assert!(stored <= len);
            prop_assert_eq!(stored, len.min(b.window().saturating_sub(offset)));
            if a.insert(offset as u32, stored as u32).is_ok() {
                let ready = a.pop_front() as usize;
                b.commit(ready);
                received += ready;
            }
            prop_assert_eq!(b.len(), received - read);
            prop_assert_eq!(b.window(), capacity - b.len());
            let mut out = vec![0; take];
            let n = b.read(&mut out, m);
            prop_assert_eq!(&out[..n], &(read..read + n).map(octet).collect::<Vec<_>>()[..]);
            read += n;
            if b.is_empty() && a.is_empty() {
                prop_assert!(b.ring.allocated() == 0 || b.high > 0);
            }
            prop_assert!(b.ring.allocated() <= capacity.next_power_of_two().max(512));
        }
    }
}
