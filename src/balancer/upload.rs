//! The body of a request on its way to a member. Streams; what has passed is kept as long as it is small, so that the
//! request can be sent again.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{dev::Payload, error::PayloadError};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::timeout;

use super::{pages::Refusal, view::Counters};
use crate::{limits, time::Moment};

/// The body of one request, over all its attempts.
#[derive(Clone)]
pub(crate) struct Upload(Option<Rc<RefCell<State>>>);

/// The body of one attempt, as hyper takes it.
pub(crate) struct Outgoing {
    upload: Upload,
    /// Bytes of the kept part that this attempt has taken.
    taken: usize,
    /// Which attempt this is. A later one ends an earlier one.
    turn: u32,
    /// Of the member it goes to.
    counters: Arc<Counters>,
}

/// Why a body goes no further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The client's connection broke or its framing is wrong.
    #[error("the client's body broke off: {0}")]
    Client(PayloadError),
    /// Another attempt has taken the body over.
    #[error("the request is being sent elsewhere")]
    Superseded,
}

/// How far the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All of it was handed to the connection, or there is none.
    Done(Moment),
    /// The member takes it slowly.
    MemberTurn(Moment),
    /// The client sends it slowly.
    ClientTurn(Moment),
    /// The client broke off.
    Broken,
    /// It is larger than a body may be.
    TooLarge,
}

struct State {
    payload: Payload,
    /// `Content-Length`.
    length: Option<u64>,
    /// Everything read so far, unless it grew above `keep`.
    kept: BytesMut,
    keep: usize,
    outgrown: bool,
    progress: Progress,
    /// How long the client was waited for, all in all, and what it has sent in that time.
    waited: Duration,
    sent: u64,
    turn: u32,
    /// Bytes that the client has sent, and may send.
    received: u64,
    most: u64,
}

impl Upload {
    /// `length` is the request's `Content-Length`; at most `keep` bytes are kept for a retry.
    pub(crate) fn new(payload: Payload, length: Option<u64>, keep: usize) -> Self {
        if matches!(payload, Payload::None) || length == Some(0) {
            return Self(None);
        }
        Self(Some(Rc::new(RefCell::new(State {
            payload,
            length,
            kept: BytesMut::new(),
            keep,
            outgrown: false,
            progress: Progress::ClientTurn(Moment::now()),
            waited: Duration::ZERO,
            sent: 0,
            turn: 0,
            received: 0,
            most: u64::MAX,
        }))))
    }

    /// At most `most` bytes are taken from the client.
    ///
    /// # Errors
    /// 413 when it announces more.
    pub(crate) fn limited(self, most: u64) -> Result<Self, Refusal> {
        if let Some(state) = &self.0 {
            let mut state = state.borrow_mut();
            if state.length.is_some_and(|length| length > most) {
                return Err(Refusal::BodyTooLarge);
            }
            state.most = most;
        }
        Ok(self)
    }

    /// There is something to be sent.
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Reads a small body of known length whole, so that a slow client occupies no member.
    ///
    /// # Errors
    /// 400 when the client breaks off, 408 when it stalls or takes longer than [`limits::SMALL_BODY_TIMEOUT`] in all.
    pub(crate) async fn prefetch(&self) -> Result<(), Refusal> {
        let Some(state) = &self.0 else { return Ok(()) };
        let small = |state: &State| state.length.is_some_and(|length| length <= state.keep as u64);
        if !small(&state.borrow()) {
            return Ok(());
        }
        let whole = async {
            loop {
                let chunk = std::future::poll_fn(|cx| state.borrow_mut().read(cx));
                match timeout(limits::CLIENT_STALL, chunk).await {
                    Err(_) => return Err(Refusal::ClientTimeout),
                    Ok(Some(Err(_))) => return Err(Refusal::BadRequest),
                    Ok(Some(Ok(_))) => {}
                    Ok(None) => return Ok(()),
                }
            }
        };
        timeout(limits::SMALL_BODY_TIMEOUT, whole).await.unwrap_or(Err(Refusal::ClientTimeout))
    }

    /// The body for the next attempt, from its beginning, to the member with these counters.
    pub(crate) fn outgoing(&self, counters: Arc<Counters>) -> Outgoing {
        let turn = self.0.as_ref().map_or(0, |state| {
            let mut state = state.borrow_mut();
            state.turn += 1;
            state.turn
        });
        Outgoing { upload: self.clone(), taken: 0, turn, counters }
    }

    /// All that was read is still here.
    pub(crate) fn is_replayable(&self) -> bool {
        self.0.as_ref().is_none_or(|state| !state.borrow().outgrown)
    }

