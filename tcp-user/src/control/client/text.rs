//! What the answers look like.

use crate::control::listen::Policy;
use crate::control::rates::{Rates, WorkerRates};
use crate::control::records::{Connection, ListenInfo, SecretInfo, SourcesInfo, Stats};
use std::fmt::Write as _;
use tcp_common::counters::{Counter, Verdict};

/// One line of a table: total, rate, name.
fn row(out: &mut String, indent: &str, total: u64, rate: Option<f64>, name: &str) {
    let rate = rate.map_or_else(String::new, |r| format!(" {r:>11.0}/s"));
    let _ = writeln!(out, "{indent}{total:>12}{rate}  {name}");
}

pub(super) fn stats(stats: &Stats, rates: Option<&Rates>) -> String {
    let mut out = String::new();
    match rates {
        Some(r) => {
            let _ = writeln!(
                out,
                "XDP: {} frames, {:.0}/s over {:.1} s",
                stats.xdp_frames, r.xdp_frames, r.interval_s
            );
        }
        None => {
            let _ = writeln!(out, "XDP: {} frames", stats.xdp_frames);
        }
    }
    if stats.under_attack {
        out.push_str("under attack: more SYNs and bad cookies than cookie.attack_rate\n");
    }
    if stats.flooded
        && stats
            .listens
            .iter()
            .any(|l| l.listen.policy == Policy::Adaptive)
    {
        out.push_str(
            "flooded: more SYNs than xdp.adaptive_rate, so adaptive listens answer with cookies\n",
        );
    }
    for verdict in [
        Verdict::Answered,
        Verdict::Redirected,
        Verdict::Dropped,
        Verdict::Pass,
    ] {
        let of = |c: &&Counter| c.verdict() == verdict;
        let total = |c: &Counter| stats.xdp.get(c.name()).copied().unwrap_or(0);
        let sum = Counter::ALL.iter().filter(of).map(total).sum();
        if sum == 0 {
            continue;
        }
        let rate = rates.and_then(|r| r.verdicts.get(verdict.name()).copied());
        row(&mut out, "  ", sum, rate, verdict.name());
        for counter in Counter::ALL.iter().filter(of).filter(|c| total(c) > 0) {
            let rate = rates.and_then(|r| r.xdp.get(counter.name()).copied());
            row(&mut out, "    ", total(counter), rate, counter.name());
        }
    }
    for (i, worker) in stats.workers.iter().enumerate() {
        let rates = rates.and_then(|r| r.workers.get(i));
        let per_second = |rate: fn(&WorkerRates) -> f64| {
            rates.map_or_else(String::new, |r| format!(" ({:.0}/s)", rate(r)))
        };
        let _ = writeln!(
            out,
            "queue {}: {} connections, {} frames in{}, {} out{}, {} dropped, {} not sendable",
            worker.queue,
            worker.connections,
            worker.received,
            per_second(|r| r.received),
            worker.sent,
            per_second(|r| r.sent),
            worker.receive_dropped,
            worker.send_invalid,
        );
        for (name, n) in worker.frames.iter().filter(|(_, n)| **n > 0) {
            let rate = rates.and_then(|r| r.frames.get(name).copied());
            row(&mut out, "    ", *n, rate, name);
        }
    }
    for l in &stats.listens {
        let rate = rates
            .and_then(|r| r.listens.get(&l.listen.place))
            .map_or_else(String::new, |r| format!(" ({r:.0}/s)"));
        let _ = writeln!(
            out,
            "listen {} {} {}: {} accepted{rate}, {} open",
            l.listen.place, l.listen.app, l.listen.policy, l.accepted, l.open
        );
    }
    if !stats.states.is_empty() {
        let states = stats.states.iter().map(|(state, n)| format!("{n} {state}"));
        let _ = writeln!(
            out,
            "connections: {}",
            states.collect::<Vec<_>>().join(", ")
        );
    }
    for proxied in &stats.proxies {
        let _ = write!(out, "{proxied}");
    }
    if stats.trace_dropped > 0 {
        let _ = writeln!(out, "trace records dropped: {}", stats.trace_dropped);
    }
    out
}

pub(super) fn listens(listens: &[ListenInfo]) -> String {
    let width = listens.iter().map(|l| l.place.len()).max().unwrap_or(0);
    listens.iter().fold(String::new(), |mut out, l| {
        let policy = l.policy.to_string();
        let _ = writeln!(out, "{:<width$}  {policy:<8}  {}", l.place, l.app);
        out
    })
}

