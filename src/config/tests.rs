use std::time::Duration;

use serde_json::json;

use super::{entry::Takes, *};
use crate::secret::Secret;

pub(super) fn resolve_with(settings: &Value, env: &[(&str, &str)]) -> Resolution {
    let get = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let names: Vec<String> = env.iter().map(|(name, _)| (*name).to_owned()).collect();
    let env = Env { get: &get, names: &names };
    resolve(settings.as_object().unwrap(), env, &|| "web.example.org".to_owned())
}

fn good(settings: &Value, env: &[(&str, &str)]) -> Config {
    let resolution = resolve_with(settings, env);
    assert_eq!(resolution.problems, Vec::<String>::new());
    resolution.config.unwrap()
}

const ON: (&str, &str) = ("RUNNER_NATS_SUBJECT_ID", "id");

#[test]
fn off_unless_a_subject_id_is_given() {
    for (settings, env) in [
        (json!({}), vec![]),
        (json!({}), vec![("RUNNER_NATS_SUBJECT_ID", "")]),
        (json!({"nats_subject_id": ""}), vec![]),
        (json!({"nats_subject_id": null}), vec![]),
    ] {
        assert!(resolve_with(&settings, &env).config.is_none());
    }
}

#[test]
fn subject_id_from_settings_environment_and_host() {
    assert_eq!(good(&json!({"nats_subject_id": "a.b"}), &[]).subject_id, "a.b");
    assert_eq!(good(&json!({"nats_subject_id": 7}), &[]).subject_id, "7");
    assert_eq!(good(&json!({"nats_subject_id": "a"}), &[ON]).subject_id, "id");
    let host = good(&json!({}), &[("RUNNER_NATS_SUBJECT_ID", "hostname")]);
    assert_eq!(host.subject_id, "web-example-org");
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = good(&json!({}), &[ON]);
    assert_eq!(config.flush_timeout, Duration::from_secs(5));
    let connection = config.connection;
    assert_eq!(connection.servers[0].address, "nats://localhost:4222");
    assert_eq!(connection.connect_timeout, Duration::from_secs(2));
    assert_eq!(connection.reconnect_time_wait, Duration::from_secs(2));
    assert_eq!(connection.max_reconnect_attempts, None);
    assert_eq!(connection.ping_interval, Duration::from_secs(120));
    assert_eq!(connection.max_outstanding_pings, 2);
    assert_eq!((connection.window, connection.pending_size), (1024, 64 << 20));
    assert!(connection.allow_reconnect && !connection.verbose);
    assert_eq!(connection.delivery, Delivery::Auto);
}

#[test]
fn environment_beats_settings_option_by_option() {
    let settings = json!({"nats_options": {
        "connect_timeout": 7, "reconnect_time_wait": "0.5", "max_reconnect_attempts": 9,
        "allow_reconnect": false, "servers": ["a:1", "tls://b"]}});
    let env = [ON, ("RUNNER_NATS_CONNECT_TIMEOUT", "3"), ("RUNNER_MAX_OUTSTANDING_PINGS", "5")];
    let connection = good(&settings, &env).connection;
    assert_eq!(connection.connect_timeout, Duration::from_secs(3));
    assert_eq!(connection.reconnect_time_wait, Duration::from_millis(500));
    assert_eq!(connection.max_reconnect_attempts, Some(9));
    assert_eq!(connection.max_outstanding_pings, 5);
    assert!(!connection.allow_reconnect);
    let addresses: Vec<&str> = connection.servers.iter().map(|s| s.address.as_str()).collect();
    assert_eq!(addresses, ["nats://a:1", "tls://b:4222"]);
}

#[test]
fn booleans_in_every_spelling() {
    for (text, expected) in
        [("YES", true), ("y", true), ("1", true), ("On", true), ("off", false), ("0", false), ("N", false)]
    {
        let connection = good(&json!({}), &[ON, ("RUNNER_NATS_CLIENT_VERBOSE", text)]).connection;
        assert_eq!(connection.verbose, expected, "{text}");
    }
}

