//! What is wrong is one line on stderr and exit code 2, and nothing stays attached.

use crate::lab::{IFACE, LISTENS, Lab, finish};

#[test]
#[ignore = "needs root"]
fn one_line_that_names_the_thing() {
    let lab = Lab::new();
    let run = |args: &[&'static str]| [&["run", "--iface", IFACE], args].concat();
    for (args, names) in [
        (
            vec!["run", "--iface", "nope0", "--listen", "*:80=http"],
            "nope0",
        ),
        (run(&["--listen", "10.0.0.300:80=http"]), "10.0.0.300"),
        (
            run(&["--listen", "*:80=http", "--listen", "*:80=echo"]),
            "*:80",
        ),
        (run(&["--listen", "*:http=80"]), "http"),
        (run(&["--listen", "*:80=gopher"]), "gopher"),
        (
            run(&["--listen", "*:80=http", "--set", "tcp.mls=1s"]),
            "mls",
        ),
        (
            run(&["--listen", "*:80=http", "--set", "tcp.msl=soon"]),
            "soon",
        ),
        (
            run(&["--listen", "*:80=http", "--config", "/no/such/file"]),
            "/no/such/file",
        ),
        (run(&["--listen", "*:80=http", "--turbo"]), "--turbo"),
        (run(&["--listen", "*:80=http", "--mode", "warp"]), "warp"),
        (
            run(&["--listen", "*:80=http", "--control", "/no/such/dir/x"]),
            "/no/such/dir/x",
        ),
        (
            run(&[
                "--listen",
                "*:80=http",
                "--set",
                "cookie.secret_file=/no/such/key",
            ]),
            "/no/such/key",
        ),
        (
            vec!["stats", "--control", "/no/such/socket"],
            "/no/such/socket",
        ),
    ] {
        let (code, stderr) = lab.refused(&args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        assert!(stderr.contains(names), "{args:?}: {stderr}");
        assert!(!lab.is_attached(), "{args:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn without_privileges() {
    let lab = Lab::new();
    let mut command = lab.server.command("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["--inh-caps=-all", "--bounding-set=-all"])
        .arg(env!("CARGO_BIN_EXE_tcp-user"))
        .args(["run", "--iface", IFACE])
        .args(LISTENS);
    let (code, stderr) = finish(&mut command);
    if stderr.contains("Permission denied") && !stderr.contains("tcp-user:") {
        // The build directory is not readable for others; nothing to see here.
        return;
    }
    assert_eq!(code, Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("CAP_NET_ADMIN"), "{stderr}");
    assert!(!lab.is_attached());
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_is_taken() {
    let lab = Lab::new();
    let server = lab.serve(&[]);
    let (code, stderr) = lab.refused(&[&["run", "--iface", IFACE][..], &LISTENS].concat());
    assert_eq!(code, Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("already has an XDP program"), "{stderr}");
    assert!(lab.is_attached(), "the first one goes on");
    drop(server);
}
