//! Java .properties files, read exactly as `java.util.Properties` reads them.
//!
//! Keeps every entry in file order with the line it starts on; the caller decides what a duplicate means (in Java
//! the last one wins). Never fails except for a malformed `\u` escape, as in Java.

/// One key and value of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// The key, with its escapes resolved.
    pub key: String,
    /// The value, with its escapes resolved and its trailing blanks kept.
    pub value: String,
    /// The line that the entry starts on, counted from 1.
    pub line: usize,
}

/// A `\u` that is not followed by four hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: \\u must be followed by four hexadecimal digits")]
pub struct MalformedEscape {
    /// The line that the entry starts on, counted from 1.
    pub line: usize,
}

/// Reads all entries of a .properties text.
pub fn parse(text: &str) -> Result<Vec<Property>, MalformedEscape> {
    let mut properties = Vec::new();
    for LogicalLine { text, line } in logical_lines(text) {
        let (key, value) = split(&text);
        let unescaped = |part: &str| unescape(part).ok_or(MalformedEscape { line });
        properties.push(Property {
            key: unescaped(key)?,
            value: unescaped(value)?,
            line,
        });
    }
    Ok(properties)
}

/// An entry with its continuation lines joined.
struct LogicalLine {
    text: String,
    line: usize,
}

fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

/// Joins lines that end in an odd number of backslashes with the next one; drops blank lines and comments.
fn logical_lines(text: &str) -> Vec<LogicalLine> {
    let mut lines: Vec<LogicalLine> = Vec::new();
    let mut continues = false;
    let normal = text.replace("\r\n", "\n").replace('\r', "\n");
    for (index, natural) in normal.split('\n').enumerate() {
        let start = natural.trim_start_matches(blank);
        if !continues && (start.is_empty() || start.starts_with(['#', '!'])) {
            continue;
        }
        let backslashes = start.len() - start.trim_end_matches('\\').len();
        let open = backslashes % 2 == 1;
        let part = if open { &start[..start.len() - 1] } else { start };
        match lines.last_mut() {
            Some(line) if continues => line.text.push_str(part),
            Some(_) | None => lines.push(LogicalLine {
                text: part.to_owned(),
                line: index + 1,
            }),
        }
        continues = open;
    }
    // A lone backslash, or one before blank lines only, leaves nothing behind: Java has no entry then either.
    lines.retain(|line| !line.text.is_empty());
    lines
}

/// Splits at the first separator that is not escaped: blanks, or `=` or `:` with blanks around it.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.char_indices().find(|(_, c)| {
        let separator = !escaped && (matches!(c, '=' | ':') || blank(*c));
        escaped = !escaped && *c == '\\';
        separator
    });
    let Some((end, _)) = end else { return (line, "") };
    let rest = line[end..].trim_start_matches(blank);
    let value = rest
        .strip_prefix(['=', ':'])
        .map_or(rest, |value| value.trim_start_matches(blank));
    (&line[..end], value)
}

/// Resolves `\t \n \r \f \uXXXX`; a backslash before anything else falls away. `None` for a malformed `\u`.
fn unescape(text: &str) -> Option<String> {
    // UTF-16, because two escapes may make up one character.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let unit = match c {
            '\\' => match chars.next() {
                Some('u') => hex_unit(&mut chars)?,
                Some(escaped) => {
                    push(&mut units, meaning(escaped));
                    continue;
                }
                None => continue,
            },
            plain => {
                push(&mut units, plain);
                continue;
            }
        };
        units.push(unit);
    }
    // Java keeps lone surrogates; Rust's text cannot, and no configuration value needs one.
    Some(String::from_utf16_lossy(&units))
}

fn meaning(escaped: char) -> char {
    match escaped {
        't' => '\t',
        'n' => '\n',
        'r' => '\r',
        'f' => '\x0c',
        other => other,
    }
}

fn push(units: &mut Vec<u16>, c: char) {
    units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
}

