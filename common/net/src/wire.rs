//! Headers, and messages between their bytes and the structs of kafka-protocol.
//!
//! Promises to read nothing beyond the bytes it is given and to allocate nothing a header declares. Bodies are decoded as they are:
//! the connection has checked them against their schema before.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Message, Request, StrBytes, VersionRange,
};
use odradek_common::schema::layout_version;
use thiserror::Error;

use crate::service::{PRIVATE_API_KEY_MIN, RequestFrame, ResponseFrame};

/// Bytes of a request header before the client id: API key, version, correlation id.
pub(crate) const FIXED_HEADER_BYTES: usize = 8;
/// Bytes of the length before each frame.
pub(crate) const LENGTH_BYTES: usize = 4;

/// A message that could not be written or read.
#[derive(Debug, Error)]
pub enum WireError {
    /// The struct holds a field that its version does not have.
    #[error("cannot encode {name} version {version}: {reason}")]
    Encode {
        /// Its API.
        name: String,
        /// The version asked for.
        version: i16,
        /// What kafka-protocol says.
        reason: String,
    },
    /// The bytes are no such message.
    #[error("cannot decode {name} version {version}: {reason}")]
    Decode {
        /// Its API.
        name: String,
        /// The version of the bytes.
        version: i16,
        /// What kafka-protocol says.
        reason: String,
    },
    /// The bytes go on after the message.
    #[error("{bytes} bytes are left after {name} version {version}")]
    Trailing {
        /// Its API.
        name: String,
        /// The version of the bytes.
        version: i16,
        /// How many are left.
        bytes: usize,
    },
    /// The header is cut short or malformed.
    #[error("malformed header: {0}")]
    Header(&'static str),
}

/// The API's name for people, also for keys nobody knows.
#[must_use]
pub fn api_name(api_key: i16) -> String {
    match ApiKey::try_from(api_key) {
        Ok(key) => format!("{key:?}"),
        Err(()) if api_key >= PRIVATE_API_KEY_MIN => format!("private API {api_key}"),
        Err(()) => format!("unknown API {api_key}"),
    }
}

/// The versions of an API that can be both read and answered, which is what may be advertised.
///
/// `ApiKey::valid_versions` promises more than the request decoders keep.
#[must_use]
pub fn served_versions<R: Request>() -> VersionRange {
    R::VERSIONS.intersect(&<R::Response as Message>::VERSIONS)
}

/// The version of the header in front of a request: 1, or 2 for flexible versions.
#[must_use]
pub fn request_header_version(api_key: i16, api_version: i16) -> i16 {
    match ApiKey::try_from(api_key) {
        Ok(key) => key.request_header_version(api_version),
        Err(()) => 2,
    }
}

/// The version of the header in front of a response: 0, or 1 for flexible versions other than of ApiVersions.
#[must_use]
pub fn response_header_version(api_key: i16, api_version: i16) -> i16 {
    match ApiKey::try_from(api_key) {
        Ok(key) => key.response_header_version(api_version),
        Err(()) => 1,
    }
}

/// Encodes a response with its header.
///
/// # Errors
/// A field is set that this version does not have.
pub fn encode_response<R: Encodable + HeaderVersion>(
    api_key: i16,
    api_version: i16,
    correlation_id: i32,
    response: &R,
) -> Result<ResponseFrame, WireError> {
    let failed = |reason: String| WireError::Encode {
        name: api_name(api_key),
        version: api_version,
        reason,
    };
    let size = response
        .compute_size(api_version)
        .map_err(|error| failed(error.to_string()))?;
    let mut bytes = BytesMut::with_capacity(size + LENGTH_BYTES + 1);
    put_response_header(&mut bytes, R::header_version(api_version), correlation_id);
    response
        .encode(&mut bytes, api_version)
        .map_err(|error| failed(error.to_string()))?;
    Ok(bytes.freeze().into())
}

/// The response to a request of a private API, around an opaque body.
#[must_use]
pub fn raw_response(api_key: i16, api_version: i16, correlation_id: i32, body: Bytes) -> ResponseFrame {
    let mut header = BytesMut::with_capacity(LENGTH_BYTES + 1);
    put_response_header(
        &mut header,
        response_header_version(api_key, api_version),
        correlation_id,
    );
    ResponseFrame::new(vec![header.freeze().into(), body.into()])
}

/// Decodes the body of a request.
///
/// # Errors
/// The body is no `R`, or goes on after it.
pub fn decode_request<R: Decodable>(request: &RequestFrame) -> Result<R, WireError> {
    let version = layout_version(request.api_key, request.api_version);
    decode_whole(request.api_key, version, request.body.clone())
}

/// Decodes a message and refuses bytes behind it.
pub(crate) fn decode_whole<M: Decodable>(
    api_key: i16,
    version: i16,
    mut body: Bytes,
) -> Result<M, WireError> {
    let message = M::decode(&mut body, version).map_err(|error| WireError::Decode {
        name: api_name(api_key),
        version,
        reason: error.to_string(),
    })?;
    if !body.is_empty() {
        return Err(WireError::Trailing {
            name: api_name(api_key),
            version,
            bytes: body.len(),
        });
    }
    Ok(message)
}

/// Writes a response header.
pub fn put_response_header(bytes: &mut BytesMut, header_version: i16, correlation_id: i32) {
    bytes.put_i32(correlation_id);
    if header_version >= 1 {
        bytes.put_u8(0);
    }
}

/// Writes a request header.
pub(crate) fn put_request_header(
    bytes: &mut BytesMut,
    api_key: i16,
    api_version: i16,
    correlation_id: i32,
    client_id: &str,
) {
    bytes.put_i16(api_key);
    bytes.put_i16(api_version);
    bytes.put_i32(correlation_id);
    match i16::try_from(client_id.len()) {
        Ok(length) => {
            bytes.put_i16(length);
            bytes.put_slice(client_id.as_bytes());
        }
        Err(_) => bytes.put_i16(-1),
    }
    if request_header_version(api_key, api_version) >= 2 {
        bytes.put_u8(0);
    }
}

/// A request header as read.
#[derive(Debug)]
pub(crate) struct RequestHeader {
    pub(crate) api_key: i16,
    pub(crate) api_version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) client_id: Option<StrBytes>,
}