#[test]
fn a_bad_tuning_value_names_variable_value_and_default() {
    let resolution = resolve_with(&json!({}), &[ON, ("RUNNER_NATS_CONNECT_TIMEOUT", "soon")]);
    assert_eq!(resolution.config.unwrap().connection.connect_timeout, Duration::from_secs(2));
    assert_eq!(
        resolution.problems,
        ["RUNNER_NATS_CONNECT_TIMEOUT=\"soon\": expected a number of seconds, at least 0.001; using 2"]
    );
}

#[test]
fn numbers_out_of_range_are_bad_values() {
    for (name, value) in [
        ("RUNNER_NATS_CONNECT_TIMEOUT", "-1"),
        ("RUNNER_NATS_CONNECT_TIMEOUT", "NaN"),
        ("RUNNER_NATS_CONNECT_TIMEOUT", "inf"),
        ("RUNNER_NATS_FLUSH_TIMEOUT", "1e300"),
        ("RUNNER_NATS_FLUSHER_QUEUE_SIZE", "0"),
        ("RUNNER_NATS_PENDING_SIZE", "-5"),
        ("RUNNER_NATS_PENDING_SIZE", "99999999999999999999"),
        ("RUNNER_NATS_MAX_RECONNECT_ATTEMPTS", "many"),
        ("RUNNER_NATS_ALLOW_RECONNECT", "maybe"),
    ] {
        let resolution = resolve_with(&json!({}), &[ON, (name, value)]);
        assert!(resolution.config.is_some());
        assert!(resolution.problems[0].starts_with(name), "{:?}", resolution.problems);
    }
}

#[test]
fn bad_servers_and_authentication_fail_closed() {
    for (name, value) in [
        ("RUNNER_NATS_SERVERS", "http://a"),
        ("RUNNER_NATS_SERVERS", "nats://good,nats://"),
        ("RUNNER_NATS_SERVERS", "nats://admin:2024#canary@h"),
        ("RUNNER_NATS_SERVERS", "nats://u:12/canary@h"),
        ("RUNNER_NATS_NKEYS_SEED", "\"SUAM-canary-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\""),
        ("RUNNER_NATS_USER_CREDENTIALS", "-----BEGIN NATS USER JWT-----\ncanary\n"),
        ("RUNNER_NATS_USERNAME", "alone"),
        ("RUNNER_NATS_PASSWORD", "alone-canary"),
        ("RUNNER_NATS_TLS_HANDSHAKE_FIRST", "perhaps"),
    ] {
        let resolution = resolve_with(&json!({}), &[ON, (name, value)]);
        assert!(resolution.config.is_none(), "{name}");
        assert!(resolution.problems[0].ends_with("nothing is published"), "{:?}", resolution.problems);
        assert!(!resolution.problems[0].contains("canary"));
    }
    for options in [json!("text"), json!({"tls": "<ssl.SSLContext>"}), json!({"nkeys_seed_str": "SUxx"})] {
        let resolution = resolve_with(&json!({"nats_options": options}), &[ON]);
        assert!(resolution.config.is_none(), "{options}");
    }
}

#[test]
fn every_way_to_authenticate() {
    let seed = nkeys::KeyPair::new_user().seed().unwrap();
    let auth = |env: &[(&str, &str)]| good(&json!({}), &[&[ON], env].concat()).connection.auth.unwrap();
    assert_eq!(
        auth(&[("RUNNER_NATS_USERNAME", "u"), ("RUNNER_NATS_PASSWORD", "p")]),
        Auth::User("u".into(), Secret::new("p"))
    );
    assert_eq!(auth(&[("RUNNER_NATS_TOKEN", "t")]), Auth::Token(Secret::new("t")));
    assert_eq!(auth(&[("RUNNER_NATS_USER_CREDENTIALS", "/c")]), Auth::CredsFile("/c".into()));
    assert_eq!(auth(&[("RUNNER_NATS_NKEYS_SEED", "/s")]), Auth::SeedFile("/s".into()));
    assert_eq!(auth(&[("RUNNER_NATS_NKEYS_SEED", &seed)]), Auth::Seed(Secret::new(seed.clone())));
    let settings = json!({"nats_options": {"nkeys_seed_str": seed, "user": "u", "password": 1}});
    assert_eq!(good(&settings, &[ON]).connection.auth.unwrap(), Auth::Seed(Secret::new(seed)));
}

