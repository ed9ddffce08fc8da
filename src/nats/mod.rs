//! Everything that talks to NATS: the only room that knows async-nats and rustls.

mod courier;
mod held;
mod jetstream;
mod link;
mod listen;
mod pool;
mod probe;
mod session;
mod tls;

pub(crate) use self::{
    courier::{Courier, destination_of},
    held::{Held, held},
    listen::{From, Heard, listen},
    probe::{Finding, State, probe},
};
