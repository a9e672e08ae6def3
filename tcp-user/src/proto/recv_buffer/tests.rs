use super::*;
use proptest::prelude::*;

fn contents(b: &RecvBuffer) -> Vec<u8> {
    b.readable().concat()
}

#[test]
fn an_empty_buffer_holds_no_memory() {
    let mut b = RecvBuffer::new(1 << 20);
    assert_eq!(b.ring.allocated(), 0);
    assert_eq!(b.write_at(0, b"hello"), 5);
    assert_eq!(b.len(), 0);
    b.commit(5);
    assert_eq!(
        (contents(&b), b.window()),
        (b"hello".to_vec(), (1 << 20) - 5)
    );
    let mut out = [0; 3];
    assert_eq!(b.read(&mut out), 3);
    assert_eq!(&out, b"hel");
    assert!(b.ring.allocated() > 0);
    b.consume(2);
    assert_eq!(b.ring.allocated(), 0);
    assert!(size_of::<RecvBuffer>() <= 40);
}

#[test]
fn out_of_order_octets_keep_the_memory() {
    let mut b = RecvBuffer::new(4096);
    b.write_at(0, b"ab");
    b.write_at(3, b"de");
    b.commit(2);
    b.consume(2);
    assert!(b.is_empty() && b.ring.allocated() > 0);
    b.write_at(0, b"c");
    b.commit(3);
    assert_eq!(contents(&b), b"cde");
}

#[test]
fn what_passes_the_capacity_is_cut() {
    let mut b = RecvBuffer::new(10);
    assert_eq!(b.write_at(8, b"xyz"), 2);
    assert_eq!(b.write_at(10, b"xyz"), 0);
    assert_eq!(b.write_at(usize::MAX, b"xyz"), 0);
    b.set_capacity(3);
    assert_eq!(b.capacity(), 10);
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
        let mut b = RecvBuffer::new(capacity);
        let mut a = Assembler::new();
        let (mut received, mut read) = (0usize, 0usize);
        for (offset, len, take, in_order) in ops {
            let offset = if in_order { 0 } else { offset };
            let data: Vec<u8> = (received + offset..received + offset + len).map(octet).collect();
            let stored = b.write_at(offset, &data);
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
            let n = b.read(&mut out);
            prop_assert_eq!(&out[..n], &(read..read + n).map(octet).collect::<Vec<_>>()[..]);
            read += n;
            if b.is_empty() && a.is_empty() {
                prop_assert!(b.ring.allocated() == 0 || b.high > 0);
            }
            prop_assert!(b.ring.allocated() <= capacity.next_power_of_two().max(512));
        }
    }
}
