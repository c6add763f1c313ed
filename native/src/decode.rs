//! The parser for bodies that are valid but not plain: escapes, members that flowd does not know.
//!
//! serde_json decides what is JSON. Where it is more liberal than the reference, in what it skips,
//! values are visited instead; where it is stricter (deep nesting, numbers beyond f64, -0) the
//! reference has the last word, as with everything that is refused here.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::flows::{FIRST_NUMBER, Flow, Flows, HOUR, MEMBERS, NUMBER_MAX, NotPlain};
use crate::interner::Interner;

/// Parse an array of flows.
pub fn decode_array(body: &str, out: &mut Flows) -> Result<(), NotPlain> {
    let mut json = serde_json::Deserializer::from_str(body);
    let flows = json.deserialize_seq(Array(out)).and_then(|()| json.end());
    flows.map_err(|_| NotPlain)
}

/// Parse one flow a line; lines of white space alone are none.
pub fn decode_lines(body: &str, out: &mut Flows) -> Result<(), NotPlain> {
    for line in body.split('\n') {
        if line.trim_matches([' ', '\t', '\r']).is_empty() {
            continue;
        }
        let mut json = serde_json::Deserializer::from_str(line);
        let flow = Object(&mut out.interner).deserialize(&mut json);
        out.flows.push(flow.map_err(|_| NotPlain)?);
        json.end().map_err(|_| NotPlain)?;
    }
    Ok(())
}

struct Array<'a>(&'a mut Flows);

impl<'de> Visitor<'de> for Array<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of flows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(flow) = array.next_element_seed(Object(&mut self.0.interner))? {
            self.0.flows.push(flow);
        }
        Ok(())
    }
}

/// One flow; its names go to the interner.
struct Object<'a>(&'a mut Interner);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Flow;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Flow, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Flow;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a flow")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Flow, A::Error> {
        let mut names = [None; 3];
        let mut numbers = [None; 3];
        while let Some(Member(member)) = object.next_key()? {
            match member {
                // Of a member that is there twice the last counts, and each must be valid.
                Some(member) if member < FIRST_NUMBER => {
                    names[member] = Some(object.next_value_seed(Name(self.0))?);
                }
                Some(member) => {
                    let value: u64 = object.next_value()?;
                    if value > NUMBER_MAX[member - FIRST_NUMBER] {
                        return Err(A::Error::custom("out of range"));
                    }
                    numbers[member - FIRST_NUMBER] = Some(value);
                }
                None => {
                    let Skipped = object.next_value()?;
                }
            }
        }
        let ([Some(src), Some(dest), Some(vpc)], [Some(tx), Some(rx), Some(hour)]) =
            (names, numbers)
        else {
            return Err(A::Error::custom("a member is missing"));
        };
        Ok(Flow {
            names: [src, dest, vpc],
            hour: hour as u32,
            tx,
            rx,
        })
    }
}

/// A member by its place in MEMBERS, None for one that flowd does not know.
struct Member(Option<usize>);

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Member, D::Error> {
        json.deserialize_str(Member(None))
    }
}

impl Visitor<'_> for Member {
    type Value = Member;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Member, E> {
        Ok(Member(
            MEMBERS.iter().position(|member| *member == key.as_bytes()),
        ))
    }
}

struct Name<'a>(&'a mut Interner);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<u32, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = u32;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<u32, E> {
        let number = self.0.number(name.as_bytes());
        number.ok_or_else(|| E::custom("breaks the rule for names"))
    }
}

/// Any value, looked at but not kept: what serde calls ignored would let broken escapes pass.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Skipped, D::Error> {
        json.deserialize_any(Skipped)
    }
}

impl<'de> Visitor<'de> for Skipped {
    type Value = Skipped;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Skipped, A::Error> {
        while let Some(Skipped) = array.next_element()? {}
        Ok(Skipped)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Skipped, A::Error> {
        while let Some((Skipped, Skipped)) = object.next_entry()? {}
        Ok(Skipped)
    }
}

const _: () = assert!(HOUR == MEMBERS.len() - 1);
