use super::{
    queue::{REMEMBERED, REMEMBERED_BYTES},
    *,
};
use crate::{journal::Folder, message::json};

fn message(n: u64) -> Message {
    Message::alone("s", Vec::new(), &n.to_string(), format!("{{\"n\":{n}}}"))
}

fn run(dir: Option<&std::path::Path>) -> Arc<Run> {
    Run::unrecorded("run", Folder::of(dir.map(ToOwned::to_owned)), Duration::from_secs(5))
}

fn ids(batch: &[Sending]) -> Vec<u64> {
    batch.iter().map(|sending| sending.message.id().parse().unwrap()).collect()
}

fn proofs(batch: &[Sending]) -> Vec<(u64, Proof)> {
    batch.iter().map(|sending| (sending.seq, Proof::Stored)).collect()
}

#[test]
fn what_is_unconfirmed_is_sent_again_in_order() {
    let (outbox, run) = (Outbox::new(1 << 20), run(None));
    outbox.open(&run);
    for n in 0..6 {
        outbox.push(&run, message(n), false).unwrap();
    }
    let batch = outbox.take(4, usize::MAX);
    assert_eq!(ids(&batch), [0, 1, 2, 3]);
    outbox.mark_sent(&[0, 1, 2, 3]);
    outbox.confirm(&[proofs(&batch)[0], proofs(&batch)[2]], &Places::new(), Instant::now());
    outbox.rewind(Instant::now());
    assert_eq!(ids(&outbox.take(9, usize::MAX)), [1, 3, 4, 5]);
    assert_eq!(run.counters.resent.load(Relaxed), 0);
    outbox.mark_sent(&[1, 2, 3, 4, 5]);
    assert_eq!(run.counters.resent.load(Relaxed), 2);
    outbox.confirm(
        &(0..6).map(|seq| (seq, Proof::Routed)).collect::<Vec<_>>(),
        &Places::new(),
        Instant::now(),
    );
    outbox.confirm(
        &(0..6).map(|seq| (seq, Proof::Routed)).collect::<Vec<_>>(),
        &Places::new(),
        Instant::now(),
    );
    assert!(run.is_settled());
    assert_eq!(run.counters.stored.load(Relaxed), 2);
    assert_eq!(run.counters.routed.load(Relaxed), 4);
    assert_eq!(outbox.bytes(), 0);
}

#[test]
fn only_messages_wake_whoever_delivers() {
    use futures_util::FutureExt;
    let (outbox, run) = (Outbox::new(1 << 20), run(None));
    outbox.open(&run);
    let mut sleeping = Box::pin(outbox.work(None));
    assert!(sleeping.as_mut().now_or_never().is_none());
    outbox.offer(&run, Vec::new());
    assert!(sleeping.as_mut().now_or_never().is_none());
    outbox.offer(&run, vec![message(0)]);
    assert_eq!(sleeping.now_or_never(), Some(true));
}

#[test]
fn confirmations_of_what_is_gone_change_nothing() {
    let (outbox, run) = (Outbox::new(1 << 20), run(None));
    outbox.push(&run, message(0), false).unwrap();
    outbox.confirm(&[7, 0, 0].map(|seq| (seq, Proof::Stored)), &Places::new(), Instant::now());
    outbox.confirm(&[(0, Proof::Stored)], &Places::new(), Instant::now());
    assert_eq!(run.counters.stored.load(Relaxed), 1);
}

#[test]
fn what_was_routed_just_now_is_sent_again_but_counted_once() {
    let (outbox, run) = (Outbox::new(1 << 20), run(None));
    outbox.open(&run);
    for n in 0..4 {
        outbox.push(&run, message(n), false).unwrap();
    }
    outbox.take(9, usize::MAX);
    outbox.confirm(&[0, 1, 2].map(|seq| (seq, Proof::Routed)), &Places::new(), Instant::now());
    outbox.rewind(Instant::now());
    let again = outbox.take(9, usize::MAX);
    assert_eq!(ids(&again), [0, 1, 2, 3]);
    outbox.confirm(&proofs(&again), &Places::new(), Instant::now());
    assert_eq!((run.counters.routed.load(Relaxed), run.counters.stored.load(Relaxed)), (3, 1));
    assert!(run.is_settled());
    assert!(outbox.settle(&run).files.is_empty());
    outbox.close(&run);
    assert!(outbox.is_idle() && outbox.end_service());
    assert!(outbox.take(9, usize::MAX).is_empty());
    assert_eq!(outbox.bytes(), 0);
}

#[test]
fn only_so_much_is_remembered_and_only_so_long() {
    let (outbox, run) = (Outbox::new(1 << 30), run(None));
    let big = |n: u64| Message::alone("s", Vec::new(), &n.to_string(), vec![b' '; 1 << 20]);
    for n in 0..9 {
        outbox.push(&run, big(n), false).unwrap();
    }
    outbox.take(9, usize::MAX);
    outbox.confirm(
        &(0..9).map(|seq| (seq, Proof::Routed)).collect::<Vec<_>>(),
        &Places::new(),
        Instant::now(),
    );
    outbox.rewind(Instant::now());
    assert_eq!(ids(&outbox.take(9, usize::MAX)), [6, 7, 8]);
    let later = Instant::now() + REMEMBERED * 2;
    assert_eq!(outbox.lock().forget_routed(later).len(), 3);
    assert_eq!(outbox.lock().remembered, 0);
}

