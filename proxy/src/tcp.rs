//! Stage 8, forward, for bytes: both ways at once, half-close each way, a reset passed on as a reset.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::buffer::{Buffer, Size};
use crate::stream::Link;

/// A connection on which nothing has moved for this long is closed, where no policy says otherwise.
pub const IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// Steps of one direction, and bytes, before others on this worker have their turn.
const STEPS: u32 = 16;
const BYTES: u64 = 1 << 20;

/// Bytes moved each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// From the first to the second.
    pub forth: u64,
    /// From the second to the first.
    pub back: u64,
}

/// Moves bytes between two connections until both ways have ended, one breaks, or nothing moves for as long as `idle` said
/// when something last did.
///
/// `progress` is told the bytes of each step. What breaks one side resets the other.
pub fn copy<A, B, I, P>(
    first: A,
    second: B,
    idle: I,
    progress: P,
) -> impl Future<Output = io::Result<()>> + Unpin
where
    A: AsyncRead + AsyncWrite + Link + Unpin,
    B: AsyncRead + AsyncWrite + Link + Unpin,
    I: Fn() -> Duration + Unpin,
    P: FnMut(Moved) + Unpin,
{
    let (forth, back) = (Direction::default(), Direction::default());
    let allowed = idle();
    let timer = Box::pin(tokio::time::sleep(allowed));
    Copying { first, second, idle, progress, forth, back, timer, allowed, last_moved: Instant::now() }
}

/// What [`copy`] does. Thousands of these lie idle; an async function would hold each connection twice.
struct Copying<A, B, I, P> {
    first: A,
    second: B,
    idle: I,
    progress: P,
    forth: Direction,
    back: Direction,
    timer: Pin<Box<Sleep>>,
    allowed: Duration,
    last_moved: Instant,
}

impl<A, B, I, P> Future for Copying<A, B, I, P>
where
    A: AsyncRead + AsyncWrite + Link + Unpin,
    B: AsyncRead + AsyncWrite + Link + Unpin,
    I: Fn() -> Duration + Unpin,
    P: FnMut(Moved) + Unpin,
{
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(this.poll_both(cx));
        if result.is_err() {
            this.first.reset();
            this.second.reset();
        }
        Poll::Ready(result)
    }
}

impl<A, B, I, P> Copying<A, B, I, P>
where
    A: AsyncRead + AsyncWrite + Link + Unpin,
    B: AsyncRead + AsyncWrite + Link + Unpin,
    I: Fn() -> Duration,
    P: FnMut(Moved),
{
    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = Moved { forth: self.forth.moved, back: self.back.moved };
        let forth_ended = self.forth.poll(cx, &mut self.first, &mut self.second)?.is_ready();
        let back_ended = self.back.poll(cx, &mut self.second, &mut self.first)?.is_ready();
        let moved = Moved { forth: self.forth.moved - before.forth, back: self.back.moved - before.back };
        if moved != Moved::default() {
            self.last_moved = Instant::now();
            (self.progress)(moved);
            let allowed = (self.idle)();
            if allowed < self.allowed {
                self.timer.as_mut().reset(self.last_moved + allowed);
            }
            self.allowed = allowed;
        }
        if forth_ended && back_ended {
            return Poll::Ready(Ok(()));
        }
        self.poll_idle(cx)
    }

    /// Ready once nothing has moved for as long as is allowed. The timer is not touched while bytes move, only looked at
    /// when it fires.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let deadline = self.last_moved + self.allowed;
            if deadline <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// One of the two ways.
#[derive(Default)]
struct Direction {
    buffer: Option<Buffer>,
    /// What the next read needs.
    wanted: Size,
    moved: u64,
    state: State,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Moving,
    /// The reading side has ended; the writing side is to be told.
    Ending,
    Ended,
}

