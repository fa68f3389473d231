//! Bytes to frames and back: variable-length integers, a checked reader, and the splitter that
//! cuts a stream into frames.
//!
//! ```text
//!  stream or datagram:  ┌─ length ─┬──── frame ────┬─ length ─┬─ frame …
//!                       │ varint   │ type u8, body │
//! ```
//!
//! Lengths are the variable-length integers of QUIC (RFC 9000, section 16); every other number is
//! of fixed width and big-endian. A length is checked against its limit before anything is
//! allocated for it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::{Error, ErrorCode};
use crate::limits::FRAME_BYTES_MAX;

/// Appends `value` in the shortest form. `value` is a frame length, hence below 2³⁰.
pub fn put_varint(out: &mut impl BufMut, value: u32) {
    match value {
        0..0x40 => out.put_u8(value as u8),
        0x40..0x4000 => out.put_u16(0x4000 | value as u16),
        _ => out.put_u32(0x8000_0000 | value),
    }
}

/// How many bytes [`put_varint`] writes.
#[must_use]
pub const fn varint_len(value: u32) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        _ => 4,
    }
}

/// A varint at the front of `bytes`: its value and length, or `None` while bytes are missing.
fn peek_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1 << (first >> 6);
    let rest = bytes.get(1..len)?;
    let start = u64::from(first & 0x3f);
    Some((
        rest.iter()
            .fold(start, |value, byte| value << 8 | u64::from(*byte)),
        len,
    ))
}

/// Reads fixed-width fields off the front of a frame. Running out is a `MalformedFrame`.
#[derive(Debug)]
pub struct Reader {
    bytes: Bytes,
}

impl Reader {
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    fn need(&self, count: usize, field: &'static str) -> Result<(), Error> {
        if self.bytes.len() < count {
            return Err(Error::new(
                ErrorCode::MalformedFrame,
                format!(
                    "the frame ends inside {field}: {count} bytes needed, {} left",
                    self.bytes.len()
                ),
            ));
        }
        Ok(())
    }

    pub fn u8(&mut self, field: &'static str) -> Result<u8, Error> {
        self.need(1, field)?;
        Ok(self.bytes.get_u8())
    }

    pub fn u16(&mut self, field: &'static str) -> Result<u16, Error> {
        self.need(2, field)?;
        Ok(self.bytes.get_u16())
    }

    pub fn u32(&mut self, field: &'static str) -> Result<u32, Error> {
        self.need(4, field)?;
        Ok(self.bytes.get_u32())
    }

    pub fn u64(&mut self, field: &'static str) -> Result<u64, Error> {
        self.need(8, field)?;
        Ok(self.bytes.get_u64())
    }

    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Error> {
        self.need(N, field)?;
        let mut out = [0; N];
        self.bytes.copy_to_slice(&mut out);
        Ok(out)
    }

    /// What is left, without a copy.
    #[must_use]
    pub fn rest(self) -> Bytes {
        self.bytes
    }

    /// `MalformedFrame` unless everything was read.
    pub fn end(self) -> Result<(), Error> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::MalformedFrame,
            format!("{} bytes after the end of the frame", self.bytes.len()),
        ))
    }
}

/// Cuts the chunks of one stream into frames. A frame that lies within one chunk is sliced out of
/// it; only one that spans chunks is copied together, once, however small the chunks are. Holds at
/// most one partial frame.
#[derive(Debug, Default)]
pub struct FrameSplitter {
    chunk: Bytes,
    partial: BytesMut,
}

impl FrameSplitter {
    /// Takes the stream's next chunk. Call [`Self::next_frame`] until it yields `None` before the next.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(
            self.chunk.is_empty(),
            "frames were left in the previous chunk"
        );
        if self.partial.is_empty() {
            self.chunk = chunk;
        } else {
            self.partial.extend_from_slice(&chunk);
        }
    }

    /// The next whole frame, its length prefix taken off; `FrameTooLarge` or `MalformedFrame` when
    /// the length cannot be one.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, Error> {
        if !self.partial.is_empty() {
            if frame_bounds(&self.partial)?.is_none() {
                return Ok(None);
            }
            self.chunk = self.partial.split().freeze();
        }
        let frame = take_frame(&mut self.chunk)?;
        if frame.is_none() {
            self.partial.extend_from_slice(&self.chunk);
            self.chunk.clear();
        }
        Ok(frame)
    }

    /// The stream ended: `TruncatedFrame` if it did so inside a frame.
    pub fn finish(&self) -> Result<(), Error> {
        match self.partial.len() + self.chunk.len() {
            0 => Ok(()),
            left => Err(Error::new(
                ErrorCode::TruncatedFrame,
                format!("the stream ended {left} bytes into a frame"),
            )),
        }
    }
}

