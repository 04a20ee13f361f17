//! Messages over TCP: each behind its length (RFC 1035, 4.2.2).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Cuts a stream into messages.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// The next message; `None` at the end of the stream. What was read by a call that is given up is kept for the next.
    pub(super) async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(length) = self.buffer.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length)))
                && self.buffer.len() >= 2 + length
            {
                let rest = self.buffer.split_off(2 + length);
                let mut message = std::mem::replace(&mut self.buffer, rest);
                message.drain(..2);
                return Ok(Some(message));
            }
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Writes a message, in one piece: two would make two packets of it.
pub(super) async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_cut_as_they_were_sent_whatever_the_pieces() {
        for size in 1..12 {
            let (mut near, mut far) = tokio::io::duplex(size);
            let writer = tokio::spawn(async move {
                for message in [&b"one"[..], b"", b"three"] {
                    send(&mut near, message).await.unwrap();
                }
                near.write_all(&[0, 9, 1]).await.unwrap();
            });
            let mut frames = Frames::default();
            let mut read = Vec::new();
            while let Some(message) = frames.next(&mut far).await.unwrap() {
                read.push(message);
            }
            assert_eq!(read, [&b"one"[..], b"", b"three"], "in pieces of {size}");
            writer.await.unwrap();
        }
    }
}
