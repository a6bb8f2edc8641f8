//! What the kernel knows of this process, under the names that Prometheus' own clients use, and its tasks.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};

use super::Registry;
use crate::{logs, task};

/// What `/proc/self/stat` says (proc_pid_stat(5)).
struct Stat {
    cpu_seconds: f64,
    threads: f64,
    start_seconds: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

pub(super) fn register(registry: &Registry) {
    let stat = |pick: fn(Stat) -> f64| move || sample(Stat::read().map(pick));
    registry.counter_from(
        "process_cpu_seconds_total",
        "CPU time spent, in seconds.",
        [],
        stat(|stat| stat.cpu_seconds),
    );
    registry.gauge_from("process_threads", "Threads.", [], stat(|stat| stat.threads));
    registry.gauge_from(
        "process_resident_memory_bytes",
        "Memory in RAM, in bytes.",
        [],
        stat(|stat| stat.resident_bytes),
    );
    registry.gauge_from(
        "process_virtual_memory_bytes",
        "Memory mapped, in bytes.",
        [],
        stat(|stat| stat.virtual_bytes),
    );
    registry.gauge_from(
        "process_start_time_seconds",
        "When the process started, in seconds since 1970.",
        [],
        || sample(Stat::read().zip(boot_time()).map(|(stat, boot)| boot + stat.start_seconds)),
    );
    registry.gauge_from("process_open_fds", "Open file descriptors.", [], || sample(open_files()));
    registry.gauge_from("process_max_fds", "File descriptors that may be open.", [], || sample(most_files()));

    registry.counter_from(
        "weft_log_lines_suppressed_total",
        "Log lines not written because the same place had written many just before.",
        [],
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
        || vec![([], logs::suppressed() as f64)],
    );
    registry.gauge_from("weft_tasks", "Tasks that live, by name.", ["task"], || tasks(|count| count.live));
    registry.counter_from("weft_tasks_started_total", "Tasks started, by name.", ["task"], || {
        tasks(|count| count.started)
    });
    registry.counter_from("weft_task_panics_total", "Panics caught in tasks, by name.", ["task"], || {
        tasks(|count| count.panics)
    });
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
fn tasks(pick: fn(&task::TaskCount) -> u64) -> Vec<([String; 1], f64)> {
    task::counts().iter().map(|count| ([count.name.to_owned()], pick(count) as f64)).collect()
}

fn sample(value: Option<f64>) -> Vec<([String; 0], f64)> {
    value.map(|value| ([], value)).into_iter().collect()
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// The second field is the program's name in parentheses and may hold anything, so the rest begins after the last.
    #[expect(clippy::cast_precision_loss, reason = "ticks and pages are small")]
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<f64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
        // Fields are numbered from one in the manual; the third comes first here.
        let field = |number: usize| fields.get(number - 3).copied();
        let ticks = clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            start_seconds: field(22)? / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_size() as f64,
        })
    }
}

fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// Without the one that the count itself opens.
#[expect(clippy::cast_precision_loss, reason = "file descriptors are few")]
fn open_files() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

#[expect(clippy::cast_precision_loss, reason = "file descriptors are few")]
fn most_files() -> Option<f64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.map(|most| most as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let stat = "7 (a) R (b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1000 8192 3 1844674 1";
        let stat = Stat::parse(stat).unwrap();
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!(stat.cpu_seconds, 300.0 / ticks);
        assert_eq!(stat.threads, 9.0);
        assert_eq!(stat.start_seconds, 1000.0 / ticks);
        assert_eq!(stat.virtual_bytes, 8192.0);
        assert_eq!(stat.resident_bytes, 3.0 * page_size() as f64);
    }

    #[test]
    fn a_cut_off_line_says_nothing() {
        assert!(Stat::parse("").is_none());
        assert!(Stat::parse("7 (a) S 1 7").is_none());
    }

    #[test]
    fn this_process_is_described() {
        let stat = Stat::read().unwrap();
        assert!(stat.threads >= 1.0 && stat.resident_bytes > 1e5 && stat.virtual_bytes > stat.resident_bytes);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let start = boot_time().unwrap() + stat.start_seconds;
        assert!(start <= now + 2.0 && start > now - 3600.0, "{start} {now}");
        assert!(open_files().unwrap() >= 3.0);
    }
}
