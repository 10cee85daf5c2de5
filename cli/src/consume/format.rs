//! How `odradek consume` writes a record, with the properties of kafka-console-consumer.sh.

use std::io::{self, Write};

use odradek_common::records::batch::{BatchHeader, TimestampType};
use odradek_common::records::record::Record;

use crate::arguments::key_value;
use crate::error::{CommandError, Outcome};

/// What a line shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineFormat {
    timestamp: bool,
    partition: bool,
    offset: bool,
    headers: bool,
    key: bool,
    value: bool,
    key_separator: String,
    line_separator: String,
    null_literal: String,
}

/// Parses a --property; the value keeps its blanks.
pub fn property(text: &str) -> Result<(String, String), String> {
    let (key, _) = key_value(text)?;
    let (_, value) = text.split_once('=').unwrap_or_default();
    Ok((key, value.to_owned()))
}

impl LineFormat {
    /// Reads the properties.
    pub fn new(properties: &[(String, String)]) -> Outcome<Self> {
        let mut format = Self {
            timestamp: false,
            partition: false,
            offset: false,
            headers: false,
            key: false,
            value: true,
            key_separator: "\t".to_owned(),
            line_separator: "\n".to_owned(),
            null_literal: "null".to_owned(),
        };
        for (key, value) in properties {
            let on = value.trim().eq_ignore_ascii_case("true");
            match key.as_str() {
                "print.timestamp" => format.timestamp = on,
                "print.partition" => format.partition = on,
                "print.offset" => format.offset = on,
                "print.headers" => format.headers = on,
                "print.key" => format.key = on,
                "print.value" => format.value = on,
                "key.separator" => format.key_separator.clone_from(value),
                "line.separator" => format.line_separator.clone_from(value),
                "null.literal" => format.null_literal.clone_from(value),
                other => {
                    return Err(CommandError::refused(format!(
                        "--property {other} is unknown; see --help"
                    )));
                }
            }
        }
        Ok(format)
    }

    /// Writes one record.
    pub fn write(
        &self,
        out: &mut impl Write,
        partition: i32,
        header: &BatchHeader,
        record: &Record<'_>,
    ) -> io::Result<()> {
        let mut fields: Vec<Vec<u8>> = Vec::new();
        if self.timestamp {
            let kind = match header.timestamp_type() {
                TimestampType::CreateTime => "CreateTime",
                TimestampType::LogAppendTime => "LogAppendTime",
            };
            fields.push(format!("{kind}:{}", record.timestamp).into_bytes());
        }
        if self.partition {
            fields.push(format!("Partition:{partition}").into_bytes());
        }
        if self.offset {
            fields.push(format!("Offset:{}", record.offset).into_bytes());
        }
        if self.headers {
            fields.push(self.headers(record));
        }
        if self.key {
            fields.push(self.field(record.key));
        }
        if self.value {
            fields.push(self.field(record.value));
        }
        out.write_all(&fields.join(self.key_separator.as_bytes()))?;
        out.write_all(self.line_separator.as_bytes())
    }

    fn field(&self, bytes: Option<&[u8]>) -> Vec<u8> {
        bytes.unwrap_or(self.null_literal.as_bytes()).to_vec()
    }

    fn headers(&self, record: &Record<'_>) -> Vec<u8> {
        if record.headers.is_empty() {
            return b"NO_HEADERS".to_vec();
        }
        let header = |header: odradek_common::records::record::Header<'_>| {
            let mut text = header.key.to_vec();
            text.push(b':');
            text.extend(self.field(header.value));
            text
        };
        record
            .headers
            .iter()
            .map(header)
            .collect::<Vec<_>>()
            .join(&b","[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek_common::records::builder::BatchBuilder;
    use odradek_common::records::record::{decoded_section, records};

    #[test]
    fn a_line_shows_what_the_properties_ask_for() {
        let mut builder = BatchBuilder::new(7);
        builder.append(1000, Some(b"k"), None, &[]);
        let batch = builder.build();
        let (header, section) = decoded_section(&batch, 1 << 20).expect("decodes");
        let record = records(&header, &section).next().expect("one").expect("reads");
        let line = |properties: &[&str]| {
            let properties: Vec<_> = properties
                .iter()
                .map(|text| property(text).expect("fits"))
                .collect();
            let mut out = Vec::new();
            let format = LineFormat::new(&properties).expect("known");
            format
                .write(&mut out, 3, &header, &record)
                .expect("a vector takes all");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(line(&[]), "null\n");
        assert_eq!(
            line(&[
                "print.timestamp=true",
                "print.partition=true",
                "print.offset=true",
                "print.headers=true",
                "print.key=true",
                "key.separator= "
            ]),
            "CreateTime:1000 Partition:3 Offset:7 NO_HEADERS k null\n"
        );
        assert_eq!(
            line(&["print.value=false", "print.key=true", "line.separator=;"]),
            "k;"
        );
        assert!(LineFormat::new(&[("x".to_owned(), String::new())]).is_err());
    }
}
