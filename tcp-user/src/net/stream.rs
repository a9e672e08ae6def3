//! A connection for a task.

use super::shared::{Gone, Recv, Shared, want};
use super::split::{self, OwnedReadHalf, OwnedWriteHalf, ReadHalf, WriteHalf};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

/// A connection, as `tokio::net::TcpStream` has it.
///
/// Dropping it closes the connection: what was written is sent and then a FIN, in the
/// background; if received data was left unread, an RST instead (RFC 2525 §2.17).
///
/// Reads and writes fail with `ConnectionReset` (the peer's RST), `TimedOut` (no answer),
/// `ConnectionAborted` (the server stopped); writes also with `BrokenPipe` (after
/// `shutdown`, or when the peer closed and then refused what we sent).
#[derive(Debug)]
pub struct TcpStream {
    shared: Arc<Shared>,
}

impl TcpStream {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The peer's address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.shared.peer)
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.shared.peer
    }

    /// The address that the peer connected to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.shared.local)
    }

    /// Whether short segments wait for the acknowledgment of the last one (Nagle's
    /// algorithm, RFC 9293 §3.7.4): they do unless this is true. False at first.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.set_options(|o| o.nodelay = on);
        Ok(())
    }

    /// As [`Self::set_nodelay`] left it.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.shared.send().options.nodelay)
    }

    /// Probes an idle peer (RFC 9293 §3.8.4), after `tcp.keepalive` of silence or two hours
    /// where that is not set; nine probes without an answer end the connection. False at
    /// first.
    pub fn set_keepalive(&self, on: bool) -> io::Result<()> {
        self.set_options(|o| o.keepalive = on);
        Ok(())
    }

    /// As [`Self::set_keepalive`] left it.
    pub fn keepalive(&self) -> io::Result<bool> {
        Ok(self.shared.send().options.keepalive)
    }

    /// Dropping the stream resets the connection from now on (RFC 9293 §3.10.5); what was
    /// not sent is lost.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        self.shared.send().options.zero_linger = true;
        Ok(())
    }

    pub(super) fn reset_on_drop(self) {
        self.shared.send().options.zero_linger = true;
    }

    fn set_options(&self, change: impl FnOnce(&mut super::shared::Options)) {
        change(&mut self.shared.send().options);
        self.shared.notify(want::SEND);
    }

    /// Copies received data without taking it; waits for the first octet. 0 is the end.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut buf = ReadBuf::new(buf);
            self.poll_peek(cx, &mut buf)
        })
        .await
    }

    /// As [`Self::peek`]; shares its waker with `poll_read`.
    pub fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let progress = ready!(coop::poll_proceed(cx));
        let mut recv = self.shared.recv();
        if !recv.is_ready() {
            recv.tasks.set_poll(cx);
            return Poll::Pending;
        }
        progress.made_progress();
        let mut peeked = 0;
        let (result, _) = recv.take(|data| {
            peeked = copy(data, buf);
            0
        });
        Poll::Ready(result.map(|_| peeked))
    }

    /// Waits until a read does not wait: data, the end, or an error. Any number of tasks
    /// may wait.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_read_ready_shared(cx)).await
    }

    fn poll_read_ready_shared(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = ready!(coop::poll_proceed(cx));
        let mut recv = self.shared.recv();
        if recv.is_ready() {
            progress.made_progress();
            return Poll::Ready(Ok(()));
        }
        recv.tasks.add(cx);
        Poll::Pending
    }

    /// Waits until a write does not wait: room, or an error. Any number of tasks may wait.
    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let progress = ready!(coop::poll_proceed(cx));
            let mut send = self.shared.send();
            if send.is_ready() {
                progress.made_progress();
                return Poll::Ready(Ok(()));
            }
            send.tasks.add(cx);
            Poll::Pending
        })
        .await
    }

    /// Reads what is there; `WouldBlock` if that is nothing, 0 at the end.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        self.read_now(self.shared.recv(), &mut buf)
    }

    /// Writes what there is room for; `WouldBlock` if that is nothing.
    pub fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(data)])
    }

    /// As [`Self::try_write`], of several pieces.
    pub fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let octets = self.shared.send().append(pieces)?;
        if octets > 0 {
            self.shared.notify(want::SEND);
        }
        Ok(octets)
    }

    fn read_now(&self, mut recv: MutexGuard<'_, Recv>, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        let (result, tell) = recv.take(|data| copy(data, buf));
        drop(recv);
        if tell {
            self.shared.notify(want::RECEIVE);
        }
        result
    }

    pub(super) fn poll_read_shared(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let progress = ready!(coop::poll_proceed(cx));
        let mut recv = self.shared.recv();
        if !recv.is_ready() {
            recv.tasks.set_poll(cx);
            return Poll::Pending;
        }
        progress.made_progress();
        Poll::Ready(self.read_now(recv, buf).map(|_| ()))
    }

    pub(super) fn poll_write_shared(
        &self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = ready!(coop::poll_proceed(cx));
        let mut send = self.shared.send();
        let result = match send.append(pieces) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                send.tasks.set_poll(cx);
                return Poll::Pending;
            }
            other => other,
        };
        drop(send);
        progress.made_progress();
        if result.as_ref().is_ok_and(|octets| *octets > 0) {
            self.shared.notify(want::SEND);
        }
        Poll::Ready(result)
    }

    /// FIN behind what was written. Reading goes on.
    pub(super) fn shutdown_write(&self) -> io::Result<()> {
        let mut send = self.shared.send();
        if send.error.is_some() && !send.fin {
            return Err(ErrorKind::NotConnected.into());
        }
        let first = !std::mem::replace(&mut send.fin, true);
        drop(send);
        if first {
            self.shared.notify(want::SEND);
        }
        Ok(())
    }

    /// Halves that borrow the stream, for one task.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        split::borrowed(self)
    }

    /// Halves of their own, for two tasks. Dropping the writing half is a `shutdown`.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        split::owned(self)
    }
}

/// Copies from the front; how many octets fit.
fn copy(data: &VecDeque<u8>, buf: &mut ReadBuf<'_>) -> usize {
    let (a, b) = data.as_slices();
    let mut octets = 0;
    for part in [a, b] {
        let n = part.len().min(buf.remaining());
        buf.put_slice(&part[..n]);
        octets += n;
    }
    octets
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_shared(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_shared(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_shared(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// There is nothing to flush: what was written is on its way.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown_write())
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        let unread = {
            let mut recv = self.shared.recv();
            let unread = !recv.data.is_empty();
            recv.data = VecDeque::new();
            unread
        };
        let mut send = self.shared.send();
        let abort = unread || send.options.zero_linger;
        send.gone = Some(if abort { Gone::Abort } else { Gone::Close });
        drop(send);
        self.shared.notify(want::SEND);
    }
}

#[cfg(test)]
impl TcpStream {
    /// Dead when nobody has the connection any more.
    pub(super) fn shared(&self) -> std::sync::Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    /// Octets of memory that the receive buffer holds.
    pub(super) fn shared_recv_capacity(&self) -> usize {
        self.shared.recv().data.capacity()
    }
}
