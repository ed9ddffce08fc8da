//! Memory that JSON is written into, and that the payloads made of it share.
//!
//! A message costs no memory of its own: its JSON is written behind that of the last one, into the same *segment*, and its
//! payload is a share of that. A segment whose payloads are all gone is used again, so that the kernel need not bring in
//! fresh pages. What that holds back is bounded: a payload keeps no more than its segment alive, and who takes messages
//! out of turn has the others copied ([`own`]).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// The one thing that can go wrong while JSON is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

/// What payloads share, in bytes.
const SEGMENT: usize = 64 << 10;

/// What may be left unused at the end of a segment. A text that would leave more gets memory of its own size.
const WASTE: usize = SEGMENT / 16;

/// Full segments that are kept to be used again. At a thousand events a second this is more than what is under way.
const MOST_FULL: usize = 64;

/// A longer text takes the memory with it that it was written into, instead of being copied.
pub(crate) const LONGEST_COPIED: usize = 2 << 20;

/// Where one JSON text after the other is written. All of its memory is initialised, so that text can be copied in words
/// of fixed size, which costs a fraction of copying by length.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// The text, and free memory behind it.
    pub(super) bytes: BytesMut,
    /// How much of it is text.
    pub(super) len: usize,
    /// The text is a long one: `bytes` is the memory for those, and `aside` the rest of the segment. Otherwise the other
    /// way round.
    is_long: bool,
    aside: BytesMut,
    /// What is left of segments that are full: that which can be had again, oldest first.
    full: VecDeque<BytesMut>,
}

impl Buffer {
    /// The text.
    pub(crate) fn text(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Forgets the text, and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        if std::mem::take(&mut self.is_long) {
            std::mem::swap(&mut self.bytes, &mut self.aside);
        }
        if self.aside.len() > LONGEST_COPIED {
            self.aside = BytesMut::new();
        }
    }

    /// The text as a payload, which keeps nothing alive that is larger than a segment. `None`: it is too long, or there
    /// is no memory; it is still here.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        if !self.is_long {
            return Some(self.bytes.split_to(std::mem::take(&mut self.len)).freeze());
        }
        let copy = Some(self.text()).filter(|text| text.len() <= LONGEST_COPIED).and_then(copy_of)?;
        self.clear();
        Some(copy)
    }

    /// The text in memory of its own size, without a copy if it is long.
    pub(crate) fn take_whole(&mut self) -> Vec<u8> {
        let mut text =
            if self.is_long { Vec::from(std::mem::take(&mut self.bytes)) } else { self.text().to_vec() };
        text.truncate(self.len);
        text.shrink_to_fit();
        self.clear();
        text
    }

    /// Makes room for so many more bytes of text.
    #[cold]
    pub(super) fn grow(&mut self, more: usize) -> Result<(), OutOfMemory> {
        let wanted = self.len.saturating_add(more);
        if !self.is_long && self.bytes.len() <= WASTE && wanted <= SEGMENT {
            return self.next_segment();
        }
        if !self.is_long {
            let text = self.bytes.get(..self.len).unwrap_or_default();
            self.aside = enlarged(std::mem::take(&mut self.aside), 0, wanted)?;
            if let Some(place) = self.aside.get_mut(..self.len) {
                place.copy_from_slice(text);
            }
            std::mem::swap(&mut self.bytes, &mut self.aside);
            self.is_long = true;
        }
        self.bytes = enlarged(std::mem::take(&mut self.bytes), self.len, wanted)?;
        Ok(())
    }

    /// Goes on in another segment; the text goes with it.
    fn next_segment(&mut self) -> Result<(), OutOfMemory> {
        let mut next = match self.again() {
            Some(segment) => segment,
            None => enlarged(BytesMut::new(), 0, SEGMENT)?,
        };
        if let Some((place, text)) = next.get_mut(..self.len).zip(self.bytes.get(..self.len)) {
            place.copy_from_slice(text);
        }
        let full = std::mem::replace(&mut self.bytes, next);
        if self.full.len() < MOST_FULL && full.capacity() > 0 {
            self.full.push_back(full);
        }
        Ok(())
    }

    /// A segment of which nobody has a share any more: most likely the oldest.
    fn again(&mut self) -> Option<BytesMut> {
        const TRIED: usize = 4;
        for _ in 0..TRIED {
            let mut oldest = self.full.pop_front()?;
            oldest.clear();
            if oldest.try_reclaim(SEGMENT) {
                oldest.resize(SEGMENT, 0);
                return Some(oldest);
            }
            self.full.push_back(oldest);
        }
        None
    }
}

