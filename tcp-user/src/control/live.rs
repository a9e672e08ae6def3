//! What is served, and to whom, changed while the server runs. No program is detached
//! for it, and connections go on.

use super::listen::{self, Listen, Place, Policy};
use super::records::{ListenInfo, SourcesInfo};
use super::services;
use super::sources::Change;
use super::{Server, allow_descriptors};
use crate::app::{App, Service};
use crate::net::Acceptor;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

impl Server {
    pub(super) fn listen_infos(&self) -> Vec<ListenInfo> {
        self.listens.iter().map(ListenInfo::from).collect()
    }

    pub(super) fn set_policy(
        &mut self,
        place: Place,
        policy: Policy,
    ) -> Result<Vec<ListenInfo>, String> {
        let mut listens = self.listens.clone();
        listen::set_policy(&mut listens, place, policy)?;
        self.program
            .write_listens(&listens, place)
            .map_err(|e| e.to_string())?;
        tracing::info!(%place, %policy, "policy");
        self.listens = listens;
        self.undrain();
        self.look_at_listeners().map_err(|e| e.to_string())?;
        Ok(self.listen_infos())
    }

    /// Serves a listener of this process; the errors are those of [`crate::net::Binder`].
    pub(super) fn bind(&mut self, local: SocketAddr, acceptor: Acceptor) -> io::Result<()> {
        let refuse = |kind, text: &str| Err(io::Error::new(kind, format!("{local}: {text}")));
        let Some(place) = services::place(local) else {
            return refuse(io::ErrorKind::InvalidInput, "a port from 1 to 65535");
        };
        let listen = Listen {
            place,
            app: App::Stream,
            policy: self.streams,
        };
        if let Err(error) = self.fits(&listen) {
            return refuse(io::ErrorKind::AddrInUse, &error);
        }
        if !self.is_here(place)? {
            let text = format!("not an address of {}", self.nic.name);
            return refuse(io::ErrorKind::AddrNotAvailable, &text);
        }
        self.serve(listen, Service::Streams(acceptor))
            .map_err(io::Error::other)
    }

    pub(super) fn unbind(&mut self, local: SocketAddr) -> Result<(), String> {
        match services::place(local) {
            Some(place) => self.end(place),
            None => Ok(()),
        }
    }

    /// Serves one more place.
    pub(super) fn add_listen(&mut self, listen: Listen) -> Result<Vec<ListenInfo>, String> {
        self.fits(&listen)?;
        let place = listen.place;
        if !self.is_here(place).map_err(|e| e.to_string())? {
            return Err(format!("{place} is not an address of {}", self.nic.name));
        }
        if let App::Proxy(pool) = &listen.app {
            self.backends.open(pool)?;
            allow_descriptors().map_err(|e| e.to_string())?;
        }
        let service = self.services.make(&listen).map_err(|e| e.to_string())?;
        self.serve(listen.clone(), service)?;
        tracing::info!(%listen, "added");
        self.config.listen.push(listen);
        self.look_at_listeners().map_err(|e| e.to_string())?;
        Ok(self.listen_infos())
    }

    /// Serves a place no more, which may be a part of a listen.
    pub(super) fn remove_listen(&mut self, place: Place) -> Result<Vec<ListenInfo>, String> {
        self.end(place)?;
        // Covered by the same places, only split by other policies.
        listen::cut(&mut self.config.listen, place)?;
        tracing::info!(%place, "removed");
        Ok(self.listen_infos())
    }

    /// Whether a listen can stand beside those that exist; an error says why not.
    fn fits(&self, listen: &Listen) -> Result<(), String> {
        let mut listens = self.listens.clone();
        listens.push(listen.clone());
        listen::check_places(&listens).map_err(|e| e.to_string())
    }

    fn is_here(&self, place: Place) -> io::Result<bool> {
        Ok(match place.addr {
            Some(ip) => self.nic.addresses()?.contains(&ip),
            None => true,
        })
    }

    fn serve(&mut self, listen: Listen, service: Service) -> Result<(), String> {
        let place = listen.place;
        let mut listens = self.listens.clone();
        listens.push(listen);
        // Workers first: XDP answers only for what they know.
        self.services.add(place, service);
        if let Err(error) = self.program.write_listens(&listens, place) {
            self.services.remove(place);
            return Err(error.to_string());
        }
        self.listens = listens;
        self.undrain();
        Ok(())
    }

    fn end(&mut self, place: Place) -> Result<(), String> {
        let mut listens = self.listens.clone();
        listen::cut(&mut listens, place)?;
        self.program
            .forget_listens(&listens, place)
            .map_err(|e| e.to_string())?;
        let left = |pool| {
            listens
                .iter()
                .any(|l| matches!(&l.app, App::Proxy(p) if Arc::ptr_eq(p, pool)))
        };
        for listen in &self.listens {
            if let App::Proxy(pool) = &listen.app
                && !left(pool)
            {
                self.backends.close(pool);
            }
        }
        self.listens = listens;
        self.services.remove(place);
        self.undrain();
        self.look_at_listeners().map_err(|e| e.to_string())
    }

    /// Changes the allow and deny lists, or does not; what they are then.
    pub(super) fn change_sources(&mut self, change: Option<Change>) -> Result<SourcesInfo, String> {
        let mut xdp = self.config.xdp.clone();
        if let Some(change) = change {
            change.apply(&mut xdp.allow, &mut xdp.deny)?;
            let sources = xdp.sources().map_err(|e| e.to_string())?;
            self.program
                .set_sources(sources)
                .map_err(|e| e.to_string())?;
            tracing::info!(?change, "sources");
            self.config.xdp = xdp;
        }
        Ok(SourcesInfo::from(&self.config.xdp))
    }
}
