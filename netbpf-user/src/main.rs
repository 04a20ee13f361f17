//! The one binary of netbpf.

mod cli;

use std::env;
use std::process::ExitCode;

use netbpf_user::process;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1).peekable();
    // Before anything makes a thread: a process with threads cannot enter a mount namespace.
    if arguments.next_if(|first| first == process::ENTER).is_some() {
        return process::enter(arguments);
    }
    cli::main()
}
