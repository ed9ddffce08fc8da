//! Settings and environment, whatever is in them: resolved or told, never with a secret in what is told.
#![no_main]

use ansible_runner_nats_native::fuzzing::resolve;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

const CANARY: &str = "canary-4711";

fuzz_target!(|input: &str| {
    if input.contains(CANARY) {
        // The fuzzer has read it off our own comparison.
        return;
    }
    // The first line is the environment (`NAME=value` by tabs), the rest the settings.
    let (env, settings) = input.split_once('\n').unwrap_or((input, ""));
    let vars: Vec<(&str, &str)> = env.split('\t').filter_map(|pair| pair.split_once('=')).collect();
    let var = |name: &str| {
        if name == "RUNNER_NATS_PASSWORD" {
            return Some(CANARY.to_owned());
        }
        vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    let settings: Map<String, Value> = serde_json::from_str(settings).unwrap_or_default();
    let names: Vec<String> = vars.iter().map(|(name, _)| (*name).to_owned()).collect();
    let resolved = resolve(&settings, &var, &names);
    assert!(resolved.problems.len() <= 51);
    for problem in &resolved.problems {
        assert!(!problem.contains(CANARY), "{problem}");
        assert!(problem.len() < 4000);
    }
    assert!(!resolved.shown.contains(CANARY));
    for (name, value) in &resolved.headers {
        assert!(!name.is_empty() && !name.contains([':', '\r', '\n']) && !value.contains(['\r', '\n']));
    }
    for server in &resolved.servers {
        assert!(!server.contains(['@', '\r', '\n', ' ']), "{server}");
    }
});
