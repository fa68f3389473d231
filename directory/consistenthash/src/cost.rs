//! What a key costs at a node: −log₂ of a hash, in Q32 fixed point.
//!
//! ```text
//! xxh3(node) ^ xxh3(key) ─fmix64─▶ h ─▶ cost = 64·2³² − log₂(h)·2³²
//!                                       log₂(h): place of the top bit, and 10 bits by LOG2
//! ```

/// 2¹⁰ segments: the table stays within 8 KiB of first-level cache, and the chord is off by at most
/// 2⁻²⁰ ÷ (8 ln 2) = 1.8·10⁻⁷, far below what shows in a node's share.
const SEGMENT_BITS: u32 = 10;
const SEGMENTS: usize = 1 << SEGMENT_BITS;

/// `LOG2[i]` = log₂(1 + i/1024)·2³², rounded to nearest.
static LOG2: [u64; SEGMENTS + 1] = log2_table();

/// −log₂(h/2⁶⁴)·2³² for the hash `h` of (node, key): in 1..=2³⁸, falling with `h`. Zero counts as 1.
pub(crate) fn cost(h: u64) -> u64 {
    let h = h.max(1);
    let zeros = h.leading_zeros();
    // 1.fff… with its top bit at bit 63.
    let mantissa = h << zeros;
    let segment = (mantissa >> (63 - SEGMENT_BITS)) as usize & (SEGMENTS - 1);
    let within = (mantissa >> (31 - SEGMENT_BITS)) & 0xFFFF_FFFF;
    let slope = LOG2[segment + 1] - LOG2[segment];
    let fraction = LOG2[segment] + ((slope * within) >> 32);
    ((u64::from(zeros) + 1) << 32) - fraction
}

/// The finaliser of MurmurHash3 (Appleby): a bijection in which each input bit moves every output bit.
pub(crate) fn fmix64(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    value ^= value >> 33;
    value = value.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    value ^ value >> 33
}

const fn log2_table() -> [u64; SEGMENTS + 1] {
    let mut table = [0; SEGMENTS + 1];
    let mut i = 0;
    while i < SEGMENTS {
        table[i] = log2_q32((SEGMENTS + i) as u64);
        i += 1;
    }
    table[SEGMENTS] = 1 << 32;
    table
}

/// log₂(`numerator`/1024) of a number in [1, 2) in Q32, by repeated squaring: the square of 2^x is
/// 2^2x, so each squaring that passes 2 yields one more bit of x. Bit 33 rounds.
const fn log2_q32(numerator: u64) -> u64 {
    let mut power = numerator << (63 - SEGMENT_BITS);
    let mut bits = 0;
    let mut taken = 0;
    while taken < 33 {
        let square = power as u128 * power as u128;
        let passed = (square >> 127) as u64;
        power = (square >> (63 + passed)) as u64;
        bits = bits << 1 | passed;
        taken += 1;
    }
    (bits + 1) >> 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: f64 = 4_294_967_296.0;

    /// No entry is near a tie of rounding, so that any double-precision log₂ builds the same table.
    #[test]
    fn the_table_is_what_doubles_round_to() {
        for (i, &entry) in LOG2.iter().enumerate() {
            let exact = (1.0 + i as f64 / SEGMENTS as f64).log2() * ONE;
            assert_eq!(entry, exact.round() as u64, "entry {i}");
            assert!(
                (exact - exact.floor() - 0.5).abs() > 1e-4,
                "entry {i} is near a tie"
            );
        }
    }

    #[test]
    fn the_table_has_the_digest_that_the_crate_documentation_gives() {
        let bytes: Vec<u8> = LOG2.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        let digest = format!("words is `{:#018x}`.", crate::xxh3::xxh3_64(&bytes));
        assert!(include_str!("lib.rs").contains(&digest), "{digest}");
    }

    #[test]
    fn the_cost_is_the_logarithm_to_two_in_ten_million() {
        let mut h = 1u64;
        for _ in 0..100_000 {
            h = fmix64(h);
            let exact = 64.0 - (h as f64).log2();
            let error = cost(h) as f64 / ONE - exact;
            assert!(error.abs() < 2e-7, "{h:#x}: {error:e}");
        }
    }

    #[test]
    fn the_cost_falls_with_the_hash_and_is_never_zero() {
        assert_eq!(cost(0), 64 << 32);
        assert_eq!(cost(1), 64 << 32);
        assert_eq!(cost(1 << 63), 1 << 32);
        assert_eq!(cost(u64::MAX), 1);
        let mut h = 7u64;
        for _ in 0..100_000 {
            h = fmix64(h);
            for step in [1, 1 << 20, 1 << 40, 1 << 53] {
                assert!(
                    cost(h.saturating_add(step)) <= cost(h),
                    "{h:#x} + {step:#x}"
                );
            }
        }
    }

    #[test]
    fn the_finaliser_is_that_of_murmur3() {
        assert_eq!(fmix64(0), 0);
        assert_eq!(fmix64(1), 0xB456_BCFC_34C2_CB2C);
    }
}
