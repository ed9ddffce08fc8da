//! Everything that talks to NATS: the only room that knows async-nats and rustls.

mod api;
mod consumer;
mod courier;
mod dial;
mod driver;
mod durable;
mod healer;
mod jetstream;
mod link;
mod listen;
mod pool;
mod probe;
mod raw;
mod recommended;
mod streams;
mod tls;
mod verify;
mod wire;
mod wish;

pub(crate) use self::{
    api::block_on,
    courier::{Courier, destination_of},
    durable::{Handed, Task, Tasks, Verdict, hand_out},
    healer::Recipe,
    jetstream::read_answers,
    listen::{before, listen},
    probe::{Aim, Finding, State, probe},
    recommended::{
        Compared, DUPLICATE_WINDOW, Look, MAX_AGE, MAX_BYTES, Made, NAME, Recommended, create, look,
    },
    tls::{crypto_provider, trusted_certificates},
    verify::{Held, doubt, held},
    wish::{Heard, Start, Wish},
};
