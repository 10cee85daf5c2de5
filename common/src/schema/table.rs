//! The notation of `requests.txt`, read once into one plan per API and version.
//!
//! The text is part of the program, so its faults are panics; a test reads all of it.

use std::sync::LazyLock;

/// Every request, by API key.
pub(super) static REQUESTS: LazyLock<Requests> = LazyLock::new(|| parse(include_str!("requests.txt")));

/// The table of requests.
#[derive(Debug)]
pub(super) struct Requests {
    /// By API key, which leaves gaps.
    by_key: Vec<Option<Request>>,
}

impl Requests {
    pub(super) fn get(&self, api_key: i16) -> Option<&Request> {
        self.by_key.get(usize::try_from(api_key).ok()?)?.as_ref()
    }
}

/// One API's request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) name: &'static str,
    pub(super) version_min: i16,
    pub(super) version_max: i16,
    flexible_from: i16,
    /// One per version, from `version_min` on.
    plans: Vec<Plan>,
}

impl Request {
    pub(super) fn plan(&self, version: i16) -> Option<&Plan> {
        let index = version.checked_sub(self.version_min)?;
        self.plans.get(usize::try_from(index).ok()?)
    }

    pub(super) fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }
}

/// A struct in one version.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order of the wire.
    pub(super) fields: Vec<Field>,
    /// The tagged fields that are known.
    pub(super) tagged: Vec<(u32, Field)>,
    /// The fewest bytes the struct can have.
    pub(super) bytes_min: usize,
}

/// A field in one version.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) nullable: bool,
    pub(super) kind: Kind,
}

/// A field's type.
#[derive(Debug)]
pub(super) enum Kind {
    /// Always as many bytes.
    Fixed(usize),
    String,
    Bytes,
    Struct(Plan),
    /// Elements are not nullable, and never arrays themselves.
    Array(Box<Kind>),
}

impl Kind {
    /// The fewest bytes a value of the type can have.
    pub(super) fn bytes_min(&self, flexible: bool) -> usize {
        match self {
            Kind::Fixed(bytes) => *bytes,
            Kind::String => {
                if flexible {
                    1
                } else {
                    2
                }
            }
            Kind::Bytes | Kind::Array(_) => {
                if flexible {
                    1
                } else {
                    4
                }
            }
            Kind::Struct(plan) => plan.bytes_min,
        }
    }
}

/// A line of the notation with the lines under it.
struct Definition {
    name: &'static str,
    nullable: bool,
    array: bool,
    type_name: &'static str,
    versions: (i16, i16),
    tag: Option<u32>,
    fields: Vec<Definition>,
}

fn parse(text: &'static str) -> Requests {
    let lines: Vec<&'static str> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .collect();
    let mut lines = lines.as_slice();
    let mut by_key = Vec::new();
    while let Some((&line, rest)) = lines.split_first() {
        lines = rest;
        let (api_key, request) = parse_request(line, &mut lines);
        if by_key.len() <= api_key {
            by_key.resize_with(api_key + 1, || None);
        }
        assert!(by_key[api_key].is_none(), "{line}: one definition per key");
        by_key[api_key] = Some(request);
    }
    Requests { by_key }
}

fn parse_request(line: &'static str, lines: &mut &[&'static str]) -> (usize, Request) {
    let words: Vec<&'static str> = line.split(' ').collect();
    let api_key = words[0].parse().expect("a definition begins with the API key");
    let (version_min, version_max) = parse_versions(words[2], i16::MAX);
    let flexible_from = match words.get(3..) {
        Some(["flexible", versions]) => parse_versions(versions, version_max).0,
        Some([]) | None => i16::MAX,
        Some(_) => panic!("{line}: `flexible first+` or nothing follows the versions"),
    };
    let fields = parse_fields(lines, 2, version_max);
    let plans = (version_min..=version_max)
        .map(|version| compile(&fields, version, version >= flexible_from))
        .collect();
    (
        api_key,
        Request {
            name: words[1],
            version_min,
            version_max,
            flexible_from,
            plans,
        },
    )
}

