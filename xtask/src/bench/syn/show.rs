//! The tables and the JSON.

use serde_json::{Value, json};

use super::{
    super::report::{self, median},
    Crowd, Responder, Row, Window,
    flood::Shape,
};

/// The row of a responder that has the same shape as `row`; SYNs with options for ACKs.
fn beside<'a>(rows: &'a [Row], row: &Row, responder: Responder) -> Option<&'a Row> {
    let shape = match row.shape {
        Shape::Ack => Shape::Options,
        Shape::BareAck => Shape::Bare,
        shape => shape,
    };
    rows.iter()
        .find(|other| other.responder == responder && other.shape == shape)
}

pub(super) fn floods(rows: &[Row], rounds: u32) {
    if rows.is_empty() {
        return;
    }
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let answered = median(&row.of(|w| w.answered));
            let ratio = |to: Option<&Row>, what: fn(&Window) -> f64| {
                to.map_or_else(String::new, |to| format!("{:.2}", row.over(to, what)))
            };
            vec![
                row.name(),
                format!("{:.0}", median(&row.of(|w| w.received)) / 1e3),
                format!("{:.0}", answered / 1e3),
                format!("{:.0}", median(&row.of(|w| w.cost))),
                format!("{:.0} %", median(&row.of(|w| w.busy)) * 100.0),
                ratio(beside(rows, row, Responder::Bounce), |w| w.cost),
                ratio(beside(rows, row, Responder::Native), |w| w.cost),
                ratio(beside(rows, row, Responder::Native), |w| w.answered),
            ]
        })
        .collect();
    println!(
        "\nA flood as fast as it gets; medians of {rounds} rounds. Thousands of frames per second, ns of \
         CPU per frame\n"
    );
    let heading = [
        "",
        "received k/s",
        "answers k/s",
        "ns each",
        "CPU",
        "ns/bounce",
        "ns/ours",
        "answers/ours",
    ];
    print!("{}", report::table(&heading, &cells));
}

pub(super) fn clients(crowds: &[Crowd]) {
    if crowds.is_empty() {
        return;
    }
    let cells: Vec<_> = crowds
        .iter()
        .map(|crowd| {
            let quiet = crowds
                .iter()
                .find(|other| other.responder == crowd.responder && other.rate == Some(0));
            let outcome = &crowd.outcome;
            vec![
                crowd.responder.name().to_owned(),
                match crowd.rate {
                    Some(0) => "quiet".to_owned(),
                    _ => crowd.shape.name().to_owned(),
                },
                format!("{:.0}", crowd.sent / 1e3),
                format!("{} of {}", outcome.succeeded, outcome.tried),
                format!("{:.2}", outcome.p50),
                format!("{:.2}", outcome.p99),
                quiet.map_or_else(String::new, |quiet| {
                    format!("{:.1}", outcome.p99 / quiet.outcome.p99)
                }),
            ]
        })
        .collect();
    println!("\nClients that connect and get 64 octets echoed, one every 4 ms; milliseconds\n");
    let heading = ["", "flood", "sent k/s", "echoed", "p50", "p99", "p99/quiet"];
    print!("{}", report::table(&heading, &cells));
}

/// One of the goals, as far as what was measured decides it.
struct Goal {
    what: String,
    got: String,
    met: bool,
}

/// Prints the goals that these figures decide, each with what it came to.
pub(super) fn goals(rows: &[Row], crowds: &[Crowd]) {
    let mut goals = flood_goals(rows);
    goals.extend(client_goals(crowds));
    if goals.is_empty() {
        return;
    }
    let cells: Vec<_> = goals
        .into_iter()
        .map(|goal| {
            let met = if goal.met { "met" } else { "missed" };
            vec![goal.what, goal.got, met.to_owned()]
        })
        .collect();
    println!("\nGoals\n");
    print!("{}", report::table(&["", "", ""], &cells));
}

