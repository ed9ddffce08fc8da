//! A message as a line of a spill file, and back.

use std::{borrow::Cow, io};

use serde::{Deserialize, Serialize};

use crate::message::{MSG_ID, Message};

/// A line of a spill file.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    subject: Cow<'a, str>,
    headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The payload as text: JSON in JSON, so that it comes back byte by byte.
    payload: Cow<'a, str>,
}

impl Message {
    /// Writes the message as one line of a spill file, with its line end. Piece by piece: a large message is
    /// not copied.
    pub(crate) fn write_line(&self, out: &mut impl io::Write) -> io::Result<()> {
        let line = Line {
            subject: Cow::Borrowed(&self.head.subject),
            headers: self.all_headers().map(|(name, value)| (Cow::Borrowed(name), value)).collect(),
            payload: String::from_utf8_lossy(&self.payload),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    }

    /// Reads a line of a spill file; `None` if it is not one.
    pub(crate) fn from_line(line: &[u8]) -> Option<Self> {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let mut id = None;
        let mut headers = Vec::new();
        for (name, value) in line.headers {
            if name == MSG_ID {
                id = Some(value.into_owned());
            } else {
                headers.push((name.into_owned(), value.into_owned()));
            }
        }
        Some(Self::alone(&line.subject, headers, &id?, line.payload.into_owned()))
    }
}
