//! What a configuration key is: its Kafka name, type, default, valid values, update mode, synonyms and state.
//!
//! The tables in [`crate::keys`] are made of [`Key`]s with the [`keys!`] macro. Everything else in this crate
//! (parsing, validation, DescribeConfigs, the generated reference) reads them and adds no facts of its own.

use std::fmt;

/// The type of a key's value, in the words of Kafka's `ConfigDef`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`, in any case.
    Boolean,
    /// A 32-bit integer.
    Int,
    /// A 64-bit integer.
    Long,
    /// A 16-bit integer.
    Short,
    /// A floating point number.
    Double,
    /// Values separated by commas.
    List,
    /// Any text.
    String,
    /// Text that is never shown.
    Password,
    /// The name of a Java class, kept as text.
    Class,
}

impl Kind {
    /// The number that DescribeConfigs gives this type in the protocol.
    pub fn protocol_id(self) -> i8 {
        match self {
            Kind::Boolean => 1,
            Kind::String => 2,
            Kind::Int => 3,
            Kind::Short => 4,
            Kind::Long => 5,
            Kind::Double => 6,
            Kind::List => 7,
            Kind::Class => 8,
            Kind::Password => 9,
        }
    }

    /// Kafka's name of the type, as its error messages spell it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Boolean => "BOOLEAN",
            Kind::Int => "INT",
            Kind::Long => "LONG",
            Kind::Short => "SHORT",
            Kind::Double => "DOUBLE",
            Kind::List => "LIST",
            Kind::String => "STRING",
            Kind::Password => "PASSWORD",
            Kind::Class => "CLASS",
        }
    }
}

/// Which values a key accepts beyond its type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Valid {
    /// Every value of the type.
    Any,
    /// A number not below this one.
    AtLeast(i64),
    /// A number from the first to the second, both included.
    Between(i64, i64),
    /// A floating point number from the first to the second, both included.
    BetweenDouble(f64, f64),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// One of these texts in any case.
    OneOfIgnoreCase(&'static [&'static str]),
    /// A list whose members are all among these texts.
    ListOf(&'static [&'static str]),
    /// A list with at least one member.
    NonEmptyList,
    /// A list with at least one member, all of them among these texts.
    NonEmptyListOf(&'static [&'static str]),
    /// A text that is not empty.
    NonEmpty,
    /// A level of gzip: 1 to 9, or -1 for the default.
    GzipLevel,
    /// `*`, or pairs partition:broker.
    ThrottledReplicas,
    /// `latest`, `earliest`, or `by_duration:` and an ISO 8601 duration.
    ShareOffsetReset,
    /// The number of a compression codec, 0 to 4.
    Codec,
}

impl fmt::Display for Valid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Valid::Any => f.write_str("any"),
            Valid::AtLeast(min) => write!(f, "at least {min}"),
            Valid::Between(min, max) => write!(f, "{min} to {max}"),
            Valid::BetweenDouble(min, max) => write!(f, "{min} to {max}"),
            Valid::OneOf(values) => f.write_str(&values.join(", ")),
            Valid::OneOfIgnoreCase(values) => write!(f, "{} (in any case)", values.join(", ")),
            Valid::ListOf(values) => write!(f, "a list of {}", values.join(", ")),
            Valid::NonEmptyList => f.write_str("a list that is not empty"),
            Valid::NonEmptyListOf(values) => write!(f, "a list, not empty, of {}", values.join(", ")),
            Valid::NonEmpty => f.write_str("text that is not empty"),
            Valid::GzipLevel => f.write_str("1 to 9, or -1"),
            Valid::ThrottledReplicas => f.write_str("*, or partition:broker pairs"),
            Valid::ShareOffsetReset => f.write_str("latest, earliest, by_duration:<ISO 8601 duration>"),
            Valid::Codec => f.write_str("0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd"),
        }
    }
}

/// How a broker key may be changed while the broker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateMode {
    /// Only in the file, with a restart.
    ReadOnly,
    /// For one broker at a time.
    PerBroker,
    /// For one broker or as a default for all.
    ClusterWide,
}

impl UpdateMode {
    /// Kafka's word for the mode in its documentation.
    pub fn name(self) -> &'static str {
        match self {
            UpdateMode::ReadOnly => "read-only",
            UpdateMode::PerBroker => "per-broker",
            UpdateMode::ClusterWide => "cluster-wide",
        }
    }
}

