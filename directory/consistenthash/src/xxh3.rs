//! XXH3-64 with seed 0 and the default secret, after the specification: xxHash fast digest
//! algorithm, version 0.2.0, "XXH3 Algorithm Description" (`doc/xxhash_spec.md` of Cyan4973/xxHash).
//!
//! ```text
//! length  0 │ 1–3 │ 4–8 │ 9–16 │ 17–128 │ 129–240 │ 241…
//!         └── one mix of the ends ──┘ └ 16-byte mixes ┘ └ 64-byte stripes in 1,024-byte blocks
//! ```
//!
//! The platform's byte order and vector units play no part: words are read little-endian, one way.

const PRIME32_1: u64 = 0x9E37_79B1;
const PRIME32_2: u64 = 0x85EB_CA77;
const PRIME32_3: u64 = 0xC2B2_AE3D;
const PRIME64_1: u64 = 0x9E37_79B1_85EB_CA87;
const PRIME64_2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const PRIME64_3: u64 = 0x1656_67B1_9E37_79F9;
const PRIME64_4: u64 = 0x85EB_CA77_C2B2_AE63;
const PRIME64_5: u64 = 0x27D4_EB2F_1656_67C5;
const PRIME_MX1: u64 = 0x1656_6791_9E37_79F9;
const PRIME_MX2: u64 = 0x9FB2_1C65_1E98_DF25;

#[rustfmt::skip]
const SECRET: [u8; 192] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
];

const STRIPE_BYTES: usize = 64;
/// Each stripe of a block reads the secret 8 bytes further on.
const SECRET_STEP_BYTES: usize = 8;
const STRIPES_PER_BLOCK: usize = (SECRET.len() - STRIPE_BYTES) / SECRET_STEP_BYTES;
const BLOCK_BYTES: usize = STRIPE_BYTES * STRIPES_PER_BLOCK;

/// The 64-bit hash of `input`.
pub(crate) fn xxh3_64(input: &[u8]) -> u64 {
    match input.len() {
        0 => avalanche_xxh64(word(&SECRET, 56) ^ word(&SECRET, 64)),
        1..=3 => hash_1_to_3(input),
        4..=8 => hash_4_to_8(input),
        9..=16 => hash_9_to_16(input),
        17..=128 => hash_17_to_128(input),
        129..=240 => hash_129_to_240(input),
        _ => hash_long(input),
    }
}

fn hash_1_to_3(input: &[u8]) -> u64 {
    let len = input.len();
    let combined = u32::from(input[len - 1])
        | (len as u32) << 8
        | u32::from(input[0]) << 16
        | u32::from(input[len >> 1]) << 24;
    avalanche_xxh64(u64::from(half(&SECRET, 0) ^ half(&SECRET, 4)) ^ u64::from(combined))
}

fn hash_4_to_8(input: &[u8]) -> u64 {
    let len = input.len() as u64;
    let first = u64::from(half(input, 0));
    let last = u64::from(half(input, input.len() - 4));
    let mut value = word(&SECRET, 8) ^ word(&SECRET, 16) ^ (last | first << 32);
    value ^= value.rotate_left(49) ^ value.rotate_left(24);
    value = value.wrapping_mul(PRIME_MX2);
    value ^= (value >> 35).wrapping_add(len);
    value = value.wrapping_mul(PRIME_MX2);
    value ^ value >> 28
}

fn hash_9_to_16(input: &[u8]) -> u64 {
    let low = word(&SECRET, 24) ^ word(&SECRET, 32) ^ word(input, 0);
    let high = word(&SECRET, 40) ^ word(&SECRET, 48) ^ word(input, input.len() - 8);
    avalanche(
        (input.len() as u64)
            .wrapping_add(low.swap_bytes())
            .wrapping_add(high)
            .wrapping_add(fold(low, high)),
    )
}

/// From both ends towards the middle, a 16-byte mix of each at a time.
fn hash_17_to_128(input: &[u8]) -> u64 {
    let len = input.len();
    let rounds = (len - 1) / 32 + 1;
    let sum = (0..rounds).fold((len as u64).wrapping_mul(PRIME64_1), |sum, i| {
        sum.wrapping_add(mix16(&input[16 * i..], 32 * i))
            .wrapping_add(mix16(&input[len - 16 * (i + 1)..], 32 * i + 16))
    });
    avalanche(sum)
}

