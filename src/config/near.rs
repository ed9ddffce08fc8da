//! Names that are nearly right: what somebody meant who wrote a setting, an option or a variable that there is not.

use serde_json::{Map, Value};

use super::{
    entry::{Opt, Place, Takes},
    options,
    reader::Reader,
    values::shorten,
};

/// How all names of settings of ours begin, and of variables.
const SETTINGS: &str = "nats_";
const VARIABLES: &str = "RUNNER_NATS_";

/// The setting that holds most options.
const OPTIONS: &str = "nats_options";

/// A name that is longer is not compared: the distance to a text of megabytes would take minutes.
const LONGEST: usize = 64;

/// What others call it: the `nats` command, clients of other languages.
const ALIASES: &[(&str, &str)] = &[
    ("url", "servers"),
    ("urls", "servers"),
    ("host", "servers"),
    ("address", "servers"),
    ("creds", "user_credentials"),
    ("nkey", "nkeys_seed"),
    ("jwt", "user_credentials"),
    ("ssl", "tls"),
    ("exclude", "omit"),
];

/// Is a setting of this name ours, known or not?
pub(crate) fn is_ours(setting: &str) -> bool {
    let start = setting.get(..SETTINGS.len()).unwrap_or_default();
    start.to_ascii_lowercase().replace('-', "_") == SETTINGS
}

/// Where a name was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// In the environment.
    Variable,
    /// Beside `nats_options`.
    Setting,
    /// In `nats_options`.
    Option,
}

/// What was meant.
#[derive(Debug, PartialEq, Eq)]
struct Meant {
    /// In words that go on "expected".
    expected: String,
    /// What it is called.
    name: String,
    /// Near enough, and guarded: to go on without it would not be meant.
    refused: bool,
}

impl Reader<'_> {
    /// Keys of `nats_options` that there are not.
    pub(super) fn unknown_keys(&mut self) {
        for key in self.options.keys().filter(|key| options::of_key(key).is_none()) {
            self.unknown(Where::Option, key, &format!("nats_options.{}", shorten(key)), "option");
        }
    }

    /// Settings that look like ours.
    pub(super) fn unknown_settings(&mut self, settings: &Map<String, Value>) {
        let is_known = |key: &str| {
            key == OPTIONS || options::all().any(|opt| opt.place == Place::Setting && opt.key == key)
        };
        for key in settings.keys().filter(|key| is_ours(key) && !is_known(key)) {
            self.unknown(Where::Setting, key, &shorten(key), "setting");
        }
    }

    /// Variables that look like ours, and are set to something.
    pub(super) fn unknown_variables(&mut self) {
        let mut names: Vec<&String> = self.env.names.iter().collect();
        names.sort();
        for name in names {
            let is_ours = name.get(..VARIABLES.len()).is_some_and(|it| it.eq_ignore_ascii_case(VARIABLES));
            let is_known = || options::all().any(|opt| opt.env.contains(&name.as_str()));
            if !is_ours || is_known() {
                continue;
            }
            let Some(value) = self.var(name) else { continue };
            if !is_of_kubernetes(name, &value) {
                self.unknown(Where::Variable, name, &shorten(name), "variable");
            }
        }
    }

    /// Says so; the value is nobody's business.
    fn unknown(&mut self, place: Where, name: &str, shown: &str, what: &str) {
        let meant = nearest(place, name);
        if let Some(Meant { expected, refused: true, .. }) = &meant {
            // Whoever asked for this would not want to go on without it.
            return self.refuse(shown, expected);
        }
        let hint = meant.map_or(String::new(), |meant| format!("; did you mean {}?", meant.name));
        self.say(format!("{shown}: no such {what}, ignored{hint}"));
    }
}

/// Kubernetes tells each container of a service `runner-nats` by such variables.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let rest = name.get(VARIABLES.len()..).unwrap_or_default();
    let is_address = || value.contains("://");
    let is_part = || {
        let parts: Vec<&str> = rest.split('_').collect();
        matches!(parts[..], ["PORT", port, _, ..] if port.bytes().all(|b| b.is_ascii_digit()))
    };
    rest == "SERVICE_HOST"
        || rest.starts_with("SERVICE_PORT")
        || (rest == "PORT" && is_address())
        || is_part()
}

