//! What serves which place. The main thread changes it, the workers ask with each
//! connection.

use super::listen::{Listen, Place, Table};
use crate::app::task::Tasks;
use crate::app::{Lookup, Service};
use crate::net::{self, BACKLOG};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

/// All services of a server.
#[derive(Debug, Default)]
pub(super) struct Services {
    all: Vec<(Place, Service)>,
    table: Arc<RwLock<Table<Service>>>,
    /// Runs the apps that are tasks; there if there is one.
    tasks: Option<Tasks>,
}

impl Services {
    /// The services of these listens; starts those that are tasks.
    pub(super) fn start(listens: &[Listen]) -> io::Result<Self> {
        let mut services = Self::default();
        for listen in listens {
            let service = services.make(listen)?;
            services.all.push((listen.place, service));
        }
        services.publish();
        Ok(services)
    }

    /// The service of a listen; starts it if it is a task.
    pub(super) fn make(&mut self, listen: &Listen) -> io::Result<Service> {
        if !listen.app.is_task() {
            return Ok(Service::App(listen.app.clone()));
        }
        if self.tasks.is_none() {
            self.tasks = Some(Tasks::start()?);
        }
        let addr = listen.place.addr.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let local = SocketAddr::new(addr, listen.place.first);
        let (acceptor, listener) = net::listener(local, BACKLOG);
        if let Some(tasks) = &self.tasks {
            tasks.serve(listen.app.clone(), listener);
        }
        Ok(Service::Streams(acceptor))
    }

    /// For the workers.
    pub(super) fn lookup(&self) -> Lookup {
        let table = Arc::clone(&self.table);
        Arc::new(move |local| {
            let table = table.read().unwrap_or_else(PoisonError::into_inner);
            table.find(local)
        })
    }

    pub(super) fn add(&mut self, place: Place, service: Service) {
        self.all.push((place, service));
        self.publish();
    }

    /// The rest of a range that `place` is a part of stays.
    pub(super) fn remove(&mut self, place: Place) {
        let parts = |(there, service): (Place, Service)| {
            let left = there.without(place);
            left.map(move |place| (place, service.clone()))
        };
        self.all = std::mem::take(&mut self.all)
            .into_iter()
            .flat_map(parts)
            .collect();
        self.publish();
    }

    /// Ends the tasks; their connections have ended.
    pub(super) fn stop(&mut self) {
        self.all.clear();
        self.publish();
        if let Some(tasks) = self.tasks.take() {
            tasks.stop();
        }
    }

    fn publish(&self) {
        let table = Table::new(self.all.iter().cloned());
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
    }
}

/// The place of a listener; an unspecified address is every address. `None`: port 0.
pub(super) fn place(local: SocketAddr) -> Option<Place> {
    let ip = match local.ip() {
        IpAddr::V6(v6) => v6.to_canonical(),
        v4 @ IpAddr::V4(_) => v4,
    };
    (local.port() != 0).then_some(Place {
        addr: (!ip.is_unspecified()).then_some(ip),
        first: local.port(),
        last: local.port(),
    })
}
