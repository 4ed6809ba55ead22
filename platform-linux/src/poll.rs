//! Waiting for descriptors and deadlines: the heart of a thread without an async runtime.
//!
//! A [`Poller`] is one epoll instance; descriptors are registered once, level-triggered, under a token of the
//! caller's. A [`Waker`] ends the wait from another thread. [`Poller::wait`] returns for a ready descriptor, for a
//! wake-up, or when the deadline has passed, never before. Bounds: [`EVENTS`] ready descriptors per call; what is
//! left is told by the next. It owns no descriptor but its own: deregister before closing one that was duplicated.
//!
//! Deadlines are kept by a timer of the kernel that is set only to end earlier than it would: a deadline that every
//! packet puts off costs a wake-up when it has come for nothing, instead of a timer made and cancelled for each wait.

use core::mem::MaybeUninit;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use edgemesh_core::time::Instant;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::clock;

/// Ready descriptors told by one [`Poller::wait`].
pub const EVENTS: usize = 32;

/// The waker's token and the timer's, which callers cannot use.
const WAKER: u64 = u64::MAX;
const TIMER: u64 = WAKER - 1;

/// What a descriptor is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    /// Something to read.
    Read,
    /// Room to write.
    Write,
    /// Either.
    Both,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Read => epoll::EventFlags::IN,
            Self::Write => epoll::EventFlags::OUT,
            Self::Both => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        }
    }
}

/// Why [`Poller::wait`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The descriptor registered under this token is ready, or has an error to be read off it.
    Ready(u64),
    /// A [`Waker`] was used since the last time this was told.
    Woken,
}

