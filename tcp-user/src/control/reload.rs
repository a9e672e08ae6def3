//! The configuration read again while the server runs.

use super::listen::Listen;
use super::records::Reloaded;
use super::{Command, Server, attack_watch};

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

        let (mut live, mut restart) = (changes.live.clone(), changes.restart.clone());
        let mut config = changes.config.clone();
        if changed("cookie.secret_file") {
            let before = std::mem::replace(&mut self.config.cookie, config.cookie.clone());
            if let Err(error) = self.replace_secret() {
                self.config.cookie = before;
                return Err(error);
            }
        }
        let program = |e: super::loader::Error| e.to_string();
        self.program.configure(&config).map_err(program)?;
        if changed("cookie.require_timestamps") || changed("cookie.attack_rate") {
            self.attack = attack_watch(&config, &self.program).map_err(program)?;
        }
        if changed("listen") && !self.follow_listens(&config.listen)? {
            live.retain(|key| key != "listen");
            restart.push("listen".into());
            config.listen.clone_from(&self.config.listen);
        }
        let engine = config.engine();
        for worker in &self.workers {
            worker
                .commands()
                .send(Command::Configure(Box::new(engine.clone())));
        }
        self.config = config;
        tracing::info!(?live, ?restart, "configuration");
        Ok(Reloaded { live, restart })
    }

    /// Gives the listens the policies of the file; false if it has others.
    fn follow_listens(&mut self, wanted: &[Listen]) -> Result<bool, String> {
        let of = |list: &[Listen]| {
            let mut places: Vec<_> = list
                .iter()
                .map(|l| (l.place.to_string(), l.app.clone()))
                .collect();
            places.sort_by(|a, b| a.0.cmp(&b.0));
            places
        };
        if of(wanted) != of(&self.config.listen) {
            return Ok(false);
        }
        // Policies that were given over the control socket end here.
        self.program
            .serve(wanted)
            .map_err(|error| error.to_string())?;
        self.listens = wanted.to_vec();
        self.undrain();
        Ok(true)
    }
}