/// The option whose name is the nearest, if any is near at all.
fn nearest(place: Where, name: &str) -> Option<Meant> {
    if name.len() > LONGEST {
        return None;
    }
    let written = Words::of(match place {
        Where::Variable => name.get(VARIABLES.len()..)?,
        Where::Setting => name.get(SETTINGS.len()..)?,
        Where::Option => name,
    });
    let of_opt = options::all().filter_map(|opt| Some((written.to_opt(opt)?, Some(opt))));
    let of_options = (place != Where::Option).then(|| written.to(&Words::of("options"))).flatten();
    let (nearness, opt) =
        of_opt.chain(of_options.map(|nearness| (nearness, None))).min_by_key(|(it, _)| *it)?;
    let is_near = !matches!(nearness, Nearness::Far(_));
    let Some(opt) = opt else {
        // Guarded options are in it.
        return Some(meant(OPTIONS.to_owned(), is_near));
    };
    let called = match (place, opt.place, opt.env) {
        (Where::Variable, _, [variable, ..]) => (*variable).to_owned(),
        (Where::Option, ..) | (_, Place::Setting, _) => opt.key.to_owned(),
        _ => format!("{OPTIONS}.{}", opt.key),
    };
    let meant = meant(called, is_near && opt.guarded);
    Some(match opt.takes {
        Takes::CannotServe(instead) => Meant { expected: instead.to_owned(), ..meant },
        _ => meant,
    })
}

fn meant(name: String, refused: bool) -> Meant {
    Meant { expected: format!("it to be called {name}"), name, refused }
}

/// How near two names are, the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    /// But for case and separators, or another word for it.
    Same,
    /// So many slips.
    Slips(usize),
    /// One holds the other; so much is left.
    Part(usize),
    /// A hint, and no more.
    Far(usize),
}

/// A name: in lower case, without separators.
struct Words {
    words: Vec<String>,
    joined: String,
}

impl Words {
    fn of(name: &str) -> Self {
        let lower = name.to_lowercase();
        let words: Vec<String> = lower
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        Self { joined: words.concat(), words }
    }

    /// To the option's key, or any of its variables.
    fn to_opt(&self, opt: &Opt) -> Option<Nearness> {
        let key = match opt.place {
            Place::Setting => opt.key.strip_prefix(SETTINGS).unwrap_or(opt.key),
            Place::NatsOptions => opt.key,
            Place::Context => return None,
        };
        let alias = ALIASES.iter().any(|(alias, key)| *key == opt.key && *alias == self.joined);
        let variables = opt.env.iter().filter_map(|name| name.strip_prefix(VARIABLES));
        let nearest = variables.chain([key]).filter_map(|known| self.to(&Self::of(known))).min();
        if alias { Some(Nearness::Same) } else { nearest }
    }

    fn to(&self, known: &Self) -> Option<Nearness> {
        const FAR: usize = 3;
        if self.joined == known.joined {
            return Some(Nearness::Same);
        }
        let slips = strsim::damerau_levenshtein(&self.joined, &known.joined);
        let length = self.joined.len();
        if slips <= 1 + length / 8 && slips < length {
            return Some(Nearness::Slips(slips));
        }
        if self.holds(known) || known.holds(self) {
            return Some(Nearness::Part(length.abs_diff(known.joined.len())));
        }
        (slips <= FAR && 2 * slips <= length).then_some(Nearness::Far(slips))
    }