/// Ends a [`Poller::wait`] from anywhere.
#[derive(Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Wakes the poller, now or at its next wait. Many calls count as one.
    pub fn wake(&self) {
        // The only failure is a counter at its limit, and then the poller wakes as well.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// One thread's set of descriptors to wait for.
pub struct Poller {
    epoll: OwnedFd,
    waker: Waker,
    /// Counts through a suspend, as our clock does.
    timer: OwnedFd,
    /// When the timer ends, at or before the deadline of the last wait.
    armed: Option<Instant>,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// As `epoll_create(2)`, `eventfd(2)` and `timerfd_create(2)`: out of descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let waker = Waker(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &waker.0, epoll::EventData::new_u64(WAKER), epoll::EventFlags::IN)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        Ok(Self { epoll, waker, timer, armed: None })
    }

    /// A handle that ends waits.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits for `descriptor` from now on, under `token`.
    ///
    /// # Errors
    /// `InvalidInput` for the two largest tokens; otherwise as `epoll_ctl(2)`, `EEXIST` when it is registered.
    pub fn add(&self, descriptor: impl AsFd, interest: Interest, token: u64) -> io::Result<()> {
        if token >= TIMER {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(epoll::add(&self.epoll, descriptor, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Waits for something else at `descriptor`, under `token`.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`; `ENOENT` when it was not registered.
    pub fn change(&self, descriptor: impl AsFd, interest: Interest, token: u64) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, descriptor, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// No longer waits for `descriptor`.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`; `ENOENT` when it was not registered.
    pub fn remove(&self, descriptor: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, descriptor)?)
    }

    /// Waits until something is ready, the waker is used or `deadline` has passed, and hands each event to
    /// `each`. Without a deadline it waits for ever; one that has passed only looks.
    ///
    /// # Errors
    /// As `epoll_wait(2)` and `timerfd_settime(2)`; a signal is not an error and does not end the wait.
    pub fn wait(&mut self, deadline: Option<Instant>, mut each: impl FnMut(Event)) -> io::Result<()> {
        let mut room = [const { MaybeUninit::uninit() }; EVENTS];
        loop {
            let passed = deadline.is_some_and(|deadline| clock::now() >= deadline);
            if let Some(deadline) = deadline.filter(|_| !passed) {
                self.arm(deadline)?;
            }
            let only_look = Timespec { tv_sec: 0, tv_nsec: 0 };
            let ready = match epoll::wait(&self.epoll, &mut room, passed.then_some(&only_look)) {
                Ok((ready, _)) => &*ready,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let mut told = false;
            for ready in ready {
                match ready.data.u64() {
                    WAKER => {
                        // Zero means that the wake-up was told already: nothing to do.
                        let _ = rustix::io::read(&self.waker.0, &mut [0; 8]);
                        each(Event::Woken);
                    }
                    TIMER => {
                        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                        self.armed = None;
                        continue;
                    }
                    token => each(Event::Ready(token)),
                }
                told = true;
            }
            if told || passed {
                return Ok(());
            }
        }
    }

    /// Has the timer end at `deadline` at the latest.
    fn arm(&mut self, deadline: Instant) -> io::Result<()> {
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return Ok(());
        }
        let micros = deadline.as_micros();
        let it_value =
            Timespec { tv_sec: (micros / 1_000_000) as _, tv_nsec: (micros % 1_000_000 * 1_000) as _ };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let time = Itimerspec { it_interval, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &time)?;
        self.armed = Some(deadline);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use edgemesh_core::time::Duration;

    use super::*;

    fn wait(poller: &mut Poller, deadline: Option<Instant>) -> Vec<Event> {
        let mut events = Vec::new();
        poller.wait(deadline, |event| events.push(event)).unwrap();
        events
    }

    #[test]
    fn a_deadline_ends_the_wait_and_never_early() {
        let mut poller = Poller::new().unwrap();
        for micros in [0, 1, 999, 1500, 20_000] {
            let deadline = clock::now().after(Duration::from_micros(micros));
            assert_eq!(wait(&mut poller, Some(deadline)), []);
            assert!(clock::now() >= deadline);
        }
    }

    #[test]
    fn a_deadline_that_is_put_off_ends_no_wait_before_and_one_that_is_earlier_again_does() {
        let mut poller = Poller::new().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        poller.add(&socket, Interest::Read, 7).unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        let from_now = |ms| clock::now().after(Duration::from_millis(ms));
        assert_eq!(wait(&mut poller, Some(from_now(5))), [Event::Ready(7)]);
        socket.recv(&mut [0]).unwrap();
        let later = from_now(30);
        assert_eq!(wait(&mut poller, Some(later)), []);
        assert!(clock::now() >= later);
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert_eq!(wait(&mut poller, Some(from_now(3_600_000))), [Event::Ready(7)]);
        socket.recv(&mut [0]).unwrap();
        let sooner = from_now(10);
        assert_eq!(wait(&mut poller, Some(sooner)), []);
        assert!(clock::now() >= sooner);
    }

    #[test]
    fn a_waker_ends_an_endless_wait_once() {
        let mut poller = Poller::new().unwrap();
        let waker = poller.waker();
        let thread = std::thread::spawn(move || {
            waker.wake();
            waker.wake();
        });
        assert_eq!(wait(&mut poller, None), [Event::Woken]);
        thread.join().unwrap();
        wait(&mut poller, Some(clock::now()));
        assert_eq!(wait(&mut poller, Some(clock::now())), []);
    }

    #[test]
    fn a_ready_descriptor_is_told_until_it_is_read_or_removed() {
        let mut poller = Poller::new().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        poller.add(&socket, Interest::Read, 7).unwrap();
        assert_eq!(wait(&mut poller, Some(clock::now())), []);
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert_eq!(wait(&mut poller, None), [Event::Ready(7)]);
        assert_eq!(wait(&mut poller, None), [Event::Ready(7)]);
        poller.remove(&socket).unwrap();
        assert_eq!(wait(&mut poller, Some(clock::now())), []);
        poller.add(&socket, Interest::Write, 8).unwrap();
        assert_eq!(wait(&mut poller, None), [Event::Ready(8)]);
        socket.recv(&mut [0]).unwrap();
        poller.change(&socket, Interest::Read, 9).unwrap();
        assert_eq!(wait(&mut poller, Some(clock::now())), []);
        poller.change(&socket, Interest::Both, 9).unwrap();
        assert_eq!(wait(&mut poller, None), [Event::Ready(9)]);
        assert!(poller.add(&socket, Interest::Read, u64::MAX).is_err());
        assert!(poller.add(&socket, Interest::Read, u64::MAX - 1).is_err());
    }
}
