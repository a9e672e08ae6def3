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
    // The build directory may not be readable for others.
    let binary = std::env::temp_dir().join(format!("tcp-user-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_tcp-user"), &binary).unwrap();
    let mut command = lab.server.command("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["--inh-caps=-all", "--bounding-set=-all"])
        .arg(&binary)
        .args(["run", "--iface", IFACE])
        .args(LISTENS);
    let (code, stderr) = finish(&mut command);
    std::fs::remove_file(&binary).unwrap();
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

/// Makes a system call fail by seccomp: number, first argument or -1 for any, errno;
/// then executes the rest of the command line.
const WITHOUT: &str = r"
import ctypes, os, struct, sys
nr, arg, errno = map(int, sys.argv[1:4])
load, equal, answer, allow = 0x20, 0x15, 0x06, 0x7fff0000
code = [(load, 0, 0, 0), (equal, 0, 3, nr), (load, 0, 0, 16), (equal, 0, 1, arg)]
if arg < 0:
    code = [(load, 0, 0, 0), (equal, 0, 1, nr)]
code += [(answer, 0, 0, 0x50000 | errno), (answer, 0, 0, allow)]
text = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *i) for i in code))
class Program(ctypes.Structure):
    _fields_ = [('len', ctypes.c_ushort), ('code', ctypes.c_void_p)]
program = Program(len(code), ctypes.addressof(text))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
os.execv(sys.argv[4], sys.argv[4:])
";

#[test]
#[ignore = "needs root"]
fn a_kernel_without_what_is_needed() {
    const BPF_LINK_CREATE: i64 = 28;
    let lab = Lab::new();
    for (call, argument, errno, names) in [
        (
            libc::SYS_socket,
            i64::from(libc::AF_XDP),
            libc::EAFNOSUPPORT,
            "AF_XDP",
        ),
        (libc::SYS_bpf, -1, libc::ENOSYS, "the bpf system call"),
        (libc::SYS_bpf, BPF_LINK_CREATE, libc::EINVAL, "BPF links"),
    ] {
        let mut command = lab.server.command("python3");
        command
            .args(["-c", WITHOUT])
            .args([call, argument, i64::from(errno)].map(|n| n.to_string()))
            .arg(env!("CARGO_BIN_EXE_tcp-user"))
            .args(["run", "--iface", IFACE])
            .args(LISTENS);
        let (code, stderr) = finish(&mut command);
        assert_eq!(code, Some(2), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("this kernel lacks"), "{stderr}");
        assert!(stderr.contains(names), "{stderr}");
        assert!(!lab.is_attached(), "{names}");
    }
}
