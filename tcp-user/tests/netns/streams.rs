//! What a `TcpStream` does, over our TCP and over the kernel's: the same test for both.

use crate::adaptive::{FIRST_ACK, lose};
use crate::lab::{IFACE, Lab, PATIENCE, V4, noise, read_all, wait_for};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use tcp_user::Server;
use tcp_user::control::config::Config;
use tcp_user::control::listen::Policy;
use tcp_user::net;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Our stack in the lab's server namespace, and a runtime there.
fn inside<T: Send>(lab: &Lab, set: &[&str], test: impl AsyncFnOnce(&Server) -> T + Send) -> T {
    let control = format!("/tmp/{}.sock", lab.server.name());
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    lab.server
        .enter(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let server = Server::builder(IFACE)
                .config(Config::load(None, &set).unwrap())
                .control(control)
                .start()
                .unwrap();
            // What hangs fails.
            let limit = Duration::from_mins(4);
            let test = async {
                tokio::time::timeout(limit, test(&server))
                    .await
                    .expect("it hangs")
            };
            runtime.block_on(test)
        })
        .unwrap()
}

/// A test of a listener, run over both; `$at` is where it listens.
macro_rules! both {
    ($name:ident, $set:expr, |$lab:ident, $listener:ident, $at:ident| $body:block) => {
        #[test]
        #[ignore = "needs root"]
        fn $name() {
            let $lab = &Lab::new();
            $lab.server.sysctl("ipv4/tcp_retries2", "3").unwrap();
            inside($lab, &$set, async |server| {
                {
                    let $at = &format!("{V4}:7");
                    let $listener = net::TcpListener::bind(server.stack(), $at).await.unwrap();
                    $body
                }
                {
                    let $at = &format!("{V4}:8");
                    let $listener = tokio::net::TcpListener::bind($at).await.unwrap();
                    $body
                }
            });
        }
    };
}

/// The client's kernel sends an RST.
fn reset(stream: TcpStream) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
    drop(stream);
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

both!(addresses_and_options_are_told, [], |lab, listener, at| {
    let client = lab.connect(at);
    let (stream, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    assert_eq!(stream.peer_addr().unwrap(), peer);
    assert_eq!(stream.local_addr().unwrap().to_string(), *at);
    assert_eq!(listener.local_addr().unwrap().to_string(), *at);
    assert!(!stream.nodelay().unwrap());
    stream.set_nodelay(true).unwrap();
    assert!(stream.nodelay().unwrap());
});

both!(the_end_is_read_again_and_again, [], |lab, listener, at| {
    let mut client = lab.connect(at);
    let (mut stream, _) = listener.accept().await.unwrap();
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"last");
    for _ in 0..3 {
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
        assert_eq!(stream.try_read(&mut [0; 9]).unwrap(), 0);
        assert_eq!(stream.peek(&mut [0; 9]).await.unwrap(), 0);
    }
    stream.write_all(b"still open").await.unwrap();
    drop(stream);
    assert_eq!(read_all(&client), b"still open");
});

both!(a_shutdown_closes_one_half, [], |lab, listener, at| {
    let mut client = lab.connect(at);
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(b"that is all").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&client), b"that is all");
    let error = stream.write(b"more").await.expect_err("our half is closed");
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert_eq!(
        stream.try_write(b"more").expect_err("closed").kind(),
        ErrorKind::BrokenPipe
    );
    stream.shutdown().await.unwrap();
    client.write_all(b"the other half").unwrap();
    drop(client);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"the other half");
});

both!(peek_takes_nothing, [], |lab, listener, at| {
    let mut client = lab.connect(at);
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buffer = [0; 16];
    assert_eq!(
        stream
            .try_read(&mut buffer)
            .expect_err("nothing yet")
            .kind(),
        ErrorKind::WouldBlock
    );
    client.write_all(b"hello").unwrap();
    for _ in 0..2 {
        assert_eq!(stream.peek(&mut buffer).await.unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(stream.peek(&mut buffer[..2]).await.unwrap(), 2);
        stream.readable().await.unwrap();
    }
    assert_eq!(stream.try_read(&mut buffer[..4]).unwrap(), 4);
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 1);
    assert_eq!(buffer[0], b'o');
});