fn flood_goals(rows: &[Row]) -> Vec<Goal> {
    let find = |responder, shape| {
        rows.iter()
            .find(|row| row.responder == responder && row.shape == shape)
    };
    let mut goals = Vec::new();
    if let (Some(shield), Some(bare)) = (
        find(Responder::Shield, Shape::Options),
        find(Responder::Cookies, Shape::Options),
    ) {
        let times = shield.over(bare, |w| w.answered);
        goals.push(Goal {
            what: "SYN-ACKs per second behind tcp-xdp: at least 4 times the bare listener's"
                .to_owned(),
            got: format!("{times:.1}"),
            met: times >= 4.0,
        });
    }
    let Some(ours) = find(Responder::Native, Shape::Options) else {
        return goals;
    };
    if let Some(bounce) = find(Responder::Bounce, Shape::Options) {
        let times = ours.over(bounce, |w| w.cost);
        goals.push(Goal {
            what: "CPU per SYN, all options: at most 1.5 times the bounce's".to_owned(),
            got: format!("{times:.2}"),
            met: times <= 1.5,
        });
    }
    for kernel in [Responder::Cookies, Responder::Synproxy] {
        let Some(row) = find(kernel, Shape::Options) else {
            continue;
        };
        let times = ours.over(row, |w| w.answered);
        goals.push(Goal {
            what: format!("SYN-ACKs per second: at least 8 times {}", kernel.name()),
            got: format!("{times:.1}"),
            met: times >= 8.0,
        });
    }
    for (ack, syn) in [(Shape::Ack, Shape::Options), (Shape::BareAck, Shape::Bare)] {
        let (Some(ack), Some(syn)) = (find(Responder::Native, ack), find(Responder::Native, syn))
        else {
            continue;
        };
        // By CPU and not by what arrived, which the generator may have limited.
        let part = syn.over(ack, |w| w.cost);
        goals.push(Goal {
            what: format!(
                "{}, refused per CPU time: at least 0.8 of the SYNs answered",
                ack.shape.name()
            ),
            got: format!("{part:.2}"),
            met: part >= 0.8,
        });
    }
    goals
}

fn client_goals(crowds: &[Crowd]) -> Vec<Goal> {
    let ours = [Responder::Native, Responder::Shield];
    let goals = ours.map(|responder| client_goals_of(crowds, responder));
    goals.into_iter().flatten().collect()
}

fn client_goals_of(crowds: &[Crowd], responder: Responder) -> Vec<Goal> {
    let ours = || crowds.iter().filter(|crowd| crowd.responder == responder);
    let name = responder.name();
    let Some(quiet) = ours().find(|crowd| crowd.rate == Some(0)) else {
        return Vec::new();
    };
    let goal = |crowd: &Crowd| {
        let outcome = &crowd.outcome;
        let times = outcome.p99 / quiet.outcome.p99;
        let part = f64::from(outcome.succeeded) / f64::from(outcome.tried);
        let got = format!("{:.1} %, p99 {times:.1} times", part * 100.0);
        let flood = crowd.shape.name();
        if let Some(rate) = crowd.rate {
            return Goal {
                what: format!(
                    "{name}: clients at {rate}/s, {flood}: all, p99 at most 3 times the quiet one"
                ),
                met: outcome.succeeded == outcome.tried && times <= 3.0,
                got,
            };
        }
        Goal {
            what: format!("{name}: clients in as much as there can be, {flood}: at least 99.9 %"),
            met: part >= 0.999,
            got,
        }
    };
    ours()
        .filter(|crowd| crowd.rate != Some(0))
        .map(goal)
        .collect()
}

pub(super) fn row_json(row: &Row) -> Value {
    json!({
        "responder": row.responder.name(),
        "frames": row.shape.name(),
        "received_per_s": median(&row.of(|w| w.received)),
        "answers_per_s": median(&row.of(|w| w.answered)),
        "cpu_ns": median(&row.of(|w| w.cost)),
        "cpu_busy": median(&row.of(|w| w.busy)),
        "received_per_s_rounds": row.of(|w| w.received),
        "answers_per_s_rounds": row.of(|w| w.answered),
        "cpu_ns_rounds": row.of(|w| w.cost),
    })
}

pub(super) fn crowd_json(crowd: &Crowd) -> Value {
    json!({
        "responder": crowd.responder.name(),
        "flood": crowd.shape.name(),
        "rate_asked": crowd.rate,
        "rate_sent": crowd.sent,
        "tried": crowd.outcome.tried,
        "succeeded": crowd.outcome.succeeded,
        "p50_ms": crowd.outcome.p50,
        "p99_ms": crowd.outcome.p99,
    })
}
