//! What every exporter tells of its process.

use std::time::{SystemTime, UNIX_EPOCH};

/// Names by Prometheus' convention for processes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    /// Seconds.
    pub(super) cpu: f64,
    /// Seconds since the epoch.
    pub(super) start: f64,
    /// Octets.
    pub(super) resident: u64,
}

impl Process {
    /// Zero where the system does not tell.
    pub(super) fn read() -> Self {
        let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let uptime: f64 = uptime
            .split(' ')
            .next()
            .and_then(|t| t.parse().ok())
            .unwrap_or(0.0);
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
        Self::parse(
            &text,
            now - uptime,
            page.ok().flatten().unwrap_or(4096) as u64,
        )
    }

    fn parse(stat: &str, boot: f64, page: u64) -> Self {
        // USER_HZ is 100 everywhere.
        const HZ: f64 = 100.0;
        // The name in parentheses may hold anything.
        let fields: Vec<&str> = stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .split(' ')
            .collect();
        let of = |field: usize| -> u64 {
            // Fields are counted from 1 in proc(5), the state is the third.
            fields
                .get(field - 3)
                .and_then(|t| t.parse().ok())
                .unwrap_or(0)
        };
        Self {
            cpu: (of(14) + of(15)) as f64 / HZ,
            start: boot + of(22) as f64 / HZ,
            resident: of(24) * page,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_proc() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 3 0 1000 99 25 0";
        let process = Process::parse(stat, 1e9, 4096);
        assert_eq!(process.cpu.to_string(), "2");
        assert_eq!(process.start.to_string(), "1000000010");
        assert_eq!(process.resident, 25 * 4096);
        let own = Process::read();
        assert!(own.resident > 0 && own.start > 1e9, "{own:?}");
        assert_eq!(Process::parse("", 0.0, 1).resident, 0);
    }
}