both!(writes_wait_for_a_slow_reader, [], |lab, listener, at| {
    let client = lab.connect(at);
    let (stream, _) = listener.accept().await.unwrap();
    let piece = noise(10_000);
    let mut sent = Vec::new();
    // Until every buffer on the way is full for a while.
    while tokio::time::timeout(Duration::from_millis(300), stream.writable())
        .await
        .is_ok()
    {
        match stream.try_write(&piece) {
            Ok(octets) => sent.extend_from_slice(&piece[..octets]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(sent.len() < 100 << 20, "nothing holds it back");
    }
    let reader = std::thread::spawn(move || read_all(&client));
    stream.writable().await.unwrap();
    loop {
        match stream.try_write(b"end") {
            Ok(octets) => {
                sent.extend_from_slice(&b"end"[..octets]);
                break;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        stream.writable().await.unwrap();
    }
    drop(stream);
    let got = reader.join().unwrap();
    assert!(got == sent, "{} of {} octets", got.len(), sent.len());
});

both!(
    a_reader_that_does_not_read_closes_the_window,
    [],
    |lab, listener, at| {
        let client = lab.connect(at);
        let (mut stream, _) = listener.accept().await.unwrap();
        client.set_nonblocking(true).unwrap();
        let piece = noise(10_000);
        let mut sent = Vec::new();
        let mut idle = 0;
        while idle < 10 {
            if let Ok(octets) = (&client).write(&piece) {
                sent.extend_from_slice(&piece[..octets]);
                idle = 0;
            } else {
                idle += 1;
                a_moment().await;
            }
            assert!(sent.len() < 100 << 20, "nothing holds it back");
        }
        client.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert!(all == sent, "{} of {} octets", all.len(), sent.len());
    }
);

both!(
    a_drop_sends_what_was_written_and_then_a_fin,
    [],
    |lab, listener, at| {
        let client = lab.connect(at);
        let (mut stream, _) = listener.accept().await.unwrap();
        let data = noise(1_000_000);
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            read_all(&client)
        });
        stream.write_all(&data).await.unwrap();
        drop(stream);
        let got = reader.join().unwrap();
        assert!(got == data, "{} octets", got.len());
    }
);

both!(a_drop_with_unread_data_resets, [], |lab, listener, at| {
    let mut client = lab.connect(at);
    let (stream, _) = listener.accept().await.unwrap();
    client.write_all(b"nobody reads this").unwrap();
    stream.readable().await.unwrap();
    drop(stream);
    let error = client.read(&mut [0; 9]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
});

both!(data_after_a_drop_is_reset, [], |lab, listener, at| {
    let mut client = lab.connect(at);
    let (stream, _) = listener.accept().await.unwrap();
    drop(stream);
    assert_eq!(client.read(&mut [0; 9]).unwrap(), 0);
    client.write_all(b"nobody reads this").unwrap();
    // Until the RST has come.
    let error = loop {
        if let Err(error) = client.write(b"more") {
            break error;
        }
        a_moment().await;
    };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
});

both!(zero_linger_resets, [], |lab, listener, at| {
    let mut client = lab.connect(at);
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.set_zero_linger().unwrap();
    stream.write_all(b"x").await.unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(stream);
    let error = client.read(&mut [0; 9]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
});

both!(a_reset_ends_a_read_that_waits, [], |lab, listener, at| {
    let client = lab.connect(at);
    let (mut stream, _) = listener.accept().await.unwrap();
    let waits = tokio::spawn(async move { stream.read(&mut [0; 9]).await });
    a_moment().await;
    reset(client);
    let error = waits.await.unwrap().expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
});

both!(data_before_a_reset_is_read, [], |lab, listener, at| {
    let mut client = lab.connect(at);
    let (mut stream, _) = listener.accept().await.unwrap();
    client.write_all(b"before").unwrap();
    stream.readable().await.unwrap();
    reset(client);
    a_moment().await;
    let mut buffer = [0; 9];
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 6);
    let error = stream.read(&mut buffer).await.expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
});

both!(a_write_after_a_reset_fails, [], |lab, listener, at| {
    let client = lab.connect(at);
    let (mut stream, _) = listener.accept().await.unwrap();
    reset(client);
    // Until the RST has come.
    let error = loop {
        if let Err(error) = stream.write(b"x").await {
            break error;
        }
        a_moment().await;
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
});

both!(
    a_peer_that_has_gone_breaks_the_pipe,
    [],
    |lab, listener, at| {
        let client = lab.connect(at);
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(client);
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
        let error = loop {
            if let Err(error) = stream.write(b"x").await {
                break error;
            }
            a_moment().await;
        };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
    }
);

both!(
    a_peer_that_is_silent_times_out,
    ["tcp.max_retries=3"],
    |lab, listener, at| {
        let client = lab.connect(at);
        let (mut stream, _) = listener.accept().await.unwrap();
        let mute = "table inet mute { chain in { type filter hook input priority 0; drop ; } ; }";
        lab.client.run("nft", &[mute]).unwrap();
        stream.write_all(b"x").await.unwrap();
        let error = stream.read(&mut [0; 9]).await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        lab.client.run("nft", &["flush ruleset"]).unwrap();
        drop(client);
    }
);

both!(
    halves_work_alone_and_come_together_again,
    [],
    |lab, listener, at| {
        let mut client = lab.connect(at);
        let (mut stream, _) = listener.accept().await.unwrap();
        {
            let (mut read, mut write) = stream.split();
            client.write_all(b"one").unwrap();
            let mut buffer = [0; 3];
            read.read_exact(&mut buffer).await.unwrap();
            write.write_all(&buffer).await.unwrap();
        }
        let (mut read, mut write) = stream.into_split();
        let waits = tokio::spawn(async move {
            let mut buffer = [0; 3];
            read.read_exact(&mut buffer).await.unwrap();
            (read, buffer)
        });
        write.write_all(b"two").await.unwrap();
        client.write_all(b"six").unwrap();
        let (read, buffer) = waits.await.unwrap();
        assert_eq!(&buffer, b"six");
        let mut stream = read.reunite(write).unwrap();
        stream.write_all(b"again").await.unwrap();
        let (mut read, write) = stream.into_split();
        // The peer sees a FIN, and can still send.
        drop(write);
        assert_eq!(read_all(&client), b"onetwoagain");
        client.write_all(b"end").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        read.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"end");
    }
);

both!(halves_of_two_streams_do_not_fit, [], |lab, listener, at| {
    let _clients = (lab.connect(at), lab.connect(at));
    let (a, _) = listener.accept().await.unwrap();
    let (b, _) = listener.accept().await.unwrap();
    let (read, _write) = a.into_split();
    let (_read, write) = b.into_split();
    assert!(read.reunite(write).is_err());
});

both!(
    pieces_are_written_in_their_order,
    [],
    |lab, listener, at| {
        let client = lab.connect(at);
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.is_write_vectored());
        let data = noise(300_000);
        let reader = std::thread::spawn(move || read_all(&client));
        let mut left = &data[..];
        while !left.is_empty() {
            let pieces: Vec<_> = left.chunks(700).take(20).map(IoSlice::new).collect();
            let octets = stream.write_vectored(&pieces).await.unwrap();
            assert!(octets > 0);
            left = &left[octets..];
        }
        stream.shutdown().await.unwrap();
        assert!(reader.join().unwrap() == data);
    }
);

both!(many_tasks_wait_for_one_stream, [], |lab, listener, at| {
    let mut client = lab.connect(at);
    let (stream, _) = listener.accept().await.unwrap();
    let stream = std::sync::Arc::new(stream);
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let stream = stream.clone();
            tokio::spawn(async move { stream.readable().await })
        })
        .collect();
    a_moment().await;
    client.write_all(b"x").unwrap();
    for task in waiting {
        task.await.unwrap().unwrap();
    }
});

