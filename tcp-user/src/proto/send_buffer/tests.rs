use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

#[test]
fn an_empty_buffer_holds_no_memory() {
    let m = &mut Memory::new(usize::MAX);
    let mut b = SendBuffer::new(8);
    assert_eq!(b.ring.allocated(), 0);
    assert_eq!(b.write(b"0123456789", m), 8);
    assert_eq!((b.len(), b.room()), (8, 0));
    let mut out = [0; 4];
    assert_eq!(b.copy_at(6, &mut out), 2);
    assert_eq!(&out[..2], b"67");
    assert_eq!(b.copy_at(9, &mut out), 0);
    b.ack(8, m);
    assert!(b.is_empty());
    assert_eq!((b.ring.allocated(), b.room()), (0, 8));
    assert!(size_of::<SendBuffer>() <= 32);
}

#[test]
fn a_lower_capacity_keeps_what_is_stored() {
    let m = &mut Memory::new(usize::MAX);
    let mut b = SendBuffer::new(8);
    b.write(b"01234567", m);
    b.set_capacity(4);
    assert_eq!((b.len(), b.room(), b.capacity()), (8, 0, 4));
    b.ack(5, m);
    assert_eq!((b.slices_at(0, 9).concat(), b.room()), (b"567".to_vec(), 1));
}

#[test]
fn memory_that_runs_out_cuts_a_write() {
    let m = &mut Memory::new(8192);
    let mut first = SendBuffer::new(1 << 20);
    assert_eq!(first.write(&[1; 10_000], m), 4096);
    assert_eq!(first.write(&[1; 10_000], m), 0);
    let mut second = SendBuffer::new(1 << 20);
    assert_eq!(second.write(&[1; 10_000], m), 4096);
    first.ack(4096, m);
    assert_eq!(second.write(&[1; 4000], m), 4000);
    second.ack(8096, m);
    assert_eq!(m.used(), 0);
}

proptest! {
    #[test]
    fn it_is_a_queue(
        capacity in 0usize..5000,
        ops in prop::collection::vec((0usize..2000, 0usize..3000, 0usize..5000, 0usize..2000), 1..40),
    ) {
        let m = &mut Memory::new(usize::MAX);
        let mut b = SendBuffer::new(capacity);
        let mut model = VecDeque::new();
        for (size, ack, offset, len) in ops {
            let data: Vec<u8> = (0..size).map(|i| (i * 7 + offset) as u8).collect();
            let n = b.write(&data, m);
            prop_assert_eq!(n, data.len().min(capacity - model.len()));
            model.extend(&data[..n]);
            let expected: Vec<u8> = model.iter().skip(offset).take(len).copied().collect();
            prop_assert_eq!(b.slices_at(offset, len).concat(), expected.clone());
            let mut out = vec![0; len];
            let copied = b.copy_at(offset, &mut out);
            prop_assert_eq!(&out[..copied], &expected[..]);
            let ack = ack.min(model.len());
            b.ack(ack, m);
            model.drain(..ack);
            prop_assert_eq!((b.len(), b.room()), (model.len(), capacity - model.len()));
            prop_assert_eq!(b.ring.allocated() == 0, model.is_empty());
        }
    }
}
