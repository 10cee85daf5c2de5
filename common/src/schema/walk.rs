//! The walk over a body: moves along the bytes by a plan and stops at the first fault.

use super::table::{Field, Kind, Plan};
use super::{ARRAY_ELEMENTS_MAX, Fault, REQUEST_ITEMS_MAX, STRING_BYTES_MAX, TAGGED_FIELDS_MAX};

/// A fault and the field it is in.
pub(super) struct Failure {
    pub(super) path: String,
    pub(super) fault: Fault,
}

impl Failure {
    /// Puts the name of the enclosing field before the path.
    #[cold]
    fn within(mut self, name: &str) -> Failure {
        let separator = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{name}{separator}{}", self.path);
        self
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        Failure {
            path: String::new(),
            fault,
        }
    }
}

/// Checks that `body` begins with one struct of `plan`; the bytes it takes.
pub(super) fn walk_body(plan: &Plan, flexible: bool, body: &[u8]) -> Result<usize, Failure> {
    let mut walk = Walk {
        rest: body,
        flexible,
        items_left: REQUEST_ITEMS_MAX,
    };
    walk.structure(plan)?;
    Ok(body.len() - walk.rest.len())
}

struct Walk<'a> {
    rest: &'a [u8],
    flexible: bool,
    items_left: usize,
}

impl Walk<'_> {
    fn structure(&mut self, plan: &Plan) -> Result<(), Failure> {
        for field in &plan.fields {
            self.field(field).map_err(|failure| failure.within(field.name))?;
        }
        if self.flexible {
            self.tagged_fields(plan)
                .map_err(|failure| failure.within("tagged_fields"))?;
        }
        Ok(())
    }

    fn field(&mut self, field: &Field) -> Result<(), Failure> {
        match &field.kind {
            Kind::Array(element) => self.array(element, field.nullable),
            Kind::Struct(plan) if field.nullable => match self.take::<1>()? {
                [1] => self.structure(plan),
                [0xff] => Ok(()),
                [other] => Err(Fault::Presence(other as i8).into()),
            },
            kind => self.value(kind, field.nullable),
        }
    }

    fn value(&mut self, kind: &Kind, nullable: bool) -> Result<(), Failure> {
        match kind {
            Kind::Fixed(bytes) => Ok(self.skip(*bytes)?),
            Kind::String => {
                let length = if self.flexible {
                    self.compact_length(nullable)?
                } else {
                    let length = i16::from_be_bytes(self.take()?);
                    plain_length(i32::from(length), nullable)?
                };
                let length = length.unwrap_or(0);
                if length > STRING_BYTES_MAX {
                    return Err(Fault::LongString(length).into());
                }
                Ok(self.skip(length)?)
            }
            Kind::Bytes => {
                let length = self.length(nullable)?;
                Ok(self.skip(length.unwrap_or(0))?)
            }
            Kind::Struct(plan) => self.structure(plan),
            Kind::Array(element) => self.array(element, nullable),
        }
    }

    fn array(&mut self, element: &Kind, nullable: bool) -> Result<(), Failure> {
        let Some(count) = self.length(nullable)? else {
            return Ok(());
        };
        if count > ARRAY_ELEMENTS_MAX {
            return Err(Fault::TooManyElements(count).into());
        }
        let element_bytes_min = element.bytes_min(self.flexible);
        let left = self.rest.len();
        // No overflow: the count is at most ARRAY_ELEMENTS_MAX and an element's least size is small.
        if count * element_bytes_min > left {
            return Err(Fault::Count {
                count,
                element_bytes_min,
                left,
            }
            .into());
        }
        match element {
            Kind::Fixed(bytes) => Ok(self.skip(count * bytes)?),
            Kind::String | Kind::Bytes | Kind::Struct(_) | Kind::Array(_) => {
                self.use_items(count)?;
                self.elements(element, count)
            }
        }
    }

    fn elements(&mut self, element: &Kind, count: usize) -> Result<(), Failure> {
        for index in 0..count {
            self.value(element, false)
                .map_err(|failure| failure.within(&format!("[{index}]")))?;
        }
        Ok(())
    }

    fn tagged_fields(&mut self, plan: &Plan) -> Result<(), Failure> {
        let count = self.unsigned_varint()? as usize;
        if count > TAGGED_FIELDS_MAX {
            return Err(Fault::TooManyTaggedFields(count).into());
        }
        self.use_items(count)?;
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            let size = self.unsigned_varint()? as usize;
            let left = self.rest.len();
            let (content, rest) = self
                .rest
                .split_at_checked(size)
                .ok_or(Fault::CutOff { needed: size, left })?;
            if let Some((_, field)) = plan.tagged.iter().find(|(known, _)| *known == tag) {
                // The decoder reads a known field without regard to its size, so both must agree.
                let mut walk = Walk {
                    rest: content,
                    flexible: self.flexible,
                    items_left: self.items_left,
                };
                walk.field(field).map_err(|failure| failure.within(field.name))?;
                if !walk.rest.is_empty() {
                    return Err(Failure::from(Fault::TrailingBytes(walk.rest.len())).within(field.name));
                }
                self.items_left = walk.items_left;
            }
            self.rest = rest;
        }
        Ok(())
    }

    fn use_items(&mut self, count: usize) -> Result<(), Fault> {
        self.items_left = self.items_left.checked_sub(count).ok_or(Fault::TooManyItems)?;
        Ok(())
    }

    /// The length of bytes or an array; `None` for null.
    fn length(&mut self, nullable: bool) -> Result<Option<usize>, Fault> {
        if self.flexible {
            return self.compact_length(nullable);
        }
        plain_length(i32::from_be_bytes(self.take()?), nullable)
    }

    fn compact_length(&mut self, nullable: bool) -> Result<Option<usize>, Fault> {
        match self.unsigned_varint()?.checked_sub(1) {
            Some(length) => Ok(Some(length as usize)),
            None if nullable => Ok(None),
            None => Err(Fault::Null),
        }
    }

    fn unsigned_varint(&mut self) -> Result<u32, Fault> {
        let mut value = 0u32;
        for at in 0..5 {
            let [byte] = self.take()?;
            if at == 4 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Varint)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let left = self.rest.len();
        let (bytes, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Fault::CutOff { needed: N, left })?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Fault> {
        let left = self.rest.len();
        self.rest = self
            .rest
            .get(bytes..)
            .ok_or(Fault::CutOff { needed: bytes, left })?;
        Ok(())
    }
}

fn plain_length(length: i32, nullable: bool) -> Result<Option<usize>, Fault> {
    match length {
        -1 if nullable => Ok(None),
        -1 => Err(Fault::Null),
        length => Ok(Some(
            usize::try_from(length).map_err(|_| Fault::NegativeLength(length))?,
        )),
    }
}