    /// Whether it is so small that it will still be here when a member has taken it whole.
    pub(crate) fn is_small(&self) -> bool {
        self.0.as_ref().is_none_or(|state| {
            let state = state.borrow();
            let is_read = matches!(state.progress, Progress::Done(_)) && !state.outgrown;
            is_read || state.length.is_some_and(|length| length <= state.keep as u64)
        })
    }

    /// How much longer the client may be waited for since its turn began. See [`patience`].
    pub(crate) fn patience(&self) -> Duration {
        self.0.as_ref().map_or(limits::CLIENT_STALL, |state| {
            let state = state.borrow();
            patience(state.waited, state.sent)
        })
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Progress {
        self.0.as_ref().map_or(Progress::Done(Moment(0)), |state| state.borrow().progress)
    }
}

/// The longest wait for a client's next piece, when it was waited for that long already and has sent so much: a piece now
/// and then must not occupy a member for ever.
fn patience(waited: Duration, sent: u64) -> Duration {
    let earned = Duration::from_secs(sent / limits::CLIENT_BYTES_PER_SECOND);
    (limits::CLIENT_STALL + earned).saturating_sub(waited).min(limits::CLIENT_STALL)
}

impl State {
    /// The next piece from the client, kept if there is room.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        if let Progress::Done(_) = self.progress {
            return Poll::Ready(None);
        }
        let piece = Pin::new(&mut self.payload).poll_next(cx);
        if let (true, Progress::ClientTurn(since)) = (piece.is_ready(), self.progress) {
            self.waited += Moment::now().since(since);
        }
        match &piece {
            Poll::Pending => {
                if let Progress::MemberTurn(_) = self.progress {
                    self.progress = Progress::ClientTurn(Moment::now());
                }
            }
            Poll::Ready(Some(Ok(chunk))) => {
                self.received += chunk.len() as u64;
                if self.received > self.most {
                    self.progress = Progress::TooLarge;
                    return Poll::Ready(Some(Err(PayloadError::Overflow)));
                }
                self.progress = Progress::MemberTurn(Moment::now());
                self.sent += chunk.len() as u64;
                self.keep(chunk);
            }
            Poll::Ready(Some(Err(_))) => self.progress = Progress::Broken,
            Poll::Ready(None) => self.progress = Progress::Done(Moment::now()),
        }
        piece
    }

    fn keep(&mut self, chunk: &Bytes) {
        if self.kept.len() + chunk.len() > self.keep {
            self.outgrown = true;
            self.kept = BytesMut::new();
        } else if !self.outgrown {
            self.kept.extend_from_slice(chunk);
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(state) = self.upload.0.clone() else { return Poll::Ready(None) };
        let mut state = state.borrow_mut();
        if state.turn != self.turn {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if self.taken < state.kept.len() {
            let rest = Bytes::copy_from_slice(&state.kept[self.taken..]);
            self.taken = state.kept.len();
            self.counters.sent(rest.len());
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        state.read(cx).map(|piece| {
            self.taken = state.kept.len();
            if let Some(Ok(piece)) = &piece {
                self.counters.sent(piece.len());
            }
            piece.map(|piece| piece.map(Frame::data).map_err(UploadError::Client))
        })
    }

    fn is_end_stream(&self) -> bool {
        let Some(state) = &self.upload.0 else { return true };
        let state = state.borrow();
        matches!(state.progress, Progress::Done(_)) && self.taken >= state.kept.len()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.upload.0 {
            None => SizeHint::with_exact(0),
            Some(state) => state.borrow().length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt, stream};
    use http_body_util::BodyExt;

    use super::*;

    type Piece = Result<Bytes, PayloadError>;

    fn payload(pieces: Vec<Piece>) -> Payload {
        Payload::Stream { payload: Box::pin(stream::iter(pieces)) }
    }

    fn pieces(sizes: &[usize]) -> Vec<Piece> {
        sizes.iter().map(|size| Ok(Bytes::from(vec![b'x'; *size]))).collect()
    }

    async fn length(body: Outgoing) -> Result<usize, UploadError> {
        body.collect().await.map(|body| body.to_bytes().len())
    }

    #[actix_web::test]
    async fn a_small_body_can_be_sent_again_and_again() {
        let upload = Upload::new(payload(pieces(&[3, 4])), None, 10);
        for _ in 0..3 {
            assert_eq!(length(upload.outgoing(Arc::default())).await.unwrap(), 7);
        }
        assert!(upload.is_replayable());
    }

    #[actix_web::test]
    async fn a_body_taken_in_part_goes_on_where_the_client_is() {
        let upload = Upload::new(payload(pieces(&[3, 4])), None, 10);
        let mut first = upload.outgoing(Arc::default());
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap().len(), 3);
        assert_eq!(length(upload.outgoing(Arc::default())).await.unwrap(), 7);
        assert!(
            matches!(first.frame().await, Some(Err(UploadError::Superseded))),
            "the old attempt takes nothing more"
        );
    }

    #[actix_web::test]
    async fn a_large_body_streams_and_is_not_kept() {
        let upload = Upload::new(payload(pieces(&[6, 6, 1])), Some(13), 10);
        upload.prefetch().await.unwrap();
        assert_eq!(upload.outgoing(Arc::default()).size_hint().exact(), Some(13));
        assert_eq!(length(upload.outgoing(Arc::default())).await.unwrap(), 13);
        assert!(!upload.is_replayable());
    }

    #[actix_web::test]
    async fn what_is_small_is_known_by_its_length_or_when_it_has_been_read() {
        for (length, is_small) in [(Some(10), true), (Some(11), false), (None, false)] {
            assert_eq!(Upload::new(payload(pieces(&[10])), length, 10).is_small(), is_small, "{length:?}");
        }
        assert!(Upload::new(Payload::None, None, 10).is_small());
        let read = Upload::new(payload(pieces(&[10])), None, 10);
        length(read.outgoing(Arc::default())).await.unwrap();
        assert!(read.is_small());
    }

    #[actix_web::test]
    async fn a_small_body_of_known_length_is_read_before_a_member_is_asked() {
        let upload = Upload::new(payload(pieces(&[2, 2])), Some(4), 10);
        upload.prefetch().await.unwrap();
        assert!(matches!(upload.progress(), Progress::Done(_)));
        let mut body = upload.outgoing(Arc::default());
        assert!(!body.is_end_stream());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 4);
        assert!(body.is_end_stream());
    }

    #[actix_web::test]
    async fn a_client_that_breaks_off_is_not_the_members_fault() {
        let broken = vec![Ok(Bytes::from_static(b"ab")), Err(PayloadError::Incomplete(None))];
        let upload = Upload::new(payload(broken), Some(4), 10);
        assert_eq!(upload.prefetch().await, Err(Refusal::BadRequest));
        assert_eq!(upload.progress(), Progress::Broken);
    }

    #[test]
    fn a_client_that_sends_a_byte_now_and_then_is_not_waited_for_for_ever() {
        let (stall, second) = (limits::CLIENT_STALL, Duration::from_secs(1));
        assert_eq!(patience(Duration::ZERO, 0), stall);
        assert_eq!(patience(second * 15, 3), stall - second * 15, "three bytes earn nothing");
        assert_eq!(patience(stall * 2, 3), Duration::ZERO);
        assert_eq!(patience(second * 100, limits::CLIENT_BYTES_PER_SECOND * 100), stall, "slow, but fast enough");
        assert_eq!(patience(Duration::ZERO, u64::MAX), stall, "nothing is earned in advance");
    }

    #[actix_web::test]
    async fn a_body_that_is_too_large_is_not_taken_whole() {
        let announced = Upload::new(payload(pieces(&[6])), Some(6), 10);
        assert!(announced.clone().limited(6).is_ok());
        assert_eq!(announced.limited(5).err(), Some(Refusal::BodyTooLarge));
        let chunked = Upload::new(payload(pieces(&[3, 3, 3])), None, 10).limited(6).unwrap();
        let sent = Arc::<Counters>::default();
        let body = chunked.outgoing(sent.clone());
        assert!(matches!(length(body).await, Err(UploadError::Client(PayloadError::Overflow))));
        assert_eq!(chunked.progress(), Progress::TooLarge);
    }

    #[actix_web::test]
    async fn who_is_slow_is_known() {
        let slow = stream::iter(pieces(&[20])).chain(stream::pending());
        let upload = Upload::new(Payload::Stream { payload: Box::pin(slow) }, None, 10);
        let mut body = upload.outgoing(Arc::default());
        body.frame().await.unwrap().unwrap();
        assert!(matches!(upload.progress(), Progress::MemberTurn(_)));
        assert!(body.frame().now_or_never().is_none());
        assert!(matches!(upload.progress(), Progress::ClientTurn(_)));
    }

    #[actix_web::test]
    async fn no_body_is_at_its_end() {
        let upload = Upload::new(Payload::None, None, 10);
        upload.prefetch().await.unwrap();
        assert!(upload.outgoing(Arc::default()).is_end_stream() && upload.is_replayable());
        assert_eq!(length(upload.outgoing(Arc::default())).await.unwrap(), 0);
    }
}
