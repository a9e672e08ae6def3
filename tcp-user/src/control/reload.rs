//! The configuration read again while the server runs.

use super::listen::Listen;
use super::records::Reloaded;
use super::{Command, Server};
use crate::app::App;

impl Server {
    /// Reads `--config` again and changes what can change; a file that is wrong changes
    /// nothing.
    pub(super) fn reload(&mut self) -> Result<Reloaded, String> {
        let text = |e: anyhow::Error| format!("{e:#}");
        let origin = self.origin.as_ref();
        let origin =
            origin.ok_or("this server was configured by the program that it is part of")?;
        let new = origin.load().map_err(text)?;
        let changes = self.config.changes(new);
        let changed = |key: &str| changes.live.iter().any(|k| k == key);

        let (live, restart) = (changes.live.clone(), changes.restart.clone());
        let mut config = changes.config.clone();
        if changed("cookie.secret_file") {
            let before = std::mem::replace(&mut self.config.cookie, config.cookie.clone());
            if let Err(error) = self.replace_secret() {
                self.config.cookie = before;
                return Err(error);
            }
        }
        let program = |e: super::loader::Error| e.to_string();
        self.attack
            .set_thresholds(config.cookie.attack_rate, config.xdp.adaptive_rate);
        self.shield.set_rate(config.xdp.adaptive_rate);
        self.program
            .configure(&config, self.attack.threat())
            .map_err(program)?;
        if changed("xdp.allow") || changed("xdp.deny") {
            let sources = config.xdp.sources().map_err(|e| e.to_string())?;
            self.program.set_sources(sources).map_err(program)?;
        }
        if changed("listen") {
            self.follow_listens(&config.listen)?;
            config.listen.clone_from(&self.config.listen);
        }
        let engine = config.engine(self.nic.queues);
        for worker in &self.workers {
            worker
                .commands()
                .send(Command::Configure(Box::new(engine.clone())));
        }
        self.config = config;
        tracing::info!(?live, ?restart, "configuration");
        Ok(Reloaded { live, restart })
    }

    /// Makes the listens those of the file. What was given over the control socket ends
    /// here.
    fn follow_listens(&mut self, wanted: &[Listen]) -> Result<(), String> {
        let same = |a: &Listen, b: &Listen| a.place == b.place && a.app == b.app;
        for listen in self.config.listen.clone() {
            if !wanted.iter().any(|l| same(l, &listen)) {
                self.remove_listen(listen.place)?;
            }
        }
        for listen in wanted {
            if !self.config.listen.iter().any(|l| same(l, listen)) {
                self.add_listen(listen.clone())?;
            }
        }
        // And their policies.
        for listen in &mut self.config.listen {
            if let Some(wanted) = wanted.iter().find(|l| same(l, listen)) {
                listen.policy = wanted.policy;
            }
        }
        let bound = self.listens.iter().filter(|l| l.app == App::Stream);
        let listens: Vec<_> = self.config.listen.iter().chain(bound).cloned().collect();
        self.program
            .serve(&listens)
            .map_err(|error| error.to_string())?;
        self.listens = listens;
        self.undrain();
        self.look_at_listeners().map_err(|e| e.to_string())
    }
}
