//! Processes that end with this one.
//!
//! The kernel kills a child when the *thread* that started it ends, so all are started by one thread that lives as long as the
//! process. This is the crate's only unsafe code.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Mutex, OnceLock, mpsc};

type Order = (Command, mpsc::SyncSender<io::Result<Child>>);

static SPAWNER: OnceLock<Mutex<mpsc::SyncSender<Order>>> = OnceLock::new();

/// Starts a process that the kernel kills when this process ends, however it ends.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn(mut command: Command) -> io::Result<Child> {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .map_err(io::Error::from)
        });
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, queue) = mpsc::sync_channel::<Order>(0);
        std::thread::spawn(move || {
            for (mut command, reply) in queue {
                // Whoever asked has gone if nobody takes the reply; dropping a child leaves it to the kernel's signal.
                _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = mpsc::sync_channel(1);
    let orders = spawner
        .lock()
        .expect("nothing panics while it holds the lock")
        .clone();
    orders
        .send((command, reply))
        .expect("the spawning thread never ends");
    answer.recv().expect("the spawning thread always replies")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("600");
            spawn(command)
        });
        let mut child = child.join().unwrap().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