both!(
    a_listener_that_goes_resets_who_waits,
    [],
    |lab, listener, at| {
        let mut waits = lab.connect(at);
        let mut accepted = lab.connect(at);
        let (_, first) = listener.accept().await.unwrap();
        assert_eq!(first, waits.local_addr().unwrap());
        let _ = &mut accepted;
        drop(listener);
        let error = accepted.read(&mut [0; 9]).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(
            waits.read(&mut [0; 9]).unwrap(),
            0,
            "that one was accepted, and dropped"
        );
        lab.wait_until_refused(at);
    }
);

/// A place is bound once, and again when it is free.
#[test]
#[ignore = "needs root"]
fn binding_fails_with_a_reason() {
    let lab = &Lab::new();
    inside(lab, &[], async |server| {
        let bind = async |at: &str| net::TcpListener::bind(server.stack(), at).await;
        let first = bind("192.0.2.2:7").await.unwrap();
        for (at, kind) in [
            ("192.0.2.2:7", ErrorKind::AddrInUse),
            ("192.0.2.77:7", ErrorKind::AddrNotAvailable),
            ("192.0.2.2:0", ErrorKind::InvalidInput),
        ] {
            let error = bind(at).await.expect_err(at);
            assert_eq!(error.kind(), kind, "{at}: {error}");
        }
        // Every address beside one of them.
        let every = bind("[::]:7").await.unwrap();
        assert_eq!(
            bind("0.0.0.0:7").await.expect_err("the same").kind(),
            ErrorKind::AddrInUse
        );
        drop(first);
        let first = bind("192.0.2.2:7").await.unwrap();
        drop(every);
        let mut client = lab.connect("192.0.2.2:7");
        let (mut stream, _) = first.accept().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).unwrap();
    });
}