#[test]
fn credentials_in_urls_are_decoded_and_kept_out_of_the_address() {
    let urls = "nats://us%40er:p%3Aw@h:1, nats://tok@[::1], ws://h/path";
    let servers = good(&json!({}), &[ON, ("RUNNER_NATS_SERVERS", urls)]).connection.servers;
    assert_eq!(servers[0].address, "nats://h:1");
    assert_eq!(servers[0].auth, Some(Auth::User("us@er".into(), Secret::new("p:w"))));
    assert_eq!(servers[1].address, "nats://[::1]:4222");
    assert_eq!(servers[1].auth, Some(Auth::Token(Secret::new("tok"))));
    assert_eq!(servers[2].address, "ws://h:80/path");
}

#[test]
fn headers_are_merged_and_bad_pairs_skipped() {
    let settings = json!({"nats_headers": {"a": "1", "b": 2}});
    let env = [ON, ("RUNNER_NATS_HEADERS", "b=x=y, c = z")];
    let expected = [("a", "1"), ("b", "x=y"), ("c", "z")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(good(&settings, &env).headers[..], expected);

    let bad = [ON, ("RUNNER_NATS_HEADERS", "nopair,=v,a:b=c,Nats-Msg-Id=1,ok=1")];
    let resolution = resolve_with(&json!({"nats_headers": {"evil": "a\r\nb"}}), &bad);
    assert_eq!(resolution.config.unwrap().headers[..], [("ok".to_owned(), "1".to_owned())]);
    assert_eq!(resolution.problems.len(), 5, "{:?}", resolution.problems);

    let secret = [ON, ("RUNNER_NATS_HEADERS", "Authorization: Bearer canary==")];
    assert!(!resolve_with(&json!({}), &secret).problems[0].contains("canary"));
}

#[test]
fn unknown_and_powerless_options_are_named() {
    let settings = json!({"nats_options": {"conect_timeout": 3, "zzzzzz": 1, "no_echo": true}});
    let resolution = resolve_with(&settings, &[ON]);
    assert!(resolution.config.is_some());
    assert_eq!(
        resolution.problems[..2],
        [
            "nats_options.conect_timeout: no such option, ignored; did you mean connect_timeout?",
            "nats_options.zzzzzz: no such option, ignored"
        ]
    );
    assert!(resolution.problems[2].starts_with("nats_options.no_echo: has no effect"));
}

#[test]
fn a_stream_implies_jetstream() {
    assert_eq!(good(&json!({}), &[ON, ("RUNNER_NATS_STREAM", "S")]).connection.delivery, Delivery::Jetstream);
}

#[test]
fn debug_shows_no_secret() {
    let env = [ON, ("RUNNER_NATS_SERVERS", "nats://user:canary1@h"), ("RUNNER_NATS_TOKEN", "canary2")];
    assert!(!format!("{:?}", good(&json!({}), &env)).contains("canary"));
}

#[test]
fn every_option_is_read() {
    let resolution = resolve_with(&json!({}), &[ON, ("RUNNER_NATS_HEADERS", "a=b")]);
    let read: Vec<&str> = resolution.settings.iter().map(|setting| setting.option).collect();
    for opt in opt::all() {
        let is_for_nothing = matches!(opt.takes, Takes::WithoutEffect(..) | Takes::CannotServe(_));
        // What authenticates is one setting: see `every_way_to_authenticate`.
        let is_authentication = opt::AUTH.iter().any(|auth| auth.key == opt.key);
        if !is_for_nothing && !is_authentication {
            assert!(read.contains(&opt.key), "config::resolve does not read {}", opt.key);
        }
    }
}
