//! HTTP over a unix socket by hand: what is sent is what a test says.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::wait::soon;

/// One request: status code and body. A server that answers in chunks has their lengths in the body.
///
/// # Errors
/// When nobody listens, or what comes is no answer.
pub fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(soon()))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: netbpf\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    // A refusal may come before the body is out.
    _ = stream.write_all(body);
    let mut answer = Vec::new();
    _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let code = |head: &[u8]| str::from_utf8(head).ok()?.split(' ').nth(1)?.parse().ok();
    match end.and_then(|end| Some((code(&answer[..end])?, answer[end + 4..].to_vec()))) {
        Some(answer) => Ok(answer),
        None => {
            let said = String::from_utf8_lossy(&answer).into_owned();
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("{method} {path}: no answer: {said}")))
        }
    }
}