impl Direction {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Link + Unpin,
        W: AsyncWrite + Unpin,
    {
        let enough = self.moved.saturating_add(BYTES);
        for _ in 0..STEPS {
            if self.moved >= enough {
                break;
            }
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Ended;
                    return Poll::Ready(Ok(()));
                }
                State::Moving => {}
            }
            let step = self.step(cx, from, to);
            if self.buffer.as_ref().is_some_and(Buffer::is_empty) {
                self.buffer = None;
            }
            if ready!(step)? == Step::End {
                self.state = State::Ending;
            }
        }
        // Still more to do: let others have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and writes all of it.
    fn step<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<Step>>
    where
        R: AsyncRead + Link + Unpin,
        W: AsyncWrite + Unpin,
    {
        let buffer = self.buffer.get_or_insert_with(|| Buffer::take(self.wanted));
        if buffer.is_empty() {
            // What came in records is what they hold; anything else goes on in full ones.
            let most = if from.is_sealed() { usize::MAX } else { buffer.size().plain() };
            match buffer.poll_read_from(cx, from, most) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Step::End)),
                Poll::Ready(Ok(count)) => self.wanted = Size::after(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // Nothing more to come for now: what TLS holds back must go.
                    return match Pin::new(to).poll_flush(cx) {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
        while !buffer.is_empty() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, buffer.filled()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            buffer.consume(count);
            self.moved += count as u64;
        }
        Poll::Ready(Ok(Step::Moved))
    }
}

#[derive(PartialEq, Eq)]
enum Step {
    Moved,
    End,
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::stream::Stream;

    impl Link for DuplexStream {
        fn reset(&self) {}

        fn is_sealed(&self) -> bool {
            false
        }
    }

    async fn tcp_pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0.into())
    }

    #[tokio::test]
    async fn an_idle_one_holds_each_connection_once() {
        let ((_client, a), (_server, b)) = (tcp_pair().await, tcp_pair().await);
        let held = size_of_val(&copy(a, b, || IDLE, |_| {}));
        assert!(held <= 2 * size_of::<Stream>() + 160, "{held}");
    }

    #[tokio::test]
    async fn each_way_ends_on_its_own() {
        let ((mut client, a), (mut server, b)) = (duplex(16), duplex(16));
        let mut total = Moved::default();
        let exchange = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = String::new();
            server.read_to_string(&mut question).await.unwrap();
            server.write_all(b"a longer answer than fits at once").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            (question, answer)
        };
        let copied = copy(
            a,
            b,
            || IDLE,
            |moved| {
                total.forth += moved.forth;
                total.back += moved.back;
            },
        );
        let (copied, (question, answer)) = tokio::join!(copied, exchange);
        copied.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "a longer answer than fits at once"));
        assert_eq!(total, Moved { forth: 8, back: 33 });
    }

    #[tokio::test]
    async fn bulk_arrives_whole() {
        let ((mut client, a), (mut server, b)) = (tcp_pair().await, tcp_pair().await);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251).try_into().unwrap()).collect();
        let exchange = async {
            let read = async {
                let mut received = Vec::new();
                server.read_to_end(&mut received).await.unwrap();
                received
            };
            let write = async {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let (received, ()) = tokio::join!(read, write);
            drop(server);
            received
        };
        let (copied, received) = tokio::join!(copy(a, b, || IDLE, |_| {}), exchange);
        copied.unwrap();
        assert!(received == sent);
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_as_a_reset() {
        let ((client, a), (mut server, b)) = (tcp_pair().await, tcp_pair().await);
        crate::stream::reset(&client);
        drop(client);
        assert!(copy(a, b, || IDLE, |_| {}).await.is_err());
        let error = server.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test(start_paused = true)]
    async fn another_limit_holds_from_the_next_bytes_on() {
        let ((mut client, a), (server, b)) = (duplex(16), duplex(16));
        let allowed = std::cell::Cell::new(IDLE);
        let begun = Instant::now();
        let talk = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            allowed.set(Duration::from_secs(5));
            tokio::time::sleep(Duration::from_secs(60)).await;
            client.write_all(b"x").await.unwrap();
        };
        let (copied, ()) = tokio::join!(copy(a, b, || allowed.get(), |_| {}), talk);
        assert_eq!(copied.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), Duration::from_secs(125));
        drop(server);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_moves_is_closed_after_hours_only() {
        let ((mut client, a), (server, b)) = (duplex(16), duplex(16));
        let begun = Instant::now();
        let talk = async {
            tokio::time::sleep(IDLE / 2).await;
            client.write_all(b"x").await.unwrap();
        };
        let (copied, ()) = tokio::join!(copy(a, b, || IDLE, |_| {}), talk);
        assert_eq!(copied.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), IDLE + IDLE / 2);
        drop(server);
    }
}
