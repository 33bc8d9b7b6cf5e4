//! Strict JSON (RFC 8259, narrowed): the only parser that statements go through.
//!
//! Ordinary parsers let two readers see two different objects in the same bytes: duplicate member
//! names, floats that round, numbers beyond 2^53, deep nesting that only one of them survives. All
//! of that is refused here, before any type looks at the value.
//!
//! Written by hand because serde_json's reading of numbers changes with cargo features that any
//! crate in the tree may switch on (`arbitrary_precision` turns them into one-member objects); the
//! tests compare both readers on generated input.

use serde_json::{Map, Value};

use crate::{Code, Rejection};

/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: u8 = 16;
/// Numbers must lie strictly between minus and plus this (2^53), where every reader agrees.
pub const NUMBER_BOUND: i64 = 1 << 53;

/// Parses one JSON value and nothing after it: no duplicate member names, integers only, at most
/// [`MAX_DEPTH`] levels, valid UTF-8 without lone surrogates. Everything else is `E_FORMAT`.
///
/// Memory is bounded by the length of the input, which the caller bounds.
pub fn parse_strict(bytes: &[u8]) -> Result<Value, Rejection> {
    let text = std::str::from_utf8(bytes).map_err(|_| refuse("not UTF-8"))?;
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.skip_space();
    if reader.at != text.len() {
        return Err(refuse("something follows the value"));
    }
    Ok(value)
}

