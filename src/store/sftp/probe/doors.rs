//! Ways round the files: a shell, a command, a forwarded port, another key in the account's own directory.

use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelMsg};

use super::{Probe, is_ok};
use crate::store::StoreError;
use crate::store::probe::Verdict;
use crate::store::sftp::probe::attacks::{self, REMOVE};
use crate::store::sftp::query;
use crate::store::sftp::wire::{Reply, Request, open_flags};

/// A shell answers this with [`ANSWER`]; an echo of what was typed does not.
const COMMAND: &str = "echo farkeep-probe-$((40+2))";
const ANSWER: &[u8] = b"farkeep-probe-42";
/// How long a shell may take to answer.
const SHELL_TAKES: Duration = Duration::from_secs(5);
/// What is read of an answer.
const ANSWER_MAX_BYTES: usize = 64 * 1024;
/// Files of earlier probes that are passed by.
const PROBES_REMEMBERED: u32 = 100;
/// A socket that most machines have, open to every account.
const SOCKET: &str = "/run/dbus/system_bus_socket";

/// Tries every door.
///
/// # Errors
/// When the connection broke.
pub async fn try_all(probe: &mut Probe<'_>, port: u16) -> Result<(), StoreError> {
    home(probe).await?;
    probe.report.attacks += 5;
    let connection = probe.session.connection.clone();
    let shells =
        [("run a command", How::Command), ("start a shell", How::Shell), ("start a shell on a terminal", How::Terminal)];
    for (what, how) in shells {
        // A server that opens no further channel starts no shell on it.
        if let Ok(channel) = connection.open_channel().await
            && answers(channel, how).await
        {
            probe.breach(what, "a shell runs on the server", Verdict::Mutable);
        }
    }
    if connection.forwards_to_port(port).await {
        probe.breach("forward a port", "the server's own network can be reached", Verdict::AppendWeak);
    }
    if connection.forwards_to_socket(SOCKET).await {
        probe.breach("forward a Unix socket", "the server's own sockets can be reached", Verdict::AppendWeak);
    }
    Ok(())
}

enum How {
    Command,
    Shell,
    Terminal,
}

/// Whether a shell answers on this channel. A refusal of any kind is what is hoped for.
async fn answers(mut channel: Channel<Msg>, how: How) -> bool {
    let typed = format!("{COMMAND}\nexit\n");
    let talk = async {
        match how {
            How::Command => channel.exec(true, COMMAND).await?,
            How::Shell => {
                channel.request_shell(true).await?;
                channel.data(typed.as_bytes()).await?;
            }
            How::Terminal => {
                channel.request_pty(true, "dumb", 80, 24, 0, 0, &[]).await?;
                channel.request_shell(true).await?;
                channel.data(typed.as_bytes()).await?;
            }
        }
        channel.eof().await?;
        let mut heard = Vec::new();
        while let Some(message) = channel.wait().await {
            if let ChannelMsg::Data { data } = message {
                heard.extend_from_slice(&data);
            }
            if heard.windows(ANSWER.len()).any(|window| window == ANSWER) {
                return Ok(true);
            }
            if heard.len() > ANSWER_MAX_BYTES {
                break;
            }
        }
        Ok::<_, russh::Error>(false)
    };
    let answered = matches!(tokio::time::timeout(SHELL_TAKES, talk).await, Ok(Ok(true)));
    let _ = channel.close().await;
    answered
}

/// Whoever can add a key to the account gets in by another way than the one that was closed.
async fn home(probe: &mut Probe<'_>) -> Result<(), StoreError> {
    let home = match probe.ask(Request::RealPath(b".")).await? {
        Reply::Names(names) => names.first().map(|entry| entry.name.clone()),
        _ => None,
    };
    let home = home.and_then(|path| String::from_utf8(path).ok()).unwrap_or_default();
    let ssh = format!("{}/.ssh", home.trim_end_matches('/'));
    probe.report.attacks += 2;
    // Opened, and not written: the key that is probed with stands in it.
    let keys = format!("{ssh}/authorized_keys");
    let opened = probe.ask(Request::Open { path: keys.as_bytes(), flags: open_flags::WRITE, mode: None }).await?;
    if let Reply::Handle(handle) = opened {
        let handle = handle.to_vec();
        probe.ask(Request::Close(&handle)).await?;
        probe.breach("open ~/.ssh/authorized_keys for writing", "another key can be let in", Verdict::Mutable);
    }
    if make(probe, &format!("{ssh}/farkeep-probe")).await? {
        let effect = "another key can be let in, by authorized_keys2 or rc";
        probe.breach("make a file in ~/.ssh", effect, Verdict::Mutable);
    }
    Ok(())
}

/// Makes an empty file under the first free name, and removes it where that is possible.
async fn make(probe: &mut Probe<'_>, name: &str) -> Result<bool, StoreError> {
    let flags = open_flags::WRITE | open_flags::CREATE | open_flags::EXCLUSIVE;
    for number in 1..=PROBES_REMEMBERED {
        let path = format!("{name}-{number}");
        let opened = probe.ask(Request::Open { path: path.as_bytes(), flags, mode: Some(0o400) }).await?;
        if let Reply::Handle(handle) = opened {
            let handle = handle.to_vec();
            probe.ask(Request::Close(&handle)).await?;
            let (kind, body) = attacks::removal(REMOVE, &path);
            let removed = probe.ask(Request::Raw { kind, body: &body }).await?;
            if !is_ok(&removed) {
                probe.report.left.push(path);
            }
            return Ok(true);
        }
        // What an earlier probe could not take away is in the way; anything else is a refusal.
        if !matches!(query::attributes(probe.session, &path).await?, Reply::Attrs(_)) {
            return Ok(false);
        }
    }
    Ok(false)
}
