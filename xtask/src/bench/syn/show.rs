//! The tables and the JSON.

use serde_json::{Value, json};

use super::{
    super::report::{self, median},
    Crowd, Level, Responder, Row, Window,
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
        .map(|crowd| client_cells(crowds, crowd))
        .collect();
    println!(
        "\nClients that connect and get 64 octets echoed, one every 4 ms; milliseconds. Lost: frames that \
         found the ring before the responder full, of the flood and of the clients. At once: nothing had to \
         be sent again\n"
    );
    let heading = [
        "",
        "flood",
        "sent k/s",
        "lost",
        "clients'",
        "echoed",
        "at once",
        "p50",
        "p99",
        "p99 at once",
        "of the quiet",
    ];
    print!("{}", report::table(&heading, &cells));
}

fn client_cells(crowds: &[Crowd], crowd: &Crowd) -> Vec<String> {
    let quiet = crowds
        .iter()
        .find(|other| other.responder == crowd.responder && other.level == Level::Quiet);
    let (outcome, wire) = (&crowd.outcome, &crowd.wire);
    let flood = if crowd.shape.is_ack() {
        "bad ACKs"
    } else {
        "SYNs"
    };
    let figure = |figure: f64| match outcome.tried {
        0 => String::new(),
        _ => format!("{figure:.2}"),
    };
    vec![
        crowd.responder.name().to_owned(),
        match crowd.level {
            Level::Quiet => "quiet".to_owned(),
            Level::Rate(_) => flood.to_owned(),
            Level::MostTaken => format!("{flood}, 3/4 of its most"),
            Level::MostSent => format!("{flood}, too many"),
        },
        format!("{:.0}", crowd.sent / 1e3),
        percent(wire.flood_lost, wire.flood + wire.flood_lost),
        percent(wire.clients_lost, wire.clients + wire.clients_lost),
        format!("{} of {}", outcome.succeeded, outcome.tried),
        outcome.at_once.to_string(),
        figure(outcome.p50),
        figure(outcome.p99),
        figure(outcome.p99_at_once),
        quiet.map_or_else(String::new, |quiet| {
            figure(outcome.p99_at_once / quiet.outcome.p99_at_once)
        }),
    ]
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    format!("{:.2} %", part as f64 * 100.0 / whole as f64)
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
    let Some(quiet) = ours().find(|crowd| crowd.level == Level::Quiet) else {
        return Vec::new();
    };
    let goal = |crowd: &Crowd| {
        let outcome = &crowd.outcome;
        let times = outcome.p99 / quiet.outcome.p99;
        let all = outcome.succeeded == outcome.tried;
        let got = format!(
            "{} of {}, p99 {times:.1} times",
            outcome.succeeded, outcome.tried
        );
        let flood = crowd.shape.name();
        let (what, met) = match crowd.level {
            Level::Quiet => return None,
            Level::Rate(rate) => (
                format!("clients at {rate}/s, {flood}: all, p99 at most 3 times the quiet one"),
                all && times <= 3.0,
            ),
            Level::MostTaken => (
                format!("clients at three quarters of its most, {flood}: all"),
                all,
            ),
            Level::MostSent => (format!("clients in more than it takes, {flood}: all"), all),
        };
        Some(Goal {
            what: format!("{name}: {what}"),
            got,
            met,
        })
    };
    ours().filter_map(goal).collect()
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
        "level": match crowd.level {
            Level::Quiet => "quiet",
            Level::Rate(_) => "rate",
            Level::MostTaken => "three quarters of the most",
            Level::MostSent => "more than it takes",
        },
        "rate_sent": crowd.sent,
        "flood_arrived": crowd.wire.flood,
        "flood_lost": crowd.wire.flood_lost,
        "client_frames_arrived": crowd.wire.clients,
        "client_frames_lost": crowd.wire.clients_lost,
        "answers_lost": crowd.wire.answers_lost,
        "tried": crowd.outcome.tried,
        "succeeded": crowd.outcome.succeeded,
        "at_once": crowd.outcome.at_once,
        "p50_ms": crowd.outcome.p50,
        "p99_ms": crowd.outcome.p99,
        "p99_at_once_ms": crowd.outcome.p99_at_once,
    })
}