fn refuse(why: &str) -> Rejection {
    Rejection::new(Code::Format, "J3", format!("not acceptable JSON: {why}"))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: u8) -> Result<Value, Rejection> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.integer(),
            _ => self.word(),
        }
    }

    fn object(&mut self, depth: u8) -> Result<Value, Rejection> {
        let depth = self.enter(depth)?;
        let mut members = Map::new();
        if self.close(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_space();
            let name = self.string()?;
            self.expect(b':')?;
            let value = self.value(depth)?;
            if members.insert(name, value).is_some() {
                return Err(refuse("a member name stands twice"));
            }
            if self.close(b'}') {
                return Ok(Value::Object(members));
            }
            self.expect(b',')?;
        }
    }

    fn array(&mut self, depth: u8) -> Result<Value, Rejection> {
        let depth = self.enter(depth)?;
        let mut items = Vec::new();
        if self.close(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth)?);
            if self.close(b']') {
                return Ok(Value::Array(items));
            }
            self.expect(b',')?;
        }
    }

    fn string(&mut self) -> Result<String, Rejection> {
        if self.next() != Some(b'"') {
            return Err(refuse("a string is missing"));
        }
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest
                .find(|c: char| c == '"' || c == '\\' || c < ' ')
                .ok_or_else(|| refuse("a string does not end"))?;
            out.push_str(&rest[..plain]);
            self.at += plain;
            match self.next() {
                Some(b'"') => return Ok(out),
                Some(b'\\') => out.push(self.escape()?),
                _ => return Err(refuse("a control character in a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Rejection> {
        Ok(match self.next() {
            Some(c @ (b'"' | b'\\' | b'/')) => c.into(),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(refuse("an unknown escape")),
        })
    }

    fn unicode_escape(&mut self) -> Result<char, Rejection> {
        let lone = || refuse("a lone surrogate");
        let high = self.hex4()?;
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high).ok_or_else(lone);
        }
        if self.next() != Some(b'\\') || self.next() != Some(b'u') {
            return Err(lone());
        }
        let low = self.hex4()?;
        if !(0xdc00..0xe000).contains(&low) {
            return Err(lone());
        }
        char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)).ok_or_else(lone)
    }

    fn hex4(&mut self) -> Result<u32, Rejection> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let digits = digits
            .filter(|d| d.iter().all(u8::is_ascii_hexdigit))
            .ok_or_else(|| refuse("a broken \\u escape"))?;
        self.at += 4;
        Ok(digits
            .iter()
            .fold(0, |n, d| n << 4 | char::from(*d).to_digit(16).unwrap_or(0)))
    }

    fn integer(&mut self) -> Result<Value, Rejection> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = rest
            .iter()
            .take_while(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .count();
        let word = &self.text[self.at..self.at + length];
        let digits = word.strip_prefix('-').unwrap_or(word);
        let canonical = !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit())
            && (digits == "0" && digits.len() == word.len() || !digits.starts_with('0'));
        if !canonical {
            return Err(refuse("a number that is not a plain integer"));
        }
        let number = word
            .parse::<i64>()
            .ok()
            .filter(|n| n.unsigned_abs() < NUMBER_BOUND.unsigned_abs());
        self.at += length;
        number
            .map(Value::from)
            .ok_or_else(|| refuse("a number out of range"))
    }

    fn word(&mut self) -> Result<Value, Rejection> {
        for (word, value) in [
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("null", Value::Null),
        ] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(refuse("a value is missing"))
    }

    fn enter(&mut self, depth: u8) -> Result<u8, Rejection> {
        if depth >= MAX_DEPTH {
            return Err(refuse("nested too deeply"));
        }
        self.at += 1;
        Ok(depth + 1)
    }

    fn close(&mut self, bracket: u8) -> bool {
        self.skip_space();
        let closes = self.peek() == Some(bracket);
        self.at += usize::from(closes);
        closes
    }

    fn expect(&mut self, byte: u8) -> Result<(), Rejection> {
        self.skip_space();
        if self.next() == Some(byte) {
            return Ok(());
        }
        Err(refuse("a comma or colon is missing"))
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Only ever consumes ASCII bytes that are then checked, so `at` stays on a character boundary
    /// wherever it is used for slicing.
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        if !byte.is_ascii() {
            return None;
        }
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_values_pass() {
        let value =
            parse_strict(br#" {"a":[1,-2,true,null,"\u00e9\ud83d\ude00/\/"], "b":{} } "#).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"a": [1, -2, true, null, "é😀//"], "b": {}})
        );
    }

    #[test]
    fn ambiguous_json_is_refused() {
        let deep = format!("{}{}", "[".repeat(17), "]".repeat(17));
        let bomb = "[".repeat(1_000_000);
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            "1.0",
            "1e3",
            "-0",
            "01",
            "9007199254740992",
            "-9007199254740992",
            "18446744073709551616",
            "1 2",
            "{} x",
            "",
            "nul",
            &deep,
            &bomb,
            "[1,]",
            "{,}",
            "'a'",
            "\"\u{1}\"",
            r#""\ud800""#,
            r#""\ud800\u0041""#,
            r#""\udc00""#,
            r#""\x""#,
            r#""\u00g0""#,
            "-9223372036854775808",
            "-9223372036854775807",
            "9223372036854775807",
            "9223372036854775808",
            "\"",
            "\"\\",
            "[",
            "{\"a\"",
            "{\"a\":",
            "\u{feff}1",
            "é",
            "[é]",
            "\"\\é\"",
        ] {
            let rejection = parse_strict(text.as_bytes()).unwrap_err();
            assert_eq!(rejection.code, Code::Format);
        }
        assert!(parse_strict(b"\"\xff\"").is_err(), "invalid UTF-8");
        assert!(parse_strict(format!("{}{}", "[".repeat(16), "]".repeat(16)).as_bytes()).is_ok());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-NUMBER_BOUND + 1..NUMBER_BOUND).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn reads_what_serde_json_writes(value in any_value()) {
            prop_assert_eq!(parse_strict(value.to_string().as_bytes()).unwrap(), value);
        }

        #[test]
        fn what_it_accepts_serde_json_accepts_too(text in r#"[\[\]{}:,"\\ua0-9\-\. tru]{0,24}"#) {
            if let Ok(value) = parse_strict(text.as_bytes()) {
                let other: Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(value.to_string(), other.to_string());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_strict(&bytes);
        }
    }
}