/// What a key configures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A node: the keys of a server.properties file.
    Broker,
    /// One topic.
    Topic,
    /// One group.
    Group,
}

/// Whether this version acts on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The code reads it.
    Used,
    /// Kafka knows it, this version accepts it with a warning that gives this reason.
    AcceptedNotYet(&'static str),
    /// Kafka knows it; a node whose value is not empty does not start, for this reason. Of keys that somebody relies on.
    Refused(&'static str),
}

/// A broker key that a value may come from, with the factor that turns its unit into the unit of the first key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synonym {
    /// Name of the broker key.
    pub name: &'static str,
    /// What its value is multiplied with.
    pub factor: i64,
}

/// One row of the table: everything that is known about a configuration key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key {
    /// Kafka's name, or a name that starts with `odradek.`.
    pub name: &'static str,
    /// Type of the value.
    pub kind: Kind,
    /// Default as it would be written in a file; `None` when there is none.
    pub default: Option<&'static str>,
    /// Accepted values.
    pub valid: Valid,
    /// How a broker key changes at run time; topic and group keys always can.
    pub mode: UpdateMode,
    /// Broker keys that give the value when this key is not set, best first. Of a broker key: all keys of its
    /// chain, itself included.
    pub synonyms: &'static [Synonym],
    /// What it configures.
    pub scope: Scope,
    /// Whether this version acts on it.
    pub state: State,
    /// Kept out of DescribeConfigs and of the reference, as in Kafka.
    pub internal: bool,
    doc: &'static str,
}

impl Key {
    /// What it accepts, with the bounds of its type.
    #[must_use]
    pub fn accepted(&self) -> String {
        let (least, most) = match self.kind {
            Kind::Int => (i64::from(i32::MIN), i64::from(i32::MAX)),
            Kind::Short => (i64::from(i16::MIN), i64::from(i16::MAX)),
            Kind::Long => (i64::MIN, i64::MAX),
            Kind::Boolean => return "true or false".to_owned(),
            Kind::Double if matches!(self.valid, Valid::Any) => return "a number".to_owned(),
            _ => return self.valid.to_string(),
        };
        match self.valid {
            Valid::Any => format!("{least} to {most}"),
            Valid::AtLeast(min) => format!("{min} to {most}"),
            _ => self.valid.to_string(),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "called by the keys! macro only, one argument for each column"
    )]
    pub(crate) const fn new(
        scope: Scope,
        name: &'static str,
        kind: Kind,
        default: Option<&'static str>,
        valid: Valid,
        mode: UpdateMode,
        state: State,
        internal: bool,
        synonyms: &'static [Synonym],
        doc: &'static str,
    ) -> Key {
        Key {
            name,
            kind,
            default,
            valid,
            mode,
            synonyms,
            scope,
            state,
            internal,
            doc,
        }
    }

    /// What the key does, one or two sentences.
    pub fn doc(&self) -> &'static str {
        self.doc.trim_start()
    }

    /// Whether the value must not be shown.
    pub fn secret(&self) -> bool {
        self.kind == Kind::Password
    }
}

/// Declares a table of [`Key`]s of one scope.
///
/// A row is `/// doc`, then `"name": Kind = "default", valid, update mode, state [, internal] [<- synonyms];` where
/// the default is `-` when there is none and a synonym is `"broker.key" * factor`.
macro_rules! keys {
    ($table:ident: $scope:ident; $(
        $(#[doc = $doc:literal])+
        $name:literal: $kind:ident = $default:tt, $valid:expr, $mode:ident, $state:expr $(, $internal:ident)?
        $(; <- $($synonym:literal * $factor:literal),+)?
    ;)+) => {
        /// The rows of this part of the table.
        pub(crate) static $table: &[$crate::key::Key] = &[$(
            $crate::key::Key::new(
                $crate::key::Scope::$scope,
                $name,
                $crate::key::Kind::$kind,
                keys!(@default $default),
                $valid,
                $crate::key::UpdateMode::$mode,
                $state,
                keys!(@internal $($internal)?),
                &[$($($crate::key::Synonym { name: $synonym, factor: $factor }),+)?],
                concat!($($doc),+),
            ),
        )+];
    };
    (@default -) => { None };
    (@default $default:literal) => { Some($default) };
    (@internal) => { false };
    (@internal internal) => { true };
}
pub(crate) use keys;
