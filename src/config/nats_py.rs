//! Options that nats-py's `connect` has, and that have no effect or cannot be served here: known by name, so that whoever
//! comes from 0.4.0 is told what becomes of each.

use super::entry::{FIRST, Opt, Takes, guarded, tuning};

pub(super) const NO_ECHO: Opt = tuning(
    "no_echo",
    &["RUNNER_NATS_NO_ECHO"],
    FIRST,
    Takes::WithoutEffect("the echo of our own markers is what confirms delivery", "false"),
    "Without effect: the echo of our own markers is what confirms delivery.",
);
pub(super) const PEDANTIC: Opt = tuning(
    "pedantic",
    &["RUNNER_NATS_PEDANTIC"],
    FIRST,
    Takes::WithoutEffect("subjects are checked before they are sent", "false"),
    "Without effect: subjects are checked before they are sent.",
);
pub(super) const DRAIN_TIMEOUT: Opt = tuning(
    "drain_timeout",
    &["RUNNER_NATS_DRAIN_TIMEOUT"],
    FIRST,
    Takes::WithoutEffect("flush_timeout bounds the end of a run", "30"),
    "Without effect: `flush_timeout` bounds the end of a run.",
);
pub(super) const SKIP_SUBJECT_VALIDATION: Opt = tuning(
    "skip_subject_validation",
    &[],
    FIRST,
    Takes::WithoutEffect("subjects are made valid before they are sent", "false"),
    "Without effect: subjects are made valid before they are sent.",
);
pub(super) const RECONNECT_TO_SERVER_HANDLER: Opt = tuning(
    "reconnect_to_server_handler",
    &[],
    FIRST,
    Takes::WithoutEffect("the servers in servers are tried in turn", ""),
    "Without effect: the servers in `servers` are tried in turn.",
);
pub(super) const ERROR_CB: Opt = callback("error_cb");
pub(super) const DISCONNECTED_CB: Opt = callback("disconnected_cb");
pub(super) const CLOSED_CB: Opt = callback("closed_cb");
pub(super) const DISCOVERED_SERVER_CB: Opt = callback("discovered_server_cb");
pub(super) const RECONNECTED_CB: Opt = callback("reconnected_cb");
pub(super) const LAME_DUCK_MODE_CB: Opt = callback("lame_duck_mode_cb");
pub(super) const WS_CONNECTION_HEADERS: Opt = guarded(
    "ws_connection_headers",
    &[],
    FIRST,
    Takes::CannotServe("credentials in NATS, not headers in the WebSocket handshake"),
    "Refused: no headers can be added to the WebSocket handshake; use credentials in NATS.",
);
pub(super) const TLS: Opt = guarded(
    "tls",
    &[],
    FIRST,
    Takes::CannotServe("tls_ca, tls_cert and tls_key (an ssl.SSLContext cannot be used here)"),
    "Refused: use `tls_ca`, `tls_cert` and `tls_key` (an `ssl.SSLContext` cannot be used here).",
);
pub(super) const SIGNATURE_CB: Opt = guarded(
    "signature_cb",
    &[],
    FIRST,
    Takes::CannotServe("user_credentials or nkeys_seed instead of a callback"),
    "Refused: use `user_credentials` or `nkeys_seed`.",
);
pub(super) const USER_JWT_CB: Opt = guarded(
    "user_jwt_cb",
    &[],
    FIRST,
    Takes::CannotServe("user_credentials instead of a callback"),
    "Refused: use `user_credentials`.",
);

/// A function that nats-py calls when something happens to the connection.
const fn callback(key: &'static str) -> Opt {
    tuning(
        key,
        &[],
        FIRST,
        Takes::WithoutEffect("what happens to the connection is logged (verbose logs each step)", ""),
        "Without effect: what happens to the connection is logged; `verbose` logs each step.",
    )
}