/// The frames of one datagram, in order.
pub fn split_datagram(mut datagram: Bytes) -> impl Iterator<Item = Result<Bytes, Error>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let frame = take_frame(&mut datagram).and_then(|frame| {
            frame.ok_or_else(|| {
                Error::new(
                    ErrorCode::TruncatedFrame,
                    "the datagram ends inside a frame",
                )
            })
        });
        if frame.is_err() {
            datagram.clear();
        }
        Some(frame)
    })
}

fn take_frame(bytes: &mut Bytes) -> Result<Option<Bytes>, Error> {
    Ok(frame_bounds(bytes)?.map(|(prefix, len)| {
        bytes.advance(prefix);
        bytes.split_to(len)
    }))
}

/// How long the length prefix and the frame at the front of `bytes` are, if all of both is there.
fn frame_bounds(bytes: &[u8]) -> Result<Option<(usize, usize)>, Error> {
    let Some((len, prefix)) = peek_varint(bytes) else {
        return Ok(None);
    };
    if len == 0 {
        return Err(Error::new(ErrorCode::MalformedFrame, "a frame has no type"));
    }
    if len > FRAME_BYTES_MAX as u64 {
        return Err(Error::new(
            ErrorCode::FrameTooLarge,
            format!("a frame of {len} bytes is over the limit of {FRAME_BYTES_MAX}"),
        ));
    }
    let len = len as usize;
    Ok((bytes.len() >= prefix + len).then_some((prefix, len)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in frames {
            put_varint(&mut out, frame.len() as u32);
            out.extend_from_slice(frame);
        }
        out
    }

    /// The examples of RFC 9000, appendix A.1, that a frame length can be.
    #[test]
    fn varints_are_those_of_rfc_9000() {
        for (value, hex) in [
            (37, &[0x25][..]),
            (15_293, &[0x7b, 0xbd]),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, hex);
            assert_eq!(varint_len(value), hex.len());
            assert_eq!(peek_varint(hex), Some((u64::from(value), hex.len())));
        }
        assert_eq!(
            peek_varint(&[0x40, 0x25]),
            Some((37, 2)),
            "longer forms are read too"
        );
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_arrive() {
        let mut splitter = FrameSplitter::default();
        splitter.push(Bytes::from_static(&[0xff; 8]));
        assert_eq!(
            splitter.next_frame().map_err(|e| e.code()),
            Err(ErrorCode::FrameTooLarge)
        );
        let mut empty = FrameSplitter::default();
        empty.push(Bytes::from_static(&[0]));
        assert_eq!(
            empty.next_frame().map_err(|e| e.code()),
            Err(ErrorCode::MalformedFrame)
        );
    }

    #[test]
    fn a_stream_or_datagram_that_ends_inside_a_frame_is_truncated() {
        let mut splitter = FrameSplitter::default();
        splitter.push(Bytes::from_static(&[3, 1, 2]));
        assert_eq!(splitter.next_frame(), Ok(None));
        assert_eq!(
            splitter.finish().map_err(|e| e.code()),
            Err(ErrorCode::TruncatedFrame)
        );
        let codes: Vec<_> = split_datagram(Bytes::from_static(&[1, 7, 3, 1, 2]))
            .map(|frame| frame.map_err(|e| e.code()))
            .collect();
        assert_eq!(
            codes,
            [Ok(Bytes::from_static(&[7])), Err(ErrorCode::TruncatedFrame)]
        );
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..20),
            cuts in prop::collection::vec(1_usize..64, 1..64),
        ) {
            let bytes = framed(&frames);
            let mut splitter = FrameSplitter::default();
            let (mut seen, mut at, mut turn) = (Vec::new(), 0, 0);
            while at < bytes.len() {
                let end = (at + cuts[turn % cuts.len()]).min(bytes.len());
                splitter.push(Bytes::copy_from_slice(&bytes[at..end]));
                while let Some(frame) = splitter.next_frame().map_err(|e| TestCaseError::fail(e.to_string()))? {
                    seen.push(frame.to_vec());
                }
                (at, turn) = (end, turn + 1);
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(splitter.finish().is_ok());
        }

        #[test]
        fn hostile_bytes_end_in_an_error_or_wait_but_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut splitter = FrameSplitter::default();
            splitter.push(Bytes::from(bytes.clone()));
            while let Ok(Some(_)) = splitter.next_frame() {}
            let _ = split_datagram(Bytes::from(bytes)).count();
        }
    }
}