fn hash_129_to_240(input: &[u8]) -> u64 {
    let len = input.len();
    let mut sum = (len as u64).wrapping_mul(PRIME64_1);
    for i in 0..8 {
        sum = sum.wrapping_add(mix16(&input[16 * i..], 16 * i));
    }
    sum = avalanche(sum);
    for i in 8..len / 16 {
        sum = sum.wrapping_add(mix16(&input[16 * i..], 16 * (i - 8) + 3));
    }
    avalanche(sum.wrapping_add(mix16(&input[len - 16..], 119)))
}

fn hash_long(input: &[u8]) -> u64 {
    let len = input.len();
    let mut lanes = [
        PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1,
    ];
    // The last block is the one that holds the last byte; its stripes stop short of that byte,
    // because the last 64 bytes are taken as a stripe of their own.
    let full = (len - 1) / BLOCK_BYTES * BLOCK_BYTES;
    for block in input[..full].chunks_exact(BLOCK_BYTES) {
        accumulate_stripes(&mut lanes, block);
        scramble(&mut lanes);
    }
    accumulate_stripes(&mut lanes, &input[full..len - 1]);
    accumulate(
        &mut lanes,
        &input[len - STRIPE_BYTES..],
        SECRET.len() - STRIPE_BYTES - 7,
    );

    let merged = (0..4).fold((len as u64).wrapping_mul(PRIME64_1), |sum, i| {
        let low = lanes[2 * i] ^ word(&SECRET, 11 + 16 * i);
        let high = lanes[2 * i + 1] ^ word(&SECRET, 19 + 16 * i);
        sum.wrapping_add(fold(low, high))
    });
    avalanche(merged)
}

/// Accumulates the whole stripes of `bytes`.
fn accumulate_stripes(lanes: &mut [u64; 8], bytes: &[u8]) {
    for (i, stripe) in bytes.chunks_exact(STRIPE_BYTES).enumerate() {
        accumulate(lanes, stripe, SECRET_STEP_BYTES * i);
    }
}

fn accumulate(lanes: &mut [u64; 8], stripe: &[u8], secret_offset: usize) {
    for i in 0..8 {
        let value = word(stripe, 8 * i);
        let keyed = value ^ word(&SECRET, secret_offset + 8 * i);
        lanes[i ^ 1] = lanes[i ^ 1].wrapping_add(value);
        lanes[i] = lanes[i].wrapping_add((keyed & 0xFFFF_FFFF) * (keyed >> 32));
    }
}

fn scramble(lanes: &mut [u64; 8]) {
    for (i, lane) in lanes.iter_mut().enumerate() {
        let key = word(&SECRET, SECRET.len() - STRIPE_BYTES + 8 * i);
        *lane = (*lane ^ *lane >> 47 ^ key).wrapping_mul(PRIME32_1);
    }
}

fn mix16(input: &[u8], secret_offset: usize) -> u64 {
    fold(
        word(input, 0) ^ word(&SECRET, secret_offset),
        word(input, 8) ^ word(&SECRET, secret_offset + 8),
    )
}

/// The two halves of the 128-bit product, xored.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn avalanche(mut value: u64) -> u64 {
    value ^= value >> 37;
    value = value.wrapping_mul(PRIME_MX1);
    value ^ value >> 32
}

fn avalanche_xxh64(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(PRIME64_2);
    value ^= value >> 29;
    value = value.wrapping_mul(PRIME64_3);
    value ^ value >> 32
}

/// The little-endian word at `offset`.
fn word(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array(bytes, offset))
}

fn half(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array(bytes, offset))
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    *bytes[offset..]
        .first_chunk()
        .expect("each length class reads only within its input")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every class boundary, two whole blocks, and all lengths between.
    #[test]
    fn every_length_hashes_as_the_reference_does() {
        let bytes: Vec<u8> = (0..2_500u64)
            .map(|i| (i.wrapping_mul(PRIME64_1) >> 56) as u8)
            .collect();
        for len in 0..=bytes.len() {
            let input = &bytes[bytes.len() - len..];
            assert_eq!(
                xxh3_64(input),
                xxhash_rust::xxh3::xxh3_64(input),
                "{len} bytes"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn every_content_hashes_as_the_reference_does(
            input in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)
        ) {
            assert_eq!(xxh3_64(&input), xxhash_rust::xxh3::xxh3_64(&input));
        }
    }
}