pub(super) fn sources(sources: &SourcesInfo) -> String {
    let lists = [("allow", &sources.allow), ("deny", &sources.deny)];
    lists.iter().fold(String::new(), |mut out, (name, list)| {
        for prefix in *list {
            let _ = writeln!(out, "{name:<6}{prefix}");
        }
        out
    })
}

pub(super) fn secret(secret: &SecretInfo) -> String {
    if secret.in_s > 0.0 {
        format!("{} in {:.0} s\n", secret.id, secret.in_s.ceil())
    } else {
        format!("{}\n", secret.id)
    }
}

/// A table; with `info`, a second line for each connection as `ss -ti` has it.
pub(super) fn connections(connections: &[Connection], info: bool) -> String {
    let mut out = format!(
        "{:<12} {:<26} {:<26} {:>7} {:>7} {:>9} {:>9} {:>8}\n",
        "state", "client", "local", "recv-q", "send-q", "in", "out", "age"
    );
    for c in connections {
        let _ = writeln!(
            out,
            "{:<12} {:<26} {:<26} {:>7} {:>7} {:>9} {:>9} {:>7}s",
            c.state,
            c.remote.to_string(),
            c.local.to_string(),
            c.recv_queue,
            c.send_queue,
            c.bytes_in,
            c.bytes_out,
            c.age_s,
        );
        // Of a TIME-WAIT entry there is no more to tell.
        if info && c.mss > 0 {
            let _ = writeln!(out, "    {}", details(c));
        }
    }
    out
}

/// Like `ss -ti`: milliseconds and octets.
fn details(c: &Connection) -> String {
    let mut out = c.options.join(" ");
    let mut add = |text: std::fmt::Arguments<'_>| {
        if !out.is_empty() {
            out.push(' ');
        }
        let _ = out.write_fmt(text);
    };
    if c.window_scale != (0, 0) {
        add(format_args!(
            "wscale:{},{}",
            c.window_scale.0, c.window_scale.1
        ));
    }
    if let Some(srtt) = c.srtt_ms {
        add(format_args!("rtt:{srtt:.3}/{:.3}", c.rttvar_ms));
    }
    add(format_args!("rto:{:.0}", c.rto_ms));
    if c.backoff > 0 {
        add(format_args!("backoff:{}", c.backoff));
    }
    add(format_args!("mss:{}", c.mss));
    if c.cwnd == 0 {
        // A handshake under way: nothing has been sent that counts.
        if c.retransmits > 0 {
            add(format_args!("retrans:{}", c.retransmits));
        }
        return out;
    }
    add(format_args!("cwnd:{}", c.cwnd));
    if c.ssthresh < u32::MAX {
        add(format_args!("ssthresh:{}", c.ssthresh));
    }
    if c.in_flight > 0 {
        add(format_args!("in_flight:{}", c.in_flight));
    }
    add(format_args!("snd_wnd:{} rcv_wnd:{}", c.snd_wnd, c.rcv_wnd));
    if c.retransmits > 0 {
        add(format_args!("retrans:{}", c.retransmits));
    }
    add(format_args!(
        "lastrcv:{} lastsnd:{}",
        c.last_rcv_ms, c.last_snd_ms
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn counted(syn_ack: u64, denied: u64) -> Stats {
        let counters: Vec<_> = Counter::ALL
            .iter()
            .map(|c| match c {
                Counter::SynAck => (*c, syn_ack),
                Counter::DropDenied => (*c, denied),
                _ => (*c, 0),
            })
            .collect();
        Stats::new(&counters, &[])
    }

    #[test]
    fn rates_are_grouped_by_verdict_and_leave_zeros_out() {
        let (before, after) = (counted(100, 7), counted(1100, 7));
        let rates = Rates::between(&before, &after, Duration::from_millis(500));
        assert_eq!(
            stats(&after, Some(&rates)),
            "XDP: 1107 frames, 2000/s over 0.5 s\n          \
             1100        2000/s  answered\n            \
             1100        2000/s  syn_ack\n             \
             7           0/s  dropped\n               \
             7           0/s  drop_denied\n"
        );
        assert_eq!(
            stats(&after, None),
            "XDP: 1107 frames\n          \
             1100  answered\n            \
             1100  syn_ack\n             \
             7  dropped\n               \
             7  drop_denied\n"
        );
        assert_eq!(rates.xdp["syn_ack"].to_string(), "2000");
        assert_eq!(rates.verdicts["answered"].to_string(), "2000");
    }

    #[test]
    fn a_server_that_started_anew_has_no_negative_rates() {
        let rates = Rates::between(&counted(5, 0), &counted(2, 0), Duration::from_secs(1));
        assert_eq!(rates.xdp["syn_ack"].to_string(), "0");
    }
}
