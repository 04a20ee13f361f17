//! Bulk transfer over TCP in which every byte is checked at the place where it belongs.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use crate::wait::uninterrupted;

/// Length of the pattern: a prime, so that no segment, page or buffer size repeats with it.
const PATTERN: usize = 1_048_573;
const CHUNK: usize = 256 * 1024;

/// Sends so many bytes one way, ends that direction, and checks each byte at the other end.
///
/// # Errors
/// When the connection breaks or stalls, or a byte is wrong, missing or too many.
pub fn transfer(from: &TcpStream, to: &TcpStream, bytes: u64) -> io::Result<()> {
    let pattern = pattern();
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(from, &pattern, bytes));
        let received = receive(to, &pattern, bytes);
        let sent = sender.join().expect("the sender does not panic");
        received.and(sent)
    })
}

fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pattern: Vec<u8> = Vec::with_capacity(PATTERN + CHUNK);
    while pattern.len() < PATTERN {
        // xorshift64: cheap, and no two windows of it are alike.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        pattern.extend_from_slice(&state.to_le_bytes());
    }
    pattern.truncate(PATTERN);
    // The beginning once more, so that every chunk is one slice.
    pattern.extend_from_within(..CHUNK);
    pattern
}

fn send(mut to: &TcpStream, pattern: &[u8], bytes: u64) -> io::Result<()> {
    let (mut left, mut position) = (bytes, 0);
    while left > 0 {
        let length = left.min(CHUNK as u64) as usize;
        to.write_all(&pattern[position..position + length])?;
        position = (position + length) % PATTERN;
        left -= length as u64;
    }
    to.shutdown(Shutdown::Write)
}

fn receive(mut from: &TcpStream, pattern: &[u8], bytes: u64) -> io::Result<()> {
    let (mut received, mut position) = (0, 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = match uninterrupted(|| from.read(&mut buffer))? {
            0 => break,
            length => length,
        };
        if buffer[..length] != pattern[position..position + length] {
            let message = format!("wrong bytes between offset {received} and {}", received + length as u64);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        position = (position + length) % PATTERN;
        received += length as u64;
    }
    if received != bytes {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{received} bytes came of {bytes}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        (client, listener.accept().expect("accepted").0)
    }

    #[test]
    fn what_arrives_whole_is_accepted() {
        let (a, b) = pair();
        transfer(&a, &b, 5_000_001).expect("loopback loses nothing");
    }

    #[test]
    fn a_wrong_byte_is_noticed() {
        let (a, b) = pair();
        let mut wrong = pattern();
        wrong[4711] ^= 1;
        let sender = thread::spawn(move || send(&a, &wrong, 100_000));
        assert_eq!(receive(&b, &pattern(), 100_000).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidData));
        drop(b);
        let _ = sender.join();
    }

    #[test]
    fn a_missing_byte_is_noticed() {
        let (a, b) = pair();
        send(&a, &pattern(), 99_999).expect("sent");
        assert_eq!(receive(&b, &pattern(), 100_000).map_err(|error| error.kind()), Err(io::ErrorKind::UnexpectedEof));
    }
}
