//! CRC-32C over bytes that lie together, by whichever library is the faster one on this processor.
//!
//! Where there are carry-less multiplications of 512 bits `crc-fast` takes less than half the time of `crc32c`, which is ahead
//! everywhere else (docs/performance.md). Does not go on with the checksum of earlier bytes: that is `crc32c::crc32c_append`.

/// The checksum of `bytes`, as a batch's header holds it.
#[inline]
pub fn checksum(bytes: &[u8]) -> u32 {
    if has_wide_multiplication() {
        crc_fast::crc32_iscsi(bytes)
    } else {
        crc32c::crc32c(bytes)
    }
}

/// Asked once: the answer is kept by the standard library.
#[cfg(target_arch = "x86_64")]
fn has_wide_multiplication() -> bool {
    is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("vpclmulqdq")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_wide_multiplication() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_libraries_agree_on_every_length_and_alignment() {
        let bytes: Vec<u8> = (0..5000u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        assert_eq!(
            checksum(b"123456789"),
            0xe306_9283,
            "the check value of the catalogue"
        );
        for from in 0..70 {
            for length in (0..600).chain([1023, 1024, 1025, 4095, 4096, 4900]) {
                let part = &bytes[from..from + length];
                assert_eq!(checksum(part), crc32c::crc32c(part), "{length} bytes from {from}");
                assert_eq!(
                    crc_fast::crc32_iscsi(part),
                    crc32c::crc32c(part),
                    "{length} bytes from {from}"
                );
            }
        }
    }
}
