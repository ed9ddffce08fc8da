//! The files that pages are made with. Their addresses have their fingerprints in them, so that a browser may keep them for
//! ever, and a new version is another address.

use std::sync::LazyLock;

use axum::{Router, http::header, routing::get};

use super::fingerprint::fingerprint;

/// A file, and where it is.
pub(super) struct Asset {
    pub(super) address: String,
    kind: &'static str,
    content: &'static str,
}

/// All of them.
pub(super) struct Assets {
    pub(super) style: Asset,
    pub(super) script: Asset,
    /// Listens to what changes, for all pages of a browser.
    pub(super) listener: Asset,
    pub(super) icon: Asset,
}

impl Asset {
    fn new(name: &str, kind: &'static str, content: &'static str) -> Self {
        Self { address: format!("{FOLDER}{}/{name}", fingerprint(content)), kind, content }
    }
}

const FOLDER: &str = "/static/";
const SCRIPT: &str = "text/javascript; charset=utf-8";

pub(super) static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: Asset::new("style.css", "text/css; charset=utf-8", include_str!("static/style.css")),
    script: Asset::new("live.js", SCRIPT, include_str!("static/live.js")),
    listener: Asset::new("listener.js", SCRIPT, include_str!("static/listener.js")),
    icon: Asset::new("icon.svg", "image/svg+xml", include_str!("static/icon.svg")),
});

/// Is this what everybody may see?
pub(super) fn is_asset(path: &str) -> bool {
    path.starts_with(FOLDER)
}

pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    const FOR_EVER: &str = "public, max-age=31536000, immutable";
    let Assets { style, script, listener, icon } = &*ASSETS;
    [style, script, listener, icon].into_iter().fold(Router::new(), |router, asset| {
        let headers = [(header::CONTENT_TYPE, asset.kind), (header::CACHE_CONTROL, FOR_EVER)];
        router.route(&asset.address, get(move || async move { (headers, asset.content) }))
    })
}
