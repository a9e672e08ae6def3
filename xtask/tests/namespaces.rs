//! The namespaces and veth pairs that the server's tests stand on.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
};

use anyhow::Result;
use xtask::netns::{self, Namespace, VethEnd, VethPair};

/// A client that has the pass program and a server, joined by a pair.
fn network() -> Result<(Namespace, Namespace, VethPair)> {
    let client = Namespace::unique("client")?;
    let server = Namespace::unique("server")?;
    let pair = VethPair::create(
        &VethEnd::new(&client, "eth0")
            .address("192.0.2.1/24")
            .address("2001:db8::1/64")
            .pass_program(),
        &VethEnd::new(&server, "eth0")
            .address("192.0.2.2/24")
            .address("2001:db8::2/64"),
    )?;
    Ok((client, server, pair))
}

#[test]
#[ignore = "needs root"]
fn a_pair_carries_both_families_at_once() -> Result<()> {
    let (client, server, _pair) = network()?;
    for address in ["192.0.2.2:7", "[2001:db8::2]:7"] {
        let listener = server.enter(|| TcpListener::bind(address))??;
        let echo = thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes)?;
            stream.write_all(&bytes)
        });
        let mut stream = client.enter(|| TcpStream::connect(address))??;
        stream.write_all(b"hello")?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        assert_eq!(bytes, b"hello");
        assert!(echo.join().is_ok_and(|result| result.is_ok()));
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_pass_program_is_native_and_nothing_is_offloaded() -> Result<()> {
    let (client, server, _pair) = network()?;
    let link = client.run("ip", &["-d", "link", "show", "dev", "eth0"])?;
    assert!(
        link.contains(" xdp ") && link.contains("prog/xdp"),
        "{link}"
    );
    for namespace in [&client, &server] {
        let features = namespace.run("ethtool", &["-k", "eth0"])?;
        for feature in [
            "tx-checksumming",
            "tcp-segmentation-offload",
            "generic-receive-offload",
        ] {
            assert!(features.contains(&format!("{feature}: off")), "{features}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn dropping_ends_the_processes_and_removes_everything() -> Result<()> {
    let (client, server, pair) = network()?;
    let mut sleeper = server.command("sleep").arg("1000").spawn()?;
    let paths = [client.path(), server.path()];
    drop((client, server, pair));
    assert!(!sleeper.wait()?.success());
    assert!(paths.iter().all(|path| !path.exists()));
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn leftovers_of_the_dead_are_removed_and_others_are_not() -> Result<()> {
    let mut dead = Command::new("true").spawn()?;
    dead.wait()?;
    let leftover = format!("tcpxdp-{}-0-client", dead.id());
    Namespace::create(&leftover)?.keep();
    let mine = Namespace::unique("mine")?;
    let other = Namespace::unique("other")?;
    assert!(!Path::new("/run/netns").join(&leftover).exists());
    assert!(mine.path().exists() && other.path().exists());
    netns::remove(&leftover)
}
