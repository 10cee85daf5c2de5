//! Kafka's text form of ids: 16 bytes in unpadded URL-safe base64.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

/// Kafka's text of an id.
pub fn format(id: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(id.as_bytes())
}

/// Reads Kafka's text of an id.
pub fn parse(text: &str) -> Result<Uuid, String> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|error| format!("`{text}` is not a base64-encoded UUID: {error}"))?;
    let length = bytes.len();
    Uuid::from_slice(&bytes).map_err(|_| {
        format!("`{text}` decodes to {length} bytes, but a base64-encoded UUID has 16; `odradek storage random-uuid` prints one")
    })
}

/// A new id. Its text never starts with a dash, so that it can stand on a command line, and it is none of the
/// two ids that Kafka keeps for itself.
pub fn random() -> Uuid {
    loop {
        let id = Uuid::new_v4();
        if id.as_u128() > 1 && !format(id).starts_with('-') {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = random();
        assert_eq!(parse(&format(id)), Ok(id));
        assert_eq!(format(Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
        assert!(parse("YWE").expect_err("2 bytes").contains("decodes to 2 bytes"));
        assert!(parse("?").is_err());
    }
}
