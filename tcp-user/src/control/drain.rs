//! `tcp-user drain`: no new connections for a listen, those that exist may end.

use super::listen::{self, Listen, Place, Policy};
use super::{Command, Server};
use crate::dataplane::query::Drained;
use std::net::SocketAddr;
use std::sync::Arc;

impl Server {
    /// Turns the listens of `places` off, or all, and lets their idle connections be
    /// closed. They stay drained until they get another policy. Returns the places.
    pub(super) fn drain(&mut self, places: &[Place]) -> Result<Vec<String>, String> {
        let places: Vec<Place> = if places.is_empty() {
            self.listens.iter().map(|l| l.place).collect()
        } else {
            places.to_vec()
        };
        let mut listens = self.listens.clone();
        for place in &places {
            listen::set_policy(&mut listens, *place, Policy::Off)?;
        }
        for place in &places {
            self.program
                .write_listens(&listens, *place)
                .map_err(|e| e.to_string())?;
        }
        self.listens = listens;
        tracing::info!(?places, "drain");
        self.drained.extend(&places);
        self.tell_drained();
        Ok(places.iter().map(ToString::to_string).collect())
    }

    /// What has got a policy is no longer drained.
    pub(super) fn undrain(&mut self) {
        let before = self.drained.len();
        let listens = &self.listens;
        self.drained.retain(|place| {
            listens
                .iter()
                .any(|l| l.policy == Policy::Off && l.place == *place)
        });
        if self.drained.len() != before {
            self.tell_drained();
        }
    }

    fn tell_drained(&self) {
        let drained = drained(&self.listens, &self.drained);
        for worker in &self.workers {
            let drained = Arc::clone(&drained);
            worker.commands().send(Command::Drained(drained));
        }
    }
}

/// Whether the listen of a local end is drained: the exact one, else the wildcard.
fn drained(listens: &[Listen], places: &[Place]) -> Drained {
    let listens: Vec<(Place, bool)> = listens
        .iter()
        .map(|l| (l.place, places.contains(&l.place)))
        .collect();
    Arc::new(move |local: SocketAddr| {
        listens
            .iter()
            .filter(|(place, _)| place.has(local))
            .max_by_key(|(place, _)| place.addr.is_some())
            .is_some_and(|(_, drained)| *drained)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_listen_decides_before_the_wildcard() {
        let listens: Vec<Listen> = ["*:80=http", "192.0.2.1:80=http", "*:7=echo"]
            .iter()
            .map(|text| text.parse().expect("valid"))
            .collect();
        let drained = drained(&listens, &[listens[0].place]);
        let at = |text: &str| drained(text.parse().expect("literal"));
        assert!(at("192.0.2.2:80"));
        assert!(!at("192.0.2.1:80"));
        assert!(!at("192.0.2.2:7"));
        assert!(!at("192.0.2.2:81"));
    }
}
