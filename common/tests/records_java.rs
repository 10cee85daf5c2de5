//! Batches that the Java client of Apache Kafka 4.3.1 wrote, one per codec, read and written byte by byte.
//!
//! Base offset 100, leader epoch 5, producer 4000, epoch 2, sequence 17, transactional; record i of three has the
//! timestamp 1700000000000 + i, the key `key-i` (null for 1), 40 `v` (null for 2) and the headers k=1 and k=null.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use odradek_common::records::batch::{BatchHeader, verify_crc};
use odradek_common::records::builder::BatchBuilder;
use odradek_common::records::compression::Compression;
use odradek_common::records::record::{Header, decoded_section, records};
use odradek_common::records::validate::recompress;

const NONE: &str = "\
    0000000000000064000000b500000005020baa1b1d0010000000020000018bcfe568000000018bcfe568020000000000000f\
    a000020000001100000003740000000a6b65792d305076767676767676767676767676767676767676767676767676767676\
    76767676767676767676767604026b0231026b016a0002020150767676767676767676767676767676767676767676767676\
    7676767676767676767676767676767604026b0231026b01240004040a6b65792d320104026b0231026b01\
";
const GZIP: &str = "\
    00000000000000640000006c000000050266e027b00011000000020000018bcfe568000000018bcfe568020000000000000f\
    a0000200000011000000031f8b08000000000000ff2b616060e0ca4eadd43508282312b030653319326533663130313192ac\
    4b858185056ca111234c080049d3a74484000000\
";
const SNAPPY: &str = "\
    00000000000000640000007c000000050234da0b5e0012000000020000018bcfe568000000018bcfe568020000000000000f\
    a00002000000110000000382534e415050590000000001000000010000003784012c740000000a6b65792d3050769a010030\
    04026b0231026b016a00020201c2360048240004040a6b65792d320104026b0231026b01\
";
const LZ4: &str = "\
    00000000000000640000007300000005020f29503b0013000000020000018bcfe568000000018bcfe568020000000000000f\
    a00002000000110000000304224d1860408233000000cf740000000a6b65792d305076010014df04026b0231026b016a0002\
    020136001e41240004047100a0320104026b0231026b0100000000\
";
const ZSTD: &str = "\
    000000000000006400000071000000050264950c9d0014000000020000018bcfe568000000018bcfe568020000000000000f\
    a00002000000110000000328b52ffd0058a401007402740000000a6b65792d30507604026b0231026b016a00020201240004\
    04320104026b0231026b010300741008b38abe122401010000\
";

const BATCHES: [(Compression, &str); 5] = [
    (Compression::None, NONE),
    (Compression::Gzip, GZIP),
    (Compression::Snappy, SNAPPY),
    (Compression::Lz4, LZ4),
    (Compression::Zstd, ZSTD),
];

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

const HEADERS: [Header<'_>; 2] = [
    Header {
        key: b"k",
        value: Some(b"1"),
    },
    Header {
        key: b"k",
        value: None,
    },
];

#[test]
fn java_batches_are_read() {
    for (codec, hex) in BATCHES {
        let batch = bytes(hex);
        verify_crc(&batch).unwrap();
        let (header, section) = decoded_section(&batch, 1 << 20).unwrap();
        assert_eq!(header.compression(), Ok(codec));
        assert_eq!(
            (
                header.base_offset,
                header.last_offset(),
                header.partition_leader_epoch
            ),
            (100, 102, 5)
        );
        assert_eq!(
            (header.producer_id, header.producer_epoch, header.last_sequence()),
            (4000, 2, 19)
        );
        assert!(header.is_transactional() && !header.is_control());
        let mut count = 0;
        for (index, record) in records(&header, &section).enumerate() {
            let record = record.unwrap();
            let key = format!("key-{index}");
            assert_eq!(record.offset, 100 + index as i64);
            assert_eq!(record.timestamp, 1_700_000_000_000 + index as i64);
            assert_eq!(record.key, (index != 1).then_some(key.as_bytes()));
            assert_eq!(record.value, (index != 2).then_some([b'v'; 40].as_slice()));
            assert_eq!(record.headers.iter().collect::<Vec<_>>(), HEADERS);
            count += 1;
        }
        assert_eq!(count, 3, "{codec:?}");
    }
}

#[test]
fn an_uncompressed_java_batch_is_rebuilt_exactly() {
    let mut builder = BatchBuilder::new(100)
        .partition_leader_epoch(5)
        .producer(4000, 2, 17)
        .transactional();
    for index in 0..3 {
        let key = format!("key-{index}");
        let key = (index != 1).then_some(key.as_bytes());
        let value = (index != 2).then_some([b'v'; 40].as_slice());
        builder.append(1_700_000_000_000 + index, key, value, &HEADERS);
    }
    assert_eq!(builder.build(), bytes(NONE));
}

#[test]
fn decompressing_a_java_batch_gives_the_uncompressed_one() {
    for (codec, hex) in BATCHES {
        assert_eq!(
            recompress(&bytes(hex), Compression::None, None, 1 << 20).unwrap(),
            bytes(NONE),
            "{codec:?}"
        );
    }
    assert_eq!(
        BatchHeader::parse(&bytes(NONE)).unwrap().size_bytes(),
        bytes(NONE).len()
    );
}
