//! What a plain Rust program gets out of async-nats: publishes ready-made payloads and waits until the server
//! has routed them all. The benchmark's yardstick for events per second.
//!
//! `plain URL FILE ROUNDS`: the lines of FILE, ROUNDS times. Prints events, seconds and CPU seconds as JSON.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program of the benchmark")]

use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (url, file, rounds) = (args.next().unwrap(), args.next().unwrap(), args.next().unwrap());
    let text = Bytes::from(std::fs::read(file).unwrap());
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let payloads: Vec<Bytes> = lines.map(|line| text.slice_ref(line)).collect();
    let rounds: usize = rounds.parse().unwrap();

    let client = async_nats::connect(url).await.unwrap();
    let mut echo = client.subscribe("bench.echo").await.unwrap();
    client.flush().await.unwrap();
    let subject = async_nats::Subject::from("pub.ansible.runner.bench.plain.event");
    let (began, cpu) = (Instant::now(), cpu_seconds());
    for _ in 0..rounds {
        for payload in &payloads {
            client.publish(subject.clone(), payload.clone()).await.unwrap();
        }
    }
    client.publish("bench.echo", Bytes::new()).await.unwrap();
    echo.next().await.unwrap();
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!("{{\"events\":{},\"seconds\":{seconds},\"background_cpu\":{cpu}}}", rounds * payloads.len());
}

/// User and system time of this process, from `/proc` (in hundredths, as Linux tells).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields.iter().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}