/// Memory of at least `wanted` bytes, of which the first `len` are kept.
fn enlarged(bytes: BytesMut, len: usize, wanted: usize) -> Result<BytesMut, OutOfMemory> {
    /// Twice as much each time, up to this: what is added is touched.
    const LARGEST_STEP: usize = 8 << 20;
    if bytes.len() >= wanted {
        return Ok(bytes);
    }
    let size = wanted.max(len.saturating_add(len.min(LARGEST_STEP)));
    let mut bytes = Vec::from(bytes);
    bytes.try_reserve_exact(size - bytes.len()).map_err(|_| OutOfMemory)?;
    bytes.resize(size, 0);
    Ok(Bytes::from(bytes).into())
}

fn copy_of(text: &[u8]) -> Option<Bytes> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(text.len()).ok()?;
    copy.extend_from_slice(text);
    Some(copy.into())
}

/// Makes a payload its own: it no longer keeps a segment alive that others have left. Without memory it stays as it is.
pub(crate) fn own(payload: &mut Bytes) {
    if payload.len() <= SEGMENT
        && let Some(copy) = copy_of(payload)
    {
        *payload = copy;
    }
}

/// Is there so much memory just now?
pub(crate) fn can_have(size: usize) -> bool {
    let mut piece: Vec<u8> = Vec::new();
    let can = std::hint::black_box(&mut piece).try_reserve_exact(size).is_ok();
    drop(std::hint::black_box(piece));
    can
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::json::Writer;

    fn written(buffer: &mut Buffer, length: usize) -> Vec<u8> {
        buffer.clear();
        let text: Vec<u8> = (0..length).map(|i| b'a' + u8::try_from(i % 26).unwrap()).collect();
        for piece in text.chunks(1000) {
            Writer::new(buffer).raw(piece).unwrap();
        }
        assert_eq!(buffer.text(), text);
        text
    }

    #[test]
    fn payloads_of_all_sizes_keep_what_was_written() {
        let mut buffer = Buffer::default();
        let sizes = [0, 1, 100, WASTE - 1, WASTE, 4 * WASTE, SEGMENT - 1, SEGMENT, SEGMENT + 1, 1 << 20, 7];
        let kept: Vec<_> = sizes
            .iter()
            .cycle()
            .take(300)
            .map(|size| {
                let text = written(&mut buffer, *size);
                (buffer.take().unwrap(), text)
            })
            .collect();
        assert!(kept.iter().all(|(payload, text)| payload == text));
    }

    #[test]
    fn a_very_long_one_is_taken_whole_and_leaves_no_large_memory_behind() {
        let mut buffer = Buffer::default();
        let text = written(&mut buffer, LONGEST_COPIED + 1);
        assert_eq!(buffer.take(), None);
        assert_eq!(buffer.take_whole(), text);
        written(&mut buffer, LONGEST_COPIED * 2);
        buffer.clear();
        assert!(buffer.bytes.len() + buffer.aside.len() <= LONGEST_COPIED);
        let short = written(&mut buffer, 10);
        assert_eq!(buffer.take_whole(), short);
    }

    #[test]
    fn segments_are_used_again_and_only_when_nobody_reads_them() {
        let mut buffer = Buffer::default();
        let mut places = std::collections::HashSet::new();
        let mut waiting = VecDeque::new();
        written(&mut buffer, 1000);
        let stays = (buffer.take().unwrap(), written(&mut Buffer::default(), 1000));
        for _ in 0..10_000 {
            let text = written(&mut buffer, 1000);
            let payload = buffer.take().unwrap();
            places.insert(payload.as_ptr() as usize / SEGMENT);
            waiting.push_back((payload, text));
            if waiting.len() > 100 {
                let (payload, text) = waiting.pop_front().unwrap();
                assert_eq!(payload, text);
            }
        }
        // What waits takes two segments, what stays another one, and one is being filled; ten megabytes went through. A
        // segment may lie across a boundary.
        assert!(places.len() <= 2 * 5, "{}", places.len());
        assert_eq!(stays.0, stays.1);
    }

    #[test]
    fn what_is_held_is_little_more_than_what_was_written() {
        let mut buffer = Buffer::default();
        let (mut held, mut segments, mut alone, mut rest) = (Vec::new(), 0, 0, 0);
        for number in 0..2000 {
            // As everyday events are: many short ones, some long.
            let size = if number % 20 == 0 { 30_000 } else { 400 + (number * 7919) % 7000 };
            written(&mut buffer, size);
            held.push(buffer.take().unwrap());
            let now = buffer.bytes.len();
            segments += usize::from(now > rest);
            alone += if now == rest { size } else { 0 };
            rest = now;
        }
        let payloads: usize = held.iter().map(Bytes::len).sum();
        assert!(segments * SEGMENT + alone <= payloads * 105 / 100, "{segments} {alone} {payloads}");
    }

    #[test]
    fn a_payload_that_becomes_its_own_lets_its_segment_go() {
        let mut buffer = Buffer::default();
        written(&mut buffer, 100);
        let mut payload = buffer.take().unwrap();
        let (before, text) = (payload.as_ptr(), payload.to_vec());
        own(&mut payload);
        assert!(payload == text && payload.as_ptr() != before && payload.is_unique());
    }
}
