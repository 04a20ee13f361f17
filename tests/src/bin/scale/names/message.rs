//! The little of DNS that it takes to ask and to answer (RFC 1035 section 4).

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

pub(super) const A: u16 = 1;
pub(super) const AAAA: u16 = 28;

const HEADER: usize = 12;
const IN: u16 = 1;

/// A question, with recursion desired.
pub(super) fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(64);
    message.extend(id.to_be_bytes());
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(IN.to_be_bytes());
    message
}

/// The identifier of an answer that has exactly one record; none for anything else.
pub(super) fn one_answer(message: &[u8]) -> Option<u16> {
    let header = message.get(..HEADER)?;
    let (is_answer, code, records) = (header[2] & 0x80 != 0, header[3] & 0xf, [header[6], header[7]]);
    (is_answer && code == 0 && records == [0, 1]).then(|| u16::from_be_bytes([header[0], header[1]]))
}

/// Answers every question for an A with the same address, until it is over.
pub(super) fn serve(socket: &UdpSocket, is_over: &AtomicBool) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut buffer = [0; 512];
    while !is_over.load(Ordering::Relaxed) {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut answer = buffer[..length].to_vec();
        if length < HEADER + 5 {
            continue;
        }
        // The question alone goes back, without what a resolver has added (EDNS).
        let end = HEADER + answer[HEADER..].iter().position(|byte| *byte == 0).unwrap_or(0) + 5;
        answer.truncate(end);
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        answer[6..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
        // The name of the question, A, IN, a minute, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 0, 9]);
        // Who has gone since is no longer interested.
        _ = socket.send_to(&answer, from);
    }
    Ok(())
}