/// Reads a request header and leaves `frame` at the body.
pub(crate) fn take_request_header(frame: &mut Bytes) -> Result<RequestHeader, WireError> {
    if frame.len() < FIXED_HEADER_BYTES + 2 {
        return Err(WireError::Header("fewer than 10 bytes"));
    }
    let api_key = frame.get_i16();
    let api_version = frame.get_i16();
    let correlation_id = frame.get_i32();
    let client_id = match frame.get_i16() {
        -1 => None,
        length => {
            let length =
                usize::try_from(length).map_err(|_| WireError::Header("client id of negative length"))?;
            if length > frame.len() {
                return Err(WireError::Header("client id longer than the frame"));
            }
            let text = StrBytes::try_from(frame.split_to(length));
            Some(text.map_err(|_| WireError::Header("client id is not UTF-8"))?)
        }
    };
    if request_header_version(api_key, api_version) >= 2 {
        skip_tagged_fields(frame)?;
    }
    Ok(RequestHeader {
        api_key,
        api_version,
        correlation_id,
        client_id,
    })
}

/// Reads a response header and leaves `frame` at the body.
pub(crate) fn take_response_header(frame: &mut Bytes, header_version: i16) -> Result<i32, WireError> {
    if frame.len() < 4 {
        return Err(WireError::Header("fewer than 4 bytes"));
    }
    let correlation_id = frame.get_i32();
    if header_version >= 1 {
        skip_tagged_fields(frame)?;
    }
    Ok(correlation_id)
}

/// A response that has arrived, or not yet.
pub(crate) enum Arrived {
    /// All of it.
    Frame(Bytes),
    /// It lacks so many bytes.
    Missing(usize),
}

/// Takes a response from what has arrived.
///
/// # Errors
/// The response is longer than `size_max`, or of negative length.
pub(crate) fn take_frame(bytes: &mut BytesMut, size_max: usize) -> Result<Arrived, String> {
    let Some(prefix) = bytes.first_chunk::<LENGTH_BYTES>() else {
        return Ok(Arrived::Missing(LENGTH_BYTES - bytes.len()));
    };
    let declared = i32::from_be_bytes(*prefix);
    let size = usize::try_from(declared).ok().filter(|size| *size <= size_max);
    let Some(size) = size else {
        return Err(match other_protocol(*prefix) {
            Some(words) => words.to_owned(),
            None => format!("response of {declared} bytes exceeds {size_max}"),
        });
    };
    if bytes.len() < LENGTH_BYTES + size {
        return Ok(Arrived::Missing(LENGTH_BYTES + size - bytes.len()));
    }
    bytes.advance(LENGTH_BYTES);
    Ok(Arrived::Frame(bytes.split_to(size).freeze()))
}

