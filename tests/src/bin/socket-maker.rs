//! Makes sockets in the cgroup named by its argument, for a test that cannot move there itself:
//! requests come and sockets go by the Unix socket that is its standard input.

use std::env;
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use netbpf_tests::place::{READY, join_cgroup};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};

fn main() -> Result<()> {
    let cgroup = PathBuf::from(env::args_os().nth(1).context("usage: socket-maker CGROUP")?);
    join_cgroup(&cgroup).with_context(|| format!("cannot move into {}", cgroup.display()))?;
    let mut test = io::stdin().lock();
    rustix::net::send(&test, READY, SendFlags::NOSIGNAL)?;
    let mut request = [[0; 4]; 3];
    while test.read_exact(request.as_flattened_mut()).is_ok() {
        let [domain, kind, protocol] = request.map(i32::from_le_bytes);
        let protocol = (protocol != 0).then(|| Protocol::from(protocol));
        let socket = Socket::new(Domain::from(domain), Type::from(kind), protocol)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = [socket.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&rights)), "the space is for one socket");
        sendmsg(&test, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}
