//! What a peer may say in TLS itself after the handshake (RFC 8446 section 4.6), taken apart from the pieces it comes in.

use super::record::Fault;

/// The longest message that is put together.
const MAX_MESSAGE: usize = 16 * 1024;

/// The types of the two messages that there are (RFC 8446 section 4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// What follows is sealed by the next key.
    KeyUpdate(Answer),
    /// Something to resume the session by.
    Ticket,
}

/// What the peer wants of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    NotWanted,
    /// That we take our next key, too.
    Wanted,
}

/// Puts messages together.
#[derive(Debug, Default)]
pub struct Messages {
    /// The beginning of one that goes on in the next record.
    begun: Vec<u8>,
}

impl Messages {
    /// Whether one goes on in the next record: nothing else may come first (RFC 8446 section 5.1).
    pub fn goes_on(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Takes what a record carried, and gives each message that is whole by then to `take`.
    ///
    /// # Errors
    /// It is none that may come, or `take` says so.
    pub fn add(
        &mut self,
        part: &[u8],
        mut take: impl FnMut(Message) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.begun.extend_from_slice(part);
        let bytes = std::mem::take(&mut self.begun);
        let mut rest = bytes.as_slice();
        while let [kind, a, b, c, after @ ..] = rest {
            let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap_or(usize::MAX);
            if length > MAX_MESSAGE {
                return Err(Fault::Overflow);
            }
            let Some((body, next)) = after.split_at_checked(length) else { break };
            match *kind {
                // A key changes at the end of a record, never within (RFC 8446 section 5.1).
                KEY_UPDATE if next.is_empty() => take(Message::KeyUpdate(answer(body)?))?,
                NEW_SESSION_TICKET => take(Message::Ticket)?,
                _ => return Err(Fault::Unexpected),
            }
            rest = next;
        }
        if !rest.is_empty() {
            self.begun = rest.to_vec();
        }
        Ok(())
    }
}

/// RFC 8446 section 4.6.3.
fn answer(body: &[u8]) -> Result<Answer, Fault> {
    match body {
        [0] => Ok(Answer::NotWanted),
        [1] => Ok(Answer::Wanted),
        _ => Err(Fault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[&[u8]], expected: Result<&[Message], Fault>) {
        let (mut messages, mut taken) = (Messages::default(), Vec::new());
        let added = parts.iter().try_for_each(|part| {
            messages.add(part, |message| {
                taken.push(message);
                Ok(())
            })
        });
        assert_eq!(added.map(|()| taken.as_slice()), expected, "{parts:?}");
    }

    #[test]
    fn messages_are_put_together_and_taken_apart() {
        let update = Message::KeyUpdate(Answer::Wanted);
        check(&[&[24, 0, 0, 1, 1]], Ok(&[update]));
        check(&[&[24, 0], &[0, 1], &[1]], Ok(&[update]));
        check(
            &[&[4, 0, 0, 2, 7, 7, 24, 0, 0, 1, 0]],
            Ok(&[Message::Ticket, Message::KeyUpdate(Answer::NotWanted)]),
        );
        check(&[&[4, 0, 0, 2, 7]], Ok(&[]));
    }

    #[test]
    fn what_may_not_come_is_refused() {
        check(&[&[24, 0, 0, 1, 2]], Err(Fault::Malformed));
        check(&[&[24, 0, 0, 2, 0, 0]], Err(Fault::Malformed));
        check(&[&[24, 0, 0, 0]], Err(Fault::Malformed));
        check(&[&[24, 0, 0, 1, 0, 4]], Err(Fault::Unexpected));
        check(&[&[1, 0, 0, 0]], Err(Fault::Unexpected));
        check(&[&[4, 0, 0x40, 1]], Err(Fault::Overflow));
    }
}