/// What a peer speaks whose answer would be absurdly long; for whoever named the wrong port.
fn other_protocol(prefix: [u8; LENGTH_BYTES]) -> Option<&'static str> {
    /// The content types of TLS that a server may begin with: alert and handshake.
    const TLS: std::ops::RangeInclusive<u8> = 0x15..=0x16;
    const TLS_MAJOR_VERSION: u8 = 3;
    if prefix == *b"HTTP" {
        return Some(
            "it answers in HTTP, as a metrics listener does, and not in Kafka's protocol; name a node's Kafka listener",
        );
    }
    if TLS.contains(&prefix[0]) && prefix[1] == TLS_MAJOR_VERSION {
        return Some("it answers in TLS, which this version does not have");
    }
    None
}

fn skip_tagged_fields(frame: &mut Bytes) -> Result<(), WireError> {
    for _ in 0..take_unsigned_varint(frame)? {
        take_unsigned_varint(frame)?;
        let size = take_unsigned_varint(frame)?;
        let size = usize::try_from(size).map_err(|_| WireError::Header("tagged field too long"))?;
        if size > frame.len() {
            return Err(WireError::Header("tagged field longer than the frame"));
        }
        frame.advance(size);
    }
    Ok(())
}

fn take_unsigned_varint(frame: &mut Bytes) -> Result<u32, WireError> {
    let mut value = 0_u32;
    for shift in [0, 7, 14, 21, 28] {
        if frame.is_empty() {
            return Err(WireError::Header("cut inside a varint"));
        }
        let byte = frame.get_u8();
        if shift == 28 && byte > 0x0f {
            break;
        }
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(WireError::Header("varint of more than 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Segment;

    #[test]
    fn header_of_a_flexible_request_survives_the_round_trip() {
        let mut bytes = BytesMut::new();
        put_request_header(&mut bytes, ApiKey::Metadata as i16, 12, 7, "me");
        bytes.put_slice(b"body");
        let mut frame = bytes.freeze();
        let header = take_request_header(&mut frame).unwrap();
        assert_eq!(
            (header.api_key, header.api_version, header.correlation_id),
            (3, 12, 7)
        );
        assert_eq!(header.client_id.as_deref(), Some("me"));
        assert_eq!(&frame[..], b"body");
    }

    #[test]
    fn a_peer_that_speaks_another_protocol_is_told_of_as_such() {
        let refused = |bytes: &[u8]| match take_frame(&mut BytesMut::from(bytes), 128 << 20) {
            Err(reason) => reason,
            Ok(_) => panic!("{bytes:?} was taken"),
        };
        assert!(refused(b"HTTP/1.1 400 Bad Request\r\n\r\n").contains("in HTTP, as a metrics listener does"));
        assert!(refused(&[0x15, 3, 3, 0, 2, 2, 70]).contains("in TLS"));
        assert!(refused(&[0x20, 3, 3, 0]).contains("bytes exceeds"));
    }

    #[test]
    fn every_cut_of_a_header_is_an_error_and_no_panic() {
        let mut bytes = BytesMut::new();
        put_request_header(&mut bytes, ApiKey::Metadata as i16, 12, 7, "me");
        let frame = bytes.freeze();
        for end in 0..frame.len() {
            assert!(
                take_request_header(&mut frame.slice(..end)).is_err(),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn varints_of_more_than_32_bits_are_refused() {
        assert!(take_unsigned_varint(&mut Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x10])).is_err());
        assert_eq!(
            take_unsigned_varint(&mut Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f])).unwrap(),
            u32::MAX
        );
    }

    #[test]
    fn api_versions_is_answered_without_tagged_fields_in_the_header() {
        let response = kafka_protocol::messages::ApiVersionsResponse::default();
        let frame = encode_response(18, 3, 9, &response).unwrap();
        let Segment::Bytes(mut bytes) = frame.segments[0].clone() else {
            panic!("a response without records is in memory");
        };
        assert_eq!(take_response_header(&mut bytes, 0).unwrap(), 9);
        assert!(decode_whole::<kafka_protocol::messages::ApiVersionsResponse>(18, 3, bytes).is_ok());
    }
}