/// The lines at `indent` and deeper, from the first of `lines` on; takes them off.
fn parse_fields(lines: &mut &[&'static str], indent: usize, version_max: i16) -> Vec<Definition> {
    let mut fields = Vec::new();
    while let Some((&line, rest)) = lines.split_first() {
        let depth = line.len() - line.trim_start().len();
        if depth < indent {
            break;
        }
        assert_eq!(depth, indent, "{line}: fields are indented by two");
        *lines = rest;
        let mut definition = parse_field(line, version_max);
        definition.fields = parse_fields(lines, indent + 2, version_max);
        assert_eq!(
            definition.type_name == "struct",
            !definition.fields.is_empty(),
            "{line}: structs have fields"
        );
        fields.push(definition);
    }
    fields
}

fn parse_field(line: &'static str, version_max: i16) -> Definition {
    let mut words = line.trim_start().split(' ');
    let name = words.next().expect("a line has a word");
    let mut type_name = words.next().expect("a type follows the name");
    let nullable = type_name.starts_with('?');
    type_name = type_name.trim_start_matches('?');
    let array = type_name.starts_with("[]");
    type_name = type_name.trim_start_matches("[]");
    let mut definition = Definition {
        name,
        nullable,
        array,
        type_name,
        versions: (0, version_max),
        tag: None,
        fields: Vec::new(),
    };
    while let Some(word) = words.next() {
        if word == "tag" {
            let number = words.next().expect("a number follows `tag`");
            definition.tag = Some(number.parse().expect("a tag is a number"));
        } else {
            definition.versions = parse_versions(word, version_max);
        }
    }
    definition
}

/// `3`, `3-5` or `3+`, which ends at `version_max`.
fn parse_versions(text: &str, version_max: i16) -> (i16, i16) {
    let number = |text: &str| text.parse::<i16>().expect("a version is a number");
    if let Some(first) = text.strip_suffix('+') {
        return (number(first), version_max);
    }
    match text.split_once('-') {
        Some((first, last)) => (number(first), number(last)),
        None => (number(text), number(text)),
    }
}

fn compile(definitions: &[Definition], version: i16, flexible: bool) -> Plan {
    let mut plan = Plan {
        fields: Vec::new(),
        tagged: Vec::new(),
        bytes_min: usize::from(flexible),
    };
    for definition in definitions {
        if version < definition.versions.0 || version > definition.versions.1 {
            continue;
        }
        let mut kind = compile_kind(definition, version, flexible);
        if definition.array {
            // Invariant: an element has at least a byte, so that the bytes left bound every count.
            assert!(
                kind.bytes_min(flexible) > 0,
                "{}: an element has at least one byte",
                definition.name
            );
            kind = Kind::Array(Box::new(kind));
        }
        let field = Field {
            name: definition.name,
            nullable: definition.nullable,
            kind,
        };
        match definition.tag {
            Some(tag) => plan.tagged.push((tag, field)),
            None => {
                // A null struct is one byte.
                let null_struct = field.nullable && matches!(field.kind, Kind::Struct(_));
                plan.bytes_min += if null_struct {
                    1
                } else {
                    field.kind.bytes_min(flexible)
                };
                plan.fields.push(field);
            }
        }
    }
    plan
}

fn compile_kind(definition: &Definition, version: i16, flexible: bool) -> Kind {
    match definition.type_name {
        "bool" | "int8" => Kind::Fixed(1),
        "int16" | "uint16" => Kind::Fixed(2),
        "int32" => Kind::Fixed(4),
        "int64" | "float64" => Kind::Fixed(8),
        "uuid" => Kind::Fixed(16),
        "string" => Kind::String,
        "bytes" => Kind::Bytes,
        "struct" => Kind::Struct(compile(&definition.fields, version, flexible)),
        other => panic!("{}: no type is called {other}", definition.name),
    }
}
