//! Which way to authenticate the options say.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    credentials::{Auth, is_creds, is_seed, secrets_of},
    options::{self, NKEYS_SEED, NKEYS_SEED_STR, PASSWORD, TOKEN, USER, USER_CREDENTIALS},
    reader::Reader,
    values::as_text,
};
use crate::secret::{Secret, looks_secret, shown_path};

impl Reader<'_> {
    /// The first way of [`options::AUTH`] that is set; all of them are read, so that mistakes in any are told.
    pub(super) fn auth(&mut self) -> Option<Auth> {
        for opt in [&PASSWORD, &TOKEN, &NKEYS_SEED_STR, &NKEYS_SEED] {
            let given = self.all_given(opt);
            // A path is no secret.
            let texts = given.iter().filter_map(as_text);
            let secrets =
                texts.filter(|text| opt.key != NKEYS_SEED.key || is_seed(text) || looks_secret(text));
            self.secrets.extend(secrets.map(Secret::new));
        }
        let mut first = None;
        for opt in options::AUTH {
            let way = match opt.key {
                key if key == USER_CREDENTIALS.key => self.user_credentials(),
                key if key == NKEYS_SEED_STR.key => self.nkeys_seed_str(),
                key if key == NKEYS_SEED.key => self.nkeys_seed(),
                key if key == USER.key => self.user_and_password(first.is_none()),
                key if key == TOKEN.key => {
                    self.read(&TOKEN, as_text).map(|token| Auth::Token(Secret::new(token)))
                }
                // Read with the user.
                _ => None,
            };
            first = first.or(way);
        }
        first
    }

    fn user_credentials(&mut self) -> Option<Auth> {
        let path = |value: &Value| as_text(value).filter(|path| !looks_secret(path)).map(PathBuf::from);
        let auth = self.read(&USER_CREDENTIALS, |value: &Value| match value {
            Value::Array(paths) => match paths.as_slice() {
                [jwt, seed] => Some(Auth::CredsFiles(path(jwt)?, path(seed)?)),
                _ => None,
            },
            Value::String(text) if is_creds(text) => Some(Auth::Creds(Secret::new(text))),
            other => path(other).map(Auth::CredsFile),
        })?;
        let shown = |path: &Path| shown_path(&path.to_string_lossy()).to_owned();
        match &auth {
            Auth::CredsFile(path) => self.shown(USER_CREDENTIALS.key, shown(path)),
            Auth::CredsFiles(jwt, seed) => {
                self.shown(USER_CREDENTIALS.key, format!("{}, {}", shown(jwt), shown(seed)));
            }
            _ => {}
        }
        self.secrets.extend(secrets_of(&auth));
        Some(auth)
    }

    fn nkeys_seed_str(&mut self) -> Option<Auth> {
        let seed = self.read(&NKEYS_SEED_STR, |value: &Value| as_text(value).filter(|seed| is_seed(seed)))?;
        Some(Auth::Seed(Secret::new(seed)))
    }

    fn nkeys_seed(&mut self) -> Option<Auth> {
        let text = self.read(&NKEYS_SEED, |value: &Value| {
            as_text(value).filter(|text| is_seed(text) || !looks_secret(text))
        })?;
        if is_seed(&text) {
            return Some(Auth::Seed(Secret::new(text)));
        }
        self.shown(NKEYS_SEED.key, shown_path(&text).to_owned());
        let auth = Auth::SeedFile(PathBuf::from(text));
        self.secrets.extend(secrets_of(&auth));
        Some(auth)
    }

    /// One without the other is a mistake, if this is the way that would be used.
    fn user_and_password(&mut self, is_used: bool) -> Option<Auth> {
        match (self.read(&USER, as_text), self.read(&PASSWORD, as_text)) {
            (Some(user), Some(password)) => return Some(Auth::User(user, Secret::new(password))),
            (Some(_), None) if is_used => self.refuse_half(&USER, "a password too", &PASSWORD),
            (None, Some(_)) if is_used => self.refuse_half(&PASSWORD, "a user too", &USER),
            _ => {}
        }
        None
    }
}
