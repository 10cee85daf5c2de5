//! Zig-zag varints of the record format, from a slice and into a buffer.
//!
//! Refuses what does not fit the type; accepts overlong zero bytes within the type's byte limit, as Java does.

/// Reads a zig-zag varint of 32 bits (at most 5 bytes) and moves `bytes` past it; `None` if malformed or cut off.
pub(super) fn read_i32(bytes: &mut &[u8]) -> Option<i32> {
    let raw = u32::try_from(read_raw::<5>(bytes)?).ok()?;
    Some((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Reads a zig-zag varint of 64 bits (at most 10 bytes) and moves `bytes` past it; `None` if malformed or cut off.
pub(super) fn read_i64(bytes: &mut &[u8]) -> Option<i64> {
    read_raw::<10>(bytes).map(unzigzag)
}

/// Reads a varint that is a length, at least 0; `None` also if it is negative.
pub(super) fn read_length(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(read_i32(bytes)?).ok()
}

/// The signed number that zig-zag wrote as `raw`.
pub(super) fn unzigzag(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}

/// The eight bytes of `bytes` from `at` on, the first in the lowest bits.
#[inline(always)]
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk::<8>()
        .map(|word| u64::from_le_bytes(*word))
}

/// The varint at the low end of `word`, if it has one to three bytes, as nearly all of a record do, and how many.
#[inline(always)]
pub(super) fn short(word: u64) -> Option<(i32, usize)> {
    let (raw, bytes) = if word & 0x80 == 0 {
        (word & 0x7f, 1)
    } else if word & 0x8000 == 0 {
        ((word & 0x7f) | (word >> 1 & 0x3f80), 2)
    } else if word & 0x80_0000 == 0 {
        ((word & 0x7f) | (word >> 1 & 0x3f80) | (word >> 2 & 0x1f_c000), 3)
    } else {
        return None;
    };
    let raw = raw as u32;
    Some(((raw >> 1) as i32 ^ -((raw & 1) as i32), bytes))
}

#[inline]
fn read_raw<const MAX: usize>(bytes: &mut &[u8]) -> Option<u64> {
    let mut raw = 0u64;
    for (at, &byte) in bytes.iter().take(MAX).enumerate() {
        let part = u64::from(byte & 0x7f);
        if at == 9 && part > 1 {
            return None;
        }
        raw |= part << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some(raw);
        }
    }
    None
}

/// Appends `value` as a zig-zag varint.
pub(super) fn write_i32(out: &mut Vec<u8>, value: i32) {
    write_raw(out, u64::from(((value << 1) ^ (value >> 31)) as u32));
}

/// Appends `value` as a zig-zag varint.
pub(super) fn write_i64(out: &mut Vec<u8>, value: i64) {
    write_raw(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn write_raw(out: &mut Vec<u8>, mut raw: u64) {
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn i32_round_trips(value: i32) {
            let mut out = Vec::new();
            write_i32(&mut out, value);
            let mut rest = out.as_slice();
            prop_assert_eq!(read_i32(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn i64_round_trips(value: i64) {
            let mut out = Vec::new();
            write_i64(&mut out, value);
            let mut rest = out.as_slice();
            prop_assert_eq!(read_i64(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn too_long_is_refused() {
        assert_eq!(read_i32(&mut [0xff; 6].as_slice()), None);
        assert_eq!(read_i32(&mut [0xff, 0xff, 0xff, 0xff, 0x7f].as_slice()), None);
        assert_eq!(read_i64(&mut [0xff; 11].as_slice()), None);
        assert_eq!(read_i64(&mut [0x80, 0x80].as_slice()), None);
        assert_eq!(read_i32(&mut [].as_slice()), None);
    }
}
