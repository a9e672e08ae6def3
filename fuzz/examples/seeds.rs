//! Writes the first inputs of the corpus: `cargo run --example seeds`.

use std::{fs, io, path::Path};
use tcp_common::wire::options::SynOptions;
use tcp_common::wire::{Timestamps, link};
use tcp_xdp_fuzz::targets;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let save = |target: &str, name: &str, octets: &[u8]| {
        let dir = corpus.join(target);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(name), octets)
    };
    for (name, v6, ts) in [
        ("v4-plain", false, false),
        ("v4-ts", false, true),
        ("v6-ts", true, true),
    ] {
        let offered = SynOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: ts.then_some(Timestamps { val: 1000, ecr: 0 }),
            sack: None,
        };
        let mut all = Vec::new();
        for (i, frame) in targets::conversation(v6, &offered).into_iter().enumerate() {
            let mut one = vec![1];
            one.extend((frame.len() as u16).to_be_bytes());
            one.extend(&frame);
            all.extend(&one);
            // Tagged twice.
            let mut tagged = frame.clone();
            tagged.splice(12..12, [0x88, 0xa8, 0, 7, 0x81, 0, 0, 9]);
            assert!(link::parse(&tagged[..]).is_some());
            if i == 1 {
                one = vec![0];
                one.extend((tagged.len() as u16).to_be_bytes());
                one.extend(&tagged);
                save("frame", &format!("{name}-tagged"), &one)?;
            }
        }
        save("frame", name, &all)?;
    }
    let linux: &[u8] = &[
        2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 9,
    ];
    let windows: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2];
    let ack: &[u8] = &[1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 8];
    let sack: &[u8] = &[
        1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 8, 1, 1, 5, 18, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0,
        5, 0,
    ];
    let unknown: &[u8] = &[254, 6, 1, 2, 3, 4, 3, 3, 200, 0];
    let short: &[u8] = &[2, 4, 5];
    let zero: &[u8] = &[1, 254, 0, 1];
    for (name, octets) in [
        ("linux-syn", linux),
        ("windows-syn", windows),
        ("timestamps", ack),
        ("sack", sack),
        ("unknown-kind", unknown),
        ("cut", short),
        ("length-zero", zero),
        ("nops", &[1; 40]),
    ] {
        save("options", name, octets)?;
    }
    // Setup; then the operations of `targets::connection`.
    let echo: &[u8] = &[
        0x0e, 1, 1, 44, 10, 255, 255, 9, 4, 0, 4, 7, 40, 17, 13, 4, 8, 2, 88,
    ];
    let reorder: &[u8] = &[
        0x0e, 3, 200, 1, 5, 0xb4, 3, 10, 1, 5, 0xb4, 2, 1, 5, 0xb4, 1, 5, 0xb4, 2, 1, 1, 0, 11, 20,
        0, 17, 4, 13, 7, 9,
    ];
    let loss: &[u8] = &[
        0x0c, 9, 30, 0, 6, 20, 0, 5, 0xb4, 11, 0, 6, 15, 0, 5, 0xb4, 16, 0, 6, 10, 0, 5, 0xb4, 21,
        0, 8, 0, 12, 4, 4, 13, 4, 8, 0, 200,
    ];
    let zero_window: &[u8] = &[
        0x02, 16, 0, 0, 4, 9, 8, 0, 8, 1, 0, 4, 8, 2, 0, 16, 255, 0, 4, 4, 12, 4, 17, 10, 1, 1,
    ];
    let wild: &[u8] = &[
        0x0f, 0, 0x14, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0,
        0x18, 255, 0, 0, 9, 255, 255, 0, 3, 30, 255, 7, 18, 19, 14,
    ];
    let close: &[u8] = &[
        0x4b, 9, 1, 0, 13, 4, 17, 8, 1, 0, 17, 18, 8, 2, 0, 19, 8, 3, 0, 4,
    ];
    let silent: &[u8] = &[0xc2, 9, 16, 0, 8, 140, 0, 8, 140, 0, 8, 140, 0];
    for (name, octets) in [
        ("echo", echo),
        ("reorder", reorder),
        ("loss", loss),
        ("zero-window", zero_window),
        ("wild", wild),
        ("close", close),
        ("silent-peer", silent),
    ] {
        save("connection", name, octets)?;
    }
    for target in ["frame", "options", "connection"] {
        let run = match target {
            "frame" => targets::frame,
            "options" => targets::options,
            _ => targets::connection,
        };
        for entry in fs::read_dir(corpus.join(target))? {
            let path = entry?.path();
            println!("{}", path.display());
            run(&fs::read(path)?);
        }
    }
    Ok(())
}
