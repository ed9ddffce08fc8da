//! Everything that talks to NATS: the only room that knows async-nats and rustls.

mod courier;
mod held;
mod jetstream;
mod link;
mod listen;
mod pool;
mod probe;
mod recommended;
mod session;
mod streams;
mod tls;

pub(crate) use self::{
    courier::{Courier, destination_of},
    held::{Held, held},
    listen::{Heard, Start, Wish, listen},
    probe::{Finding, State, probe},
    recommended::{
        Compared, DUPLICATE_WINDOW, Look, MAX_AGE, MAX_BYTES, Made, NAME, Recommended, create, look,
    },
};
