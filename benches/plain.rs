//! What a plain Rust program gets out of async-nats, which has its bytes already: the benchmark's yardstick for events
//! per second, and the proof of what the server can do.
//!
//! `plain URL FILE ROUNDS [stored]`: the lines of FILE, ROUNDS times, until the server has routed them all; with `stored`
//! each with an id, until a stream has acknowledged it. Prints events, seconds and CPU seconds as JSON.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program of the benchmark")]

use std::time::Instant;

use async_nats::{Client, HeaderMap, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

/// Messages that may be unacknowledged, as ours.
const WINDOW: usize = 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (url, file, rounds) = (args.next().unwrap(), args.next().unwrap(), args.next().unwrap());
    let is_stored = args.next().is_some();
    let text = Bytes::from(std::fs::read(file).unwrap());
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let payloads: Vec<Bytes> = lines.map(|line| text.slice_ref(line)).collect();
    let rounds: usize = rounds.parse().unwrap();

    let client = async_nats::connect(url).await.unwrap();
    let echo = client.subscribe("bench.echo.>").await.unwrap();
    client.flush().await.unwrap();
    let (began, cpu) = (Instant::now(), cpu_seconds());
    if is_stored {
        stored(&client, echo, &payloads, rounds).await;
    } else {
        routed(&client, echo, &payloads, rounds).await;
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!("{{\"events\":{},\"seconds\":{seconds},\"background_cpu\":{cpu}}}", rounds * payloads.len());
}

fn subject() -> Subject {
    Subject::from("pub.ansible.runner.bench.plain.event")
}

async fn routed(client: &Client, mut echo: Subscriber, payloads: &[Bytes], rounds: usize) {
    let subject = subject();
    for _ in 0..rounds {
        for payload in payloads {
            client.publish(subject.clone(), payload.clone()).await.unwrap();
        }
    }
    client.publish("bench.echo.x", Bytes::new()).await.unwrap();
    echo.next().await.unwrap();
}

async fn stored(client: &Client, mut acks: Subscriber, payloads: &[Bytes], rounds: usize) {
    let (subject, reply) = (subject(), Subject::from("bench.echo.ack"));
    // No id that an earlier run of this program had: the stream would drop the message.
    let own = std::process::id();
    let mut flying = 0;
    for round in 0..rounds {
        for (number, payload) in payloads.iter().enumerate() {
            while flying >= WINDOW {
                acks.next().await.unwrap();
                flying -= 1;
                while acks.next().now_or_never().flatten().is_some() {
                    flying -= 1;
                }
            }
            let mut headers = HeaderMap::new();
            headers.insert(async_nats::header::NATS_MESSAGE_ID, format!("bench.{own}.{round}.{number}"));
            let sent = client.publish_with_reply_and_headers(
                subject.clone(),
                reply.clone(),
                headers,
                payload.clone(),
            );
            sent.await.unwrap();
            flying += 1;
        }
    }
    for _ in 0..flying {
        acks.next().await.unwrap();
    }
}

/// User and system time of this process, from `/proc` (in hundredths, as Linux tells).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields.iter().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}
