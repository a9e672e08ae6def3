use super::*;

fn segment(
    at: f64,
    way: Way,
    flags: &str,
    numbers: (u32, u32, usize),
    states: (&str, &str),
) -> Segment {
    let syn = flags.contains("SYN");
    Segment {
        at,
        remote: "192.0.2.1:40000".parse().expect("literal"),
        local: "192.0.2.2:80".parse().expect("literal"),
        direction: way,
        by_xdp: syn,
        flags: flags.into(),
        seq: numbers.0,
        ack: numbers.1,
        len: numbers.2,
        window: 64_240,
        mss: syn.then_some(1460),
        window_scale: None,
        sack_permitted: syn,
        timestamps: None,
        sack: Vec::new(),
        client: states.0.into(),
        server: states.1.into(),
        note: String::new(),
    }
}

/// A handshake, a request, its answer half a second later, and an RST.
fn drawn(wanted: usize) -> Drawing {
    let mut drawing = Drawing::new(wanted);
    let (opened, open) = (("SYN-SENT", "SYN-RECEIVED"), ("ESTABLISHED", "ESTABLISHED"));
    // Of an older connection: not drawn.
    drawing.push(segment(0.5, Way::Out, "ACK", (7, 7, 0), open));
    drawing.push(segment(1.0, Way::In, "SYN", (u32::MAX, 0, 0), opened));
    drawing.push(segment(1.001, Way::Out, "SYN,ACK", (5000, 0, 0), opened));
    drawing.push(segment(1.002, Way::In, "ACK", (0, 5001, 0), open));
    drawing.push(segment(1.003, Way::In, "PSH,ACK", (0, 5001, 100), open));
    drawing.push(segment(1.503, Way::Out, "PSH,ACK", (5001, 100, 20), open));
    assert!(!drawing.is_complete());
    drawing.push(segment(
        1.504,
        Way::In,
        "RST",
        (100, 0, 0),
        ("CLOSED", "CLOSED"),
    ));
    drawing
}

#[test]
fn a_drawing_is_complete_when_its_connections_have_ended() {
    let drawing = drawn(1);
    assert!(drawing.is_complete());
    assert_eq!(drawing.len(), (1, 6));
    assert!(!drawn(2).is_complete());
    assert!(Drawing::new(1).is_empty());
}

#[test]
fn the_svg_shows_states_numbers_gaps_and_xdp() {
    let svg = drawn(1).svg();
    for part in [
        "192.0.2.1:40000 ⇄ 192.0.2.2:80",
        "6 segments in 504.000 ms",
        ">SYN</tspan>  seq 0  win 64240",
        ">SYN ACK</tspan>  seq 0  ack 1",
        ">PSH ACK</tspan>  seq 1  ack 101  len 20",
        "mss 1460 · sack permitted",
        "500.000 ms later",
        ">SYN-SENT</text>",
        ">ESTABLISHED</text>",
        ">CLOSED</text>",
    ] {
        assert!(svg.contains(part), "{part}: {svg}");
    }
    assert_eq!(svg.matches(">XDP</text>").count(), 2);
    // Well-formed: every element is closed.
    for name in ["svg", "g", "text", "tspan", "style"] {
        let open =
            svg.matches(&format!("<{name} ")).count() + svg.matches(&format!("<{name}>")).count();
        assert_eq!(open, svg.matches(&format!("</{name}>")).count(), "{name}");
    }
}

#[test]
fn mermaid_shows_the_same() {
    assert_eq!(
        drawn(1).mermaid(),
        "sequenceDiagram\n    \
         participant C as client 192.0.2.1:40000\n    \
         participant S as server 192.0.2.2:80\n    \
         C-->>S: SYN seq 0 win 64240<br/>mss 1460 · sack permitted (XDP)\n    \
         Note left of C: SYN-SENT\n    \
         Note right of S: SYN-RECEIVED\n    \
         S-->>C: SYN+ACK seq 0 ack 1 win 64240<br/>mss 1460 · sack permitted (XDP)\n    \
         C->>S: ACK seq 1 ack 1 win 64240\n    \
         Note left of C: ESTABLISHED\n    \
         Note right of S: ESTABLISHED\n    \
         C->>S: PSH+ACK seq 1 ack 1 len 100 win 64240\n    \
         Note over C,S: 500.000 ms later\n    \
         S->>C: PSH+ACK seq 1 ack 101 len 20 win 64240\n    \
         C->>S: RST seq 101 win 64240\n    \
         Note left of C: CLOSED\n    \
         Note right of S: CLOSED\n"
    );
}

#[test]
fn a_long_connection_is_drawn_from_both_ends() {
    let mut drawing = Drawing::new(1);
    let open = ("ESTABLISHED", "ESTABLISHED");
    drawing.push(segment(
        0.0,
        Way::In,
        "SYN",
        (0, 0, 0),
        ("SYN-SENT", "SYN-RECEIVED"),
    ));
    for i in 1..10_000_u32 {
        drawing.push(segment(
            f64::from(i) / 1e6,
            Way::Out,
            "ACK",
            (i, 1, 1),
            open,
        ));
    }
    assert_eq!(drawing.len(), (1, 10_000));
    let svg = drawing.svg();
    assert!(svg.contains("9700 segments more"), "the middle is left out");
    assert!(svg.len() < 500_000, "{}", svg.len());
}