/// Ours only: the kernel drops the handshake's last ACK and lets the client believe.
#[test]
#[ignore = "needs root"]
fn connections_beyond_the_backlog_are_reset_and_counted() {
    let lab = &Lab::new();
    inside(lab, &[], async |server| {
        let listener = net::TcpListener::bind_with_backlog(server.stack(), "192.0.2.2:7", 2)
            .await
            .unwrap();
        let mut refused = 0;
        let mut clients = Vec::new();
        for _ in 0..5 {
            // The RST may come before `connect` returns.
            match lab.try_connect("192.0.2.2:7", PATIENCE) {
                Ok(client) => clients.push(client),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                    refused += 1;
                }
            }
        }
        // The RSTs of the others take as long as they take.
        wait_for("three to be reset", || {
            clients.retain_mut(|client| {
                let timeout = Some(Duration::from_millis(20));
                client.set_read_timeout(timeout).unwrap();
                let error = client.read(&mut [0]).expect_err("nobody answers");
                let is_reset = error.kind() == ErrorKind::ConnectionReset;
                assert!(is_reset || error.kind() == ErrorKind::WouldBlock, "{error}");
                refused += u32::from(is_reset);
                !is_reset
            });
            refused >= 3
        });
        assert_eq!((refused, listener.refused()), (3, 3));
        for _ in 0..2 {
            listener.accept().await.unwrap();
        }
        let _client = lab.connect("192.0.2.2:7");
        listener.accept().await.unwrap();
    });
}

/// Ours only: streams and listeners that outlive their stack say so.
#[test]
#[ignore = "needs root"]
fn the_end_of_the_stack_is_told() {
    let lab = &Lab::new();
    let control = format!("/tmp/{}.sock", lab.server.name());
    lab.server
        .enter(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let config = Config::load(None, &["shutdown.grace=100ms".into()]).unwrap();
            let builder = Server::builder(IFACE).config(config).control(control);
            let server = builder.start().unwrap();
            let stack = server.stack().clone();
            let bind = net::TcpListener::bind(&stack, "192.0.2.2:7");
            let listener = runtime.block_on(bind).unwrap();
            let mut client = lab.connect("192.0.2.2:7");
            let (mut stream, _) = runtime.block_on(listener.accept()).unwrap();
            let waits = runtime.spawn(async move {
                let read = stream.read(&mut [0; 9]).await.expect_err("the end").kind();
                let write = stream.write(&[0; 9]).await.expect_err("the end").kind();
                (read, write)
            });
            server.shutdown().unwrap();
            assert_eq!(
                runtime.block_on(waits).unwrap(),
                (ErrorKind::ConnectionAborted, ErrorKind::ConnectionAborted)
            );
            let error = client.read(&mut [0; 9]).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            let error = runtime.block_on(listener.accept()).expect_err("the end");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
            let error = runtime
                .block_on(net::TcpListener::bind(&stack, "192.0.2.2:9"))
                .expect_err("the end");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
        })
        .unwrap();
    assert!(!lab.is_attached());
}

/// Ours only: a cookie would leave both waiting for the other.
#[test]
#[ignore = "needs root"]
fn a_greeting_is_heard_though_the_last_ack_was_lost() {
    let lab = &Lab::new();
    let control = format!("/tmp/{}.sock", lab.server.name());
    lab.server
        .enter(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let builder = Server::builder(IFACE).policy(Policy::Adaptive);
            let server = builder.control(control).start().unwrap();
            let bind = net::TcpListener::bind(server.stack(), "192.0.2.2:25");
            let listener = runtime.block_on(bind).unwrap();
            runtime.spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"220 ready").await.unwrap();
                stream.shutdown().await.unwrap();
            });
            lose(lab, 25, FIRST_ACK);
            let client = lab.connect("192.0.2.2:25");
            assert_eq!(read_all(&client), b"220 ready");
        })
        .unwrap();
}
