//! Kafka's wire format as the load generator needs it: whole requests as bytes that are sent again and again, and the few
//! fields of responses that matter, read without decoding the rest.
//!
//! Topics are named, in the highest versions that have names, so that a request is the same for every system under test.

pub mod fetch;
pub mod produce;
pub mod transactions;

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

/// What the load generator calls itself.
const CLIENT_ID: &str = "odradek-bench";
/// Where the correlation id is in a request with its length.
const CORRELATION_ID: std::ops::Range<usize> = 8..12;

/// Text of the protocol.
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A request with its length and header.
///
/// # Errors
/// The request does not fit the version.
pub fn encode<R: Request>(version: i16, correlation_id: i32, request: &R) -> Result<Vec<u8>> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(text(CLIENT_ID)));
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    header.encode(&mut frame, R::header_version(version))?;
    request.encode(&mut frame, version)?;
    let length = i32::try_from(frame.len() - 4).context("a request has less than 2 GiB")?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.to_vec())
}

/// Stamps a request that [`encode`] made.
pub fn set_correlation_id(request: &mut [u8], correlation_id: i32) {
    request[CORRELATION_ID].copy_from_slice(&correlation_id.to_be_bytes());
}

/// The response in a frame without its length.
///
/// # Errors
/// The bytes are no such response.
pub fn decode<R: Request>(version: i16, frame: Bytes) -> Result<R::Response> {
    let api = ApiKey::try_from(R::KEY).map_err(|()| anyhow::anyhow!("{} is no API key", R::KEY))?;
    let mut frame = frame;
    let header_version = <R::Response as HeaderVersion>::header_version(version);
    ResponseHeader::decode(&mut frame, header_version)?;
    let response =
        R::Response::decode(&mut frame, version).with_context(|| format!("the answer to {api:?}"))?;
    Ok(response)
}

/// Reads fields one after another.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        if self.bytes.len() < count {
            bail!("a response ends {} bytes too early", count - self.bytes.len());
        }
        let (taken, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were asked for"))
    }

    /// A 16-bit integer.
    pub fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// A 32-bit integer.
    pub fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// A 64-bit integer.
    pub fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// An unsigned varint.
    pub fn varint(&mut self) -> Result<usize> {
        let mut value = 0_usize;
        for shift in (0..35).step_by(7) {
            let byte = self.array::<1>()?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("a varint of a response is too long")
    }

    /// Elements of a compact array; none of a null one.
    pub fn compact_count(&mut self) -> Result<usize> {
        Ok(self.varint()?.saturating_sub(1))
    }

    /// Compact bytes or a compact string; empty if null.
    pub fn compact_bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.compact_count()?;
        self.take(length)
    }

    /// Passes over tagged fields.
    pub fn skip_tagged_fields(&mut self) -> Result<()> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = self.varint()?;
            self.take(length)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ApiVersionsRequest;

    #[test]
    fn a_request_carries_its_length_and_the_correlation_id_it_was_stamped_with() {
        let mut request = encode(3, 7, &ApiVersionsRequest::default()).unwrap();
        let length = i32::from_be_bytes(request[..4].try_into().unwrap());
        assert_eq!(usize::try_from(length).unwrap(), request.len() - 4);
        set_correlation_id(&mut request, 0x0102_0304);
        let mut body = Bytes::from(request.split_off(4));
        let header = RequestHeader::decode(&mut body, ApiVersionsRequest::header_version(3)).unwrap();
        assert_eq!(header.correlation_id, 0x0102_0304);
        assert_eq!(header.client_id.unwrap().as_str(), CLIENT_ID);
    }

    #[test]
    fn fields_end_where_the_bytes_end() {
        let mut reader = Reader::new(&[0x81, 0x01, 0x03, b'a', b'b', 0x01, 0x05, 0x01, 0xff, 0x00]);
        assert_eq!(reader.varint().unwrap(), 129);
        assert_eq!(reader.compact_bytes().unwrap(), b"ab");
        reader.skip_tagged_fields().unwrap();
        assert!(reader.i16().is_err());
    }
}