#[test]
fn beyond_the_limit_order_holds_through_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, run) = (Outbox::new(message(0).size() * 3), run(Some(dir.path())));
    outbox.open(&run);
    let mut seen = Vec::new();
    for n in 0..50 {
        outbox.push(&run, message(n), false).unwrap();
        if n % 7 == 0 {
            let batch = outbox.take(1, usize::MAX);
            seen.extend(ids(&batch));
            outbox.confirm(&proofs(&batch), &Places::new(), Instant::now());
            outbox.refill().unwrap();
        }
    }
    while !run.is_settled() {
        outbox.refill().unwrap();
        let batch = outbox.take(2, usize::MAX);
        seen.extend(ids(&batch));
        outbox.confirm(&proofs(&batch), &Places::new(), Instant::now());
    }
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_end_of_a_run_keeps_all_of_it_in_order_and_nothing_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, mine, other) = (Outbox::new(message(0).size() * 4), run(Some(dir.path())), run(None));
    outbox.push(&other, message(100), false).unwrap();
    for n in 0..9 {
        outbox.push(&mine, message(n), false).unwrap();
    }
    outbox.take(2, usize::MAX);
    let leftovers = outbox.settle(&mine);
    let text = std::fs::read(&leftovers.files[0]).unwrap();
    let kept: Vec<u64> = text
        .split_inclusive(|b| *b == b'\n')
        .map(|line| Message::from_line(line).unwrap().id().parse().unwrap())
        .collect();
    assert_eq!(kept, (0..9).collect::<Vec<_>>());
    assert_eq!(mine.counters.spilled.load(Relaxed), 9);
    outbox.rewind(Instant::now());
    assert_eq!(ids(&outbox.take(9, usize::MAX)), [100]);
}

#[test]
fn with_no_directory_events_are_counted_and_statuses_kept() {
    let (outbox, run) = (Outbox::new(0), run(None));
    assert!(outbox.push(&run, message(0), false).is_err());
    assert!(outbox.push(&run, message(1), true).is_err());
    assert_eq!(run.counters.dropped.load(Relaxed), 1);
    assert_eq!(ids(&outbox.take(9, usize::MAX)), [1]);
}

#[test]
fn nobody_waits_for_a_courier_that_gave_up() {
    let (outbox, run) = (Outbox::new(1 << 20), run(None));
    outbox.open(&run);
    outbox.push(&run, message(0), false).unwrap();
    assert!(outbox.begin_service() && !outbox.begin_service());
    assert!(!outbox.give_up(outbox.opened() - 1));
    assert!(outbox.give_up(outbox.opened()));
    let far = Instant::now() + Duration::from_secs(3600);
    assert!(!outbox.wait_settled(&run, far));
    assert!(!outbox.begin_service());
    outbox.open(&self::run(None));
    assert!(outbox.begin_service());
}

#[test]
fn the_courier_rests_only_when_no_run_is_left() {
    let (outbox, run) = (Outbox::new(1 << 20), run(None));
    outbox.open(&run);
    outbox.push(&run, message(0), false).unwrap();
    assert!(outbox.begin_service());
    outbox.close(&run);
    assert!(!outbox.end_service());
    let batch = outbox.take(1, usize::MAX);
    outbox.confirm(&proofs(&batch), &Places::new(), Instant::now());
    assert!(outbox.end_service());
}

#[test]
fn what_was_routed_is_bounded_behind_a_message_that_waits() {
    let (outbox, run) = (Outbox::new(1 << 30), run(None));
    let big = |n: u64| Message::alone("s", Vec::new(), &n.to_string(), vec![b' '; 1 << 20]);
    for n in 0..20 {
        outbox.push(&run, big(n), false).unwrap();
    }
    outbox.take(20, usize::MAX);
    outbox.confirm(
        &(1..20).map(|seq| (seq, Proof::Routed)).collect::<Vec<_>>(),
        &Places::new(),
        Instant::now(),
    );
    let held: usize = outbox.lock().queue.iter().flatten().map(|slot| slot.message.size()).sum();
    assert!(held <= message(0).size() + (1 << 20) + REMEMBERED_BYTES, "{held}");
    outbox.rewind(Instant::now());
    assert_eq!(ids(&outbox.take(20, usize::MAX)), [0, 17, 18, 19]);
}

#[test]
fn what_stays_when_a_run_goes_keeps_none_of_its_memory() {
    let (outbox, goes, stays) = (Outbox::new(1 << 30), run(None), run(None));
    let send = |run: &Arc<Run>, n: u64| {
        let mut buffer = outbox.buffer();
        json::Writer::new(&mut buffer).string(&n.to_string()).unwrap();
        let payload = buffer.take().unwrap();
        outbox.give_back(buffer);
        outbox.push(run, Message::alone("s", Vec::new(), &n.to_string(), payload), false).unwrap();
    };
    for n in 0..500 {
        send(if n % 100 == 7 { &stays } else { &goes }, n);
    }
    let shares = || -> Vec<bool> {
        outbox.lock().queue.iter().flatten().map(|slot| !slot.message.payload.is_unique()).collect()
    };
    assert_eq!(shares(), [true; 500]);
    outbox.settle(&goes);
    assert_eq!(shares(), [false; 5]);
    let batch = outbox.take(9, usize::MAX);
    assert_eq!(ids(&batch), [7, 107, 207, 307, 407]);
    assert!(batch.iter().all(|sending| sending.message.payload == format!("\"{}\"", sending.message.id())));
}
