//! What is between us and the servers: connections that break, and messages that are on their way.

use super::{
    bus::{Outcome, Reply, run_of},
    script::{Api, Inbox, Side, Wanted},
    world::{Back, Checked, Due, INBOX, Link, RECONNECT, Sent, World},
};
use crate::delivery::{Ack, Answer, End, Heard, Input, Says, Server, Why};

impl World<'_> {
    pub(super) fn resume(&mut self, number: u64) {
        let backlog = self.link.as_mut().map(|link| std::mem::take(&mut link.backlog));
        for sent in backlog.into_iter().flatten() {
            // A server that hangs up reads no further.
            if self.link.as_ref().is_none_or(|link| link.is_hung_up) {
                break;
            }
            self.arrive(number, sent);
        }
    }

    /// The connection breaks; what is on its way is gone.
    pub(super) fn hang_up(&mut self, reason: &str) {
        if let Some(link) = &mut self.link {
            link.is_hung_up = true;
            let number = link.number;
            self.things.retain(|_, due| {
                !matches!(due, Due::ToServer(of, _) | Due::ToUs(of, ..) | Due::Answer(of, ..) if *of == number)
            });
            self.at(self.now + 1, Due::Gone(number, reason.to_owned()));
        }
    }

    pub(super) fn another_node(&self) -> Option<usize> {
        let count = self.bus.nodes.len();
        let current = self.link.as_ref().map(|link| link.node);
        (1..=count).map(|step| (self.node + step) % count).find(|node| {
            let it = &self.bus.nodes[*node];
            Some(*node) != current && !it.is_down && !it.is_lame && !it.is_suspended
        })
    }

    pub(super) fn dial_later(&mut self, after: u64) {
        if !self.is_dialling {
            self.is_dialling = true;
            self.at(self.now + after, Due::Dial);
        }
    }

    pub(super) fn dial(&mut self) -> Checked {
        self.is_dialling = false;
        if self.link.is_some() {
            return Ok(());
        }
        let Some(node) = self.another_node() else {
            self.dial_later(RECONNECT / 4);
            return Ok(());
        };
        self.node = node;
        self.links += 1;
        self.link = Some(Link {
            number: self.links,
            node,
            to_server: self.now,
            to_us: self.now,
            swallows: Vec::new(),
            backlog: Vec::new(),
            is_hung_up: false,
        });
        self.log(|| format!("connected to {node}"));
        let setup = &self.script.setup;
        let (number, inbox) = (self.links, setup.inbox);
        self.tell(Input::Connected(Server {
            nonce: format!("n{number}"),
            max_payload: self.bus.max_payload,
            jetstream: setup.jetstream,
            has_others: setup.servers > 1,
        }))?;
        let subject = self.machine.inbox().all();
        if inbox == Inbox::Closed {
            self.send_back(number, String::new(), Back::Forbidden { publish: false, subject });
        }
        Ok(())
    }

    pub(super) fn end(&mut self, End { why, is_useless }: &End) {
        self.log(|| format!("end: {why:?}"));
        self.link = None;
        let is_found = matches!(why, Why::LameDuck | Why::Elsewhere(_));
        let pause = if *is_useless && !is_found { RECONNECT } else { 5 };
        self.dial_later(pause);
    }

    /// The server acknowledges what was never sent, and with `core` what nobody asked it to; and it returns markers that we
    /// have not sent.
    pub(super) fn lie(&mut self) -> Checked {
        const FAR: u64 = 100_000;
        if self.link.is_none() {
            return Ok(());
        }
        let near = if self.script.setup.delivery == Wanted::Core { 0..60 } else { 0..0 };
        for number in near.chain(FAR..FAR + 3) {
            for ordinal in [number, 0] {
                let ack = Heard::Ack { ordinal, seq: number, ack: Ack::Stored };
                self.tell(Input::Heard(ack))?;
            }
        }
        for ordinal in [self.marked.map_or(3, |last| last + 3), FAR, u64::MAX] {
            self.tell(Input::Heard(Heard::Marker(ordinal)))?;
        }
        Ok(())
    }

    /// Something is on its way to the server.
    pub(super) fn put(&mut self, sent: Sent) {
        let setup = &self.script.setup;
        let Some(link) = &mut self.link else { return };
        if link.swallows.contains(&Side::ToServer) {
            return;
        }
        let size = match &sent {
            Sent::Message(message) => message.size as u64,
            Sent::Own { .. } => 100,
        };
        let takes = size.checked_div(setup.bandwidth).unwrap_or(0);
        link.to_server = link.to_server.max(self.now + setup.latency) + takes;
        let (at, number) = (link.to_server, link.number);
        self.at(at, Due::ToServer(number, sent));
    }

    /// Something is on its way to us.
    pub(super) fn send_back(&mut self, number: u64, subject: String, back: Back) {
        let latency = self.script.setup.latency;
        let Some(link) = self.link.as_mut().filter(|link| link.number == number) else { return };
        if link.swallows.contains(&Side::ToUs) {
            return;
        }
        link.to_us = link.to_us.max(self.now + latency);
        let at = link.to_us;
        self.at(at, Due::ToUs(number, subject, back));
    }

    /// The server gets something.
    pub(super) fn arrive(&mut self, number: u64, sent: Sent) {
        let Some(node) = self.link.as_ref().filter(|link| link.number == number).map(|link| link.node) else {
            return;
        };
        if self.bus.nodes[node].is_suspended {
            if let Some(link) = &mut self.link {
                link.backlog.push(sent);
            }
            return;
        }
        match sent {
            Sent::Message(message) => {
                let (outcome, is_doubled) = self.bus.publish(node, &message, self.now);
                match outcome {
                    Outcome::Nothing => {}
                    Outcome::Nobody => {
                        self.send_back(number, message.reply.unwrap_or_default(), Back::Nobody);
                    }
                    Outcome::Forbidden => self.send_back(
                        number,
                        String::new(),
                        Back::Forbidden { publish: true, subject: message.subject },
                    ),
                    Outcome::TooLarge => self.hang_up("'Maximum Payload Violation'"),
                    Outcome::Answer(reply, after) => {
                        let subject = message.reply.unwrap_or_default();
                        for copy in 0..=u64::from(is_doubled) {
                            let at = self.now + after + copy * 7;
                            self.at(at, Due::Answer(number, subject.clone(), Back::Reply(reply.clone())));
                        }
                    }
                }
            }
            Sent::Own { subject, reply, asked } => self.arrive_own(number, node, subject, reply, asked),
        }
    }

    fn arrive_own(
        &mut self,
        number: u64,
        node: usize,
        subject: String,
        reply: Option<String>,
        asked: Option<String>,
    ) {
        let setup = &self.script.setup;
        if subject.starts_with(INBOX) {
            match setup.inbox {
                Inbox::Open => self.send_back(number, subject, Back::Echo),
                Inbox::Deaf => {
                    self.send_back(number, String::new(), Back::Forbidden { publish: true, subject });
                }
                Inbox::Closed => {}
            }
            return;
        }
        let (Some(reply), Some(asked)) = (reply, asked) else { return };
        let api = if self.bus.is_isolated(node) { Api::Silent } else { self.bus.api };
        let says = match api {
            Api::Silent => return,
            Api::Forbidden => {
                return self.send_back(number, String::new(), Back::Forbidden { publish: true, subject });
            }
            Api::NotNow => Says::NotNow,
            Api::Nobody => Says::Nobody,
            Api::Answers if self.bus.sees(&asked) => Says::Yes,
            Api::Answers => Says::No,
        };
        self.send_back(number, reply, Back::Says(says));
    }

    /// Something comes to us.
    pub(super) fn hear(&mut self, subject: &str, back: Back) -> Checked {
        let heard = match (back, self.machine.inbox().understand(subject)) {
            (Back::LameDuck, _) => return self.tell(Input::LameDuck),
            (Back::Forbidden { publish, subject }, _) => {
                if let Some(run) = subject.split('.').nth(2) {
                    self.bus.denial_is_known(run, self.now);
                }
                return self.tell(Input::Forbidden { publish, subject });
            }
            (Back::Echo, Answer::Hello) => Heard::Hello,
            (Back::Echo, Answer::Marker(ordinal)) => Heard::Marker(ordinal),
            (Back::Says(says), Answer::Question(question)) => Heard::Api { question, says },
            (Back::Nobody, Answer::Ack { ordinal, seq }) => {
                self.know_denial(seq);
                Heard::Ack { ordinal, seq, ack: Ack::Nobody }
            }
            (Back::Reply(reply), Answer::Ack { ordinal, seq }) => {
                let ack = match reply {
                    Reply::Stored => {
                        if let Some(id) = self.ids.get(&seq).cloned() {
                            let subject = self.subject_of(&id);
                            self.bus.know(subject, &id);
                        }
                        Ack::Stored
                    }
                    Reply::Busy => {
                        self.know_denial(seq);
                        Ack::NotNow("busy".to_owned())
                    }
                    Reply::Full => Ack::Refused { code: 10_077, reason: "full".to_owned() },
                };
                Heard::Ack { ordinal, seq, ack }
            }
            _ => return Ok(()),
        };
        self.tell(Input::Heard(heard))
    }

    pub(super) fn know_denial(&mut self, seq: u64) {
        if let Some(id) = self.ids.get(&seq) {
            self.bus.denial_is_known(run_of(id), self.now);
        }
    }
}
