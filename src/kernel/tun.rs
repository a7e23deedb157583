//! TUN devices for hubs that speak WireGuard themselves. One has no owner, so that whoever lives in the hub's namespace may attach to
//! it without any power (`tun_not_capable`, drivers/net/tun.c), and stays when nobody is attached.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::fd::AsFd;

use super::socket::{Batch, Request, Socket};
use super::sys;
use crate::error::{Context, Error};

const DEVICE: &str = "/dev/net/tun";

/// Makes a device in the namespace that the calling thread is in. `mark` is sent before it stays: whoever is killed until then
/// leaves nothing, and after it something that is known.
pub fn make(name: &str, index: u32, socket: &Socket, mark: &Request) -> Result<(), Error> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE);
    let device = device.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::failed(format!("there is no {DEVICE}; `modprobe tun` makes it")),
        _ => Error::failed(format!("cannot open {DEVICE}: {error}")),
    })?;
    sys::tun(device.as_fd(), name, index).context("no TUN device")?;
    let mut batch = Batch::default();
    batch.push(0, mark);
    if let Some((_, refusal)) = socket.send(&mut batch).first() {
        return Err(Error::failed(format!("cannot mark it: {refusal}")));
    }
    sys::keep_tun(device.as_fd()).context("it cannot stay")
}