fn hex_unit(chars: &mut std::str::Chars<'_>) -> Option<u16> {
    let digits = chars
        .as_str()
        .get(..4)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    let unit = u16::from_str_radix(digits, 16).ok()?;
    chars.nth(3);
    Some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text)
            .unwrap()
            .into_iter()
            .map(|property| (property.key, property.value))
            .collect()
    }

    fn one(text: &str) -> (String, String) {
        let pairs = pairs(text);
        assert_eq!(pairs.len(), 1, "{pairs:?}");
        pairs.into_iter().next().unwrap()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn all_three_separators_with_blanks_around_them() {
        for text in ["a=b", "a:b", "a b", "  a = b", "a\t:\t b", "\x0ca   b", "a  =b"] {
            assert_eq!(one(text), pair("a", "b"), "{text:?}");
        }
        assert_eq!(one("a==b"), pair("a", "=b"));
        assert_eq!(one("a = = b"), pair("a", "= b"));
        assert_eq!(one("a := b"), pair("a", "= b"));
    }

    #[test]
    fn a_key_alone_and_a_value_alone() {
        assert_eq!(one("key"), pair("key", ""));
        assert_eq!(one("key="), pair("key", ""));
        assert_eq!(one("=value"), pair("", "value"));
    }

    #[test]
    fn trailing_blanks_belong_to_the_value() {
        assert_eq!(one("a=b \t"), pair("a", "b \t"));
    }

    #[test]
    fn comments_and_blank_lines_are_skipped_but_counted() {
        let properties = parse("# one\n\n  ! two\n \t\na=b # not a comment\r\nc=d\re=f").unwrap();
        let shown: Vec<_> = properties
            .iter()
            .map(|p| (p.key.as_str(), p.value.as_str(), p.line))
            .collect();
        assert_eq!(
            shown,
            [("a", "b # not a comment", 5), ("c", "d", 6), ("e", "f", 7)]
        );
    }

    #[test]
    fn a_comment_does_not_continue() {
        assert_eq!(pairs("# comment \\\na=b"), [pair("a", "b")]);
    }

    #[test]
    fn continuation_lines_lose_their_leading_blanks() {
        let properties = parse("list=a,\\\n     b,\\\r\n\tc\nnext=1").unwrap();
        assert_eq!(
            properties[0],
            Property {
                key: "list".into(),
                value: "a,b,c".into(),
                line: 1
            }
        );
        assert_eq!(properties[1].line, 4);
    }

    #[test]
    fn a_continuation_may_look_like_a_comment_and_ends_at_a_blank_line() {
        assert_eq!(pairs("a=b\\\n# c\nd=e"), [pair("a", "b# c"), pair("d", "e")]);
        assert_eq!(pairs("a=b\\\n\nd=e"), [pair("a", "b"), pair("d", "e")]);
    }

    #[test]
    fn an_even_number_of_backslashes_does_not_continue() {
        assert_eq!(pairs("a=b\\\\\nc=d"), [pair("a", "b\\"), pair("c", "d")]);
        assert_eq!(pairs("a=b\\\\\\\nc"), [pair("a", "b\\c")]);
    }

    #[test]
    fn a_backslash_at_the_end_of_the_file_falls_away() {
        assert_eq!(pairs("a=b\\"), [pair("a", "b")]);
        assert_eq!(pairs("\\"), []);
    }

    #[test]
    fn escapes_in_key_and_value() {
        assert_eq!(
            one(r"a\ b\=c\:d=e\tf\ng\rh\fi"),
            pair("a b=c:d", "e\tf\ng\rh\x0ci")
        );
        assert_eq!(one(r"path=C:\\data\q\#\!"), pair("path", r"C:\dataq#!"));
        assert_eq!(one(r"\#key=1"), pair("#key", "1"));
    }

    #[test]
    fn unicode_escapes_also_as_surrogate_pairs() {
        assert_eq!(one(r"\u00e9=\u20AC \ud83d\ude00"), pair("é", "€ 😀"));
    }

    #[test]
    fn a_malformed_unicode_escape_names_its_line() {
        for text in [r"a=\u12", r"a=\u12g4", r"\u+123=b"] {
            assert_eq!(
                parse(&format!("x=y\n{text}")),
                Err(MalformedEscape { line: 2 }),
                "{text}"
            );
        }
    }

    #[test]
    fn duplicates_are_all_kept_in_order() {
        assert_eq!(pairs("a=1\na=2"), [pair("a", "1"), pair("a", "2")]);
    }
}