    /// Are all words of `part` here, one after the other? A longer word may lack its end: `SERVER`, `PASS`.
    fn holds(&self, part: &Self) -> bool {
        const LEAST: usize = 4;
        let alike = |(one, other): (&String, &String)| {
            one == other
                || (one.len().min(other.len()) >= LEAST
                    && (one.starts_with(other.as_str()) || other.starts_with(one.as_str())))
        };
        !part.words.is_empty()
            && self.words.windows(part.words.len()).any(|words| words.iter().zip(&part.words).all(alike))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(place: Where, name: &str) -> Option<String> {
        nearest(place, name).filter(|meant| meant.refused).map(|meant| meant.name)
    }

    #[test]
    fn variables_that_are_nearly_guarded_ones() {
        for (written, meant) in [
            ("RUNNER_NATS_OMITT", "RUNNER_NATS_OMIT"),
            ("RUNNER_NATS_USER", "RUNNER_NATS_USERNAME"),
            ("RUNNER_NATS_USER_NAME", "RUNNER_NATS_USERNAME"),
            ("RUNNER_NATS_TLSCA", "RUNNER_NATS_TLS_CA"),
            ("RUNNER_NATS_TLS_CA_FILE", "RUNNER_NATS_TLS_CA"),
            ("RUNNER_NATS_CA", "RUNNER_NATS_TLS_CA"),
            ("RUNNER_NATS_SERVER", "RUNNER_NATS_SERVERS"),
            ("RUNNER_NATS_SERVER_URL", "RUNNER_NATS_SERVERS"),
            ("RUNNER_NATS_URL", "RUNNER_NATS_SERVERS"),
            ("RUNNER_NATS_PASS", "RUNNER_NATS_PASSWORD"),
            ("RUNNER_NATS_CREDS", "RUNNER_NATS_USER_CREDENTIALS"),
            ("RUNNER_NATS_CREDENTIALS", "RUNNER_NATS_USER_CREDENTIALS"),
            ("RUNNER_NATS_NKEY", "RUNNER_NATS_NKEYS_SEED"),
            ("RUNNER_NATS_NKEYS_SEED_STR", "nats_options.nkeys_seed_str"),
            ("RUNNER_NATS_SUBJECTID", "RUNNER_NATS_SUBJECT_ID"),
            ("RUNNER_NATS_EVENT", "RUNNER_NATS_EVENTS"),
            ("RUNNER_NATS_OPTIONS", "nats_options"),
            ("runner_nats_token", "RUNNER_NATS_TOKEN"),
            ("RUNNER_NATS_TLS", "nats_options.tls"),
        ] {
            assert_eq!(refused(Where::Variable, written).as_deref(), Some(meant), "{written}");
        }
    }

    #[test]
    fn settings_and_keys_that_are_nearly_guarded_ones() {
        for (written, meant) in [
            ("nats_option", "nats_options"),
            ("NATS_OPTIONS", "nats_options"),
            ("nats-options", "nats_options"),
            ("nats_servers", "nats_options.servers"),
            ("nats_subjectid", "nats_subject_id"),
            ("nats_omit", "nats_options.omit"),
        ] {
            assert!(is_ours(written));
            assert_eq!(refused(Where::Setting, written).as_deref(), Some(meant), "{written}");
        }
        for (written, meant) in
            [("username", "user"), ("tlsca", "tls_ca"), ("url", "servers"), ("ommit", "omit")]
        {
            assert_eq!(refused(Where::Option, written).as_deref(), Some(meant), "{written}");
        }
    }

    #[test]
    fn what_is_not_guarded_or_not_near_is_named_at_most() {
        for (place, written, hint) in [
            (Where::Setting, "nats_header", Some("nats_headers")),
            (Where::Setting, "nats_connect_timeout", Some("nats_options.connect_timeout")),
            (Where::Variable, "RUNNER_NATS_NAME", Some("RUNNER_NATS_CLIENT_NAME")),
            (Where::Variable, "RUNNER_NATS_FLUSH_TIMEOUTS", Some("RUNNER_NATS_FLUSH_TIMEOUT")),
            (Where::Variable, "RUNNER_NATS_TIMEOUT", Some("RUNNER_NATS_FLUSH_TIMEOUT")),
            (Where::Variable, "RUNNER_NATS_ZZZZZZ", None),
            (Where::Variable, "RUNNER_NATS_", None),
            (Where::Setting, "nats_", None),
            (Where::Option, "zzzzzz", None),
            (Where::Option, "_", None),
        ] {
            let meant = nearest(place, written);
            assert_eq!(meant.as_ref().map(|meant| meant.name.as_str()), hint, "{written}");
            assert!(!meant.is_some_and(|meant| meant.refused), "{written}");
        }
        let long = "x".repeat(10_000_000);
        assert_eq!(nearest(Where::Option, &long), None);
        assert!(!is_ours("natsume") && !is_ours("native") && !is_ours("éééé") && !is_ours("timeout"));
    }

    #[test]
    fn every_known_name_is_the_nearest_to_itself() {
        for opt in options::all().filter(|opt| !matches!(opt.takes, Takes::CannotServe(_))) {
            for name in opt.env.iter().filter(|name| name.starts_with(VARIABLES)) {
                let meant = nearest(Where::Variable, &name.to_lowercase()).unwrap();
                assert_eq!((meant.name.as_str(), meant.refused), (opt.env[0], opt.guarded), "{name}");
            }
        }
    }

    #[test]
    fn what_kubernetes_says_of_a_service() {
        let address = "tcp://10.0.0.1:4222";
        for (rest, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "4222"),
            ("SERVICE_PORT_CLIENT", "4222"),
            ("PORT", address),
            ("PORT_4222_TCP", address),
            ("PORT_4222_TCP_ADDR", "10.0.0.1"),
        ] {
            assert!(is_of_kubernetes(&format!("{VARIABLES}{rest}"), value), "{rest}");
        }
        for (rest, value) in [("PORT", "4222"), ("HOST", "h"), ("PORT_X", "1"), ("", "1")] {
            assert!(!is_of_kubernetes(&format!("{VARIABLES}{rest}"), value), "{rest}");
        }
    }
}
