use super::{
    id::{lengthen_id, message_id},
    *,
};

#[test]
fn subjects_keep_dots_and_lose_what_nats_forbids() {
    let subject = |id: &str, ident: &str, kind| Template::default().subject(id, ident, kind, "name");
    for (id, ident, expected) in [
        ("a", "b", "pub.ansible.runner.a.b.event"),
        ("a.b", "c.d", "pub.ansible.runner.a.b.c.d.event"),
        ("a b\t", "x\r\ny", "pub.ansible.runner.a_b_.x__y.event"),
        ("*", ">", "pub.ansible.runner._._.event"),
        (".a..b.", "", "pub.ansible.runner._.a._.b._._.event"),
        ("grün", "\u{202f}", "pub.ansible.runner.grün._.event"),
    ] {
        assert_eq!(&*subject(id, ident, Kind::Event), expected);
    }
    for length in LONGEST_TOKENS - 3..LONGEST_TOKENS + 3 {
        let cut = subject(&format!("{}.b.c", "x".repeat(length)), &".".repeat(2 * length), Kind::Event);
        assert!(cut.split('.').all(|token| !token.is_empty()), "{cut}");
        assert!(cut.len() < 2 * LONGEST_TOKENS + 50, "{}", cut.len());
    }
    assert!(subject(&"x".repeat(10_000_000), &"y".repeat(10_000_000), Kind::Status).len() < 2100);
}

#[test]
fn subjects_of_templates() {
    let subject = |template: &str, name: &str| {
        Template::parse(template).unwrap().subject("site.a", "run 1", Kind::Event, name).to_string()
    };
    assert_eq!(Template::parse(SUBJECT).unwrap(), Template::default());
    assert_eq!(subject("{subject_id}.{kind}.{name}", "runner_on_ok"), "site.a.event.runner_on_ok");
    assert_eq!(subject("x-{runner_ident}-y.{name}", ""), "x-run_1-y._");
    assert_eq!(subject("just.one", "n"), "just.one");
    assert_eq!(subject("x.{name}", "a*b>"), "x.a_b_");
    for bad in [
        "",
        ".",
        "a..b",
        "a.",
        "a b",
        "a.*",
        "a.>",
        "{",
        "a}",
        "{ident}",
        "{}",
        "{{name}}",
        "$SYS.{name}",
        "{name}.x",
        "{runner_ident}.x",
        "_INBOX.{name}",
        "{kind",
        &"x".repeat(513),
    ] {
        assert!(Template::parse(bad).is_err(), "{bad}");
    }
    let long = Template::parse("x.{name}.{name}.{name}.{name}.{name}").unwrap();
    for length in 1..2000 {
        let subject = long.subject("", "", Kind::Event, &"ü".repeat(length));
        assert!(subject.len() < 3500 && is_literal_subject(&subject), "{length}");
    }
}

#[test]
fn ids_fit_into_a_header_line() {
    assert_eq!(message_id(&["a", "b\r\nc", "1"]), "a.b__c.1");
    let long = message_id(&[&"ü".repeat(100_000), "7", "uuid"]);
    assert!(long.len() < 300 && long.ends_with(".7.uuid"));
    let long = "x".repeat(1000);
    let mut id = message_id(&[&long, "ident"]);
    lengthen_id(&mut id, &["7", "uuid"]);
    assert_eq!(id, message_id(&[&long, "ident", "7", "uuid"]));
}

fn message() -> Message {
    let headers = vec![("k".to_owned(), "v \"w\"".to_owned())];
    Message::alone("a.b", headers, "id.1", Bytes::from_static("{\"a\":\"\\n ü\"}".as_bytes()))
}

fn line() -> Vec<u8> {
    let mut line = Vec::new();
    message().write_line(&mut line).unwrap();
    line
}

#[test]
fn a_spilled_message_comes_back_as_it_was() {
    let line = line();
    assert_eq!(line.split_inclusive(|b| *b == b'\n').count(), 1);
    assert_eq!(Message::from_line(&line).unwrap(), message());
}

#[test]
fn garbage_is_no_message() {
    for line in [&b""[..], b"{}", b"[1]", b"{\"subject\":\"a\",\"headers\":[],\"payload\":\"\"}", b"\xff"] {
        assert_eq!(Message::from_line(line), None);
    }
    let whole = line();
    for end in 0..whole.len() - 1 {
        assert_eq!(Message::from_line(&whole[..end]), None);
    }
}

#[test]
fn a_message_is_cut_with_its_headers_in_mind() {
    let payload = serde_json::to_vec(&serde_json::json!({"stdout": "x".repeat(5000), "n": 1})).unwrap();
    let mut message = message();
    message.payload = payload.into();
    assert_eq!(message.clone().fit(message.wire_size()).as_ref(), Ok(&message));
    for limit in [message.wire_size() - 1, 2000, 500] {
        let small = message.clone().fit(limit).unwrap();
        assert!(small.wire_size() <= limit && small.wire_size() > limit - 64);
        let truncated = (TRUNCATED.to_owned(), message.payload.len().to_string());
        assert!(small.head.headers.contains(&truncated));
        // Cut once more, it still says how large it was at first.
        let smaller = small.clone().fit(400).unwrap();
        assert_eq!(smaller.head.headers, small.head.headers);
    }
    assert_eq!(message.clone().fit(100), Err(Box::new(message)));
}

#[test]
fn the_size_on_the_wire_is_that_of_the_protocol() {
    let block = "NATS/1.0\r\nk: v \"w\"\r\nNats-Msg-Id: id.1\r\n\r\n";
    assert_eq!(message().wire_size(), block.len() + message().payload.len());
}

#[test]
fn the_counter_of_an_event_is_in_its_id() {
    for (id, counter) in [
        ("site.a.run.1.42.0b5f-uuid", Some(42)),
        ("site.status.7.uuid", Some(7)),
        ("site.run.status.0123456789012345.3", None),
        ("site.run.status.abcdefabcdefabcd.3", None),
        ("x", None),
        ("", None),
    ] {
        assert_eq!(counter_of(id), counter, "{id}");
    }
}
