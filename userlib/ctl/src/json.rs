// SPDX-License-Identifier: MIT OR Apache-2.0

//! JSON, as much of it as is printed here.

use std::fmt::{self, Display, Formatter, Write};

/// A value.
pub(crate) enum Json {
    Null,
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    pub(crate) fn list(values: impl IntoIterator<Item = Json>) -> Self {
        Self::List(values.into_iter().collect())
    }

    pub(crate) fn object(members: impl IntoIterator<Item = (&'static str, Json)>) -> Self {
        Self::Object(members.into_iter().collect())
    }
}

impl Display for Json {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => quote(f, text),
            Self::List(values) => {
                f.write_char('[')?;
                for (at, value) in values.iter().enumerate() {
                    separate(f, at)?;
                    write!(f, "{value}")?;
                }
                f.write_char(']')
            }
            Self::Object(members) => {
                f.write_char('{')?;
                for (at, (name, value)) in members.iter().enumerate() {
                    separate(f, at)?;
                    quote(f, name)?;
                    write!(f, ": {value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

fn separate(f: &mut Formatter<'_>, at: usize) -> fmt::Result {
    if at == 0 {
        Ok(())
    } else {
        f.write_str(", ")
    }
}

fn quote(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(f, "\\{character}")?,
            control if u32::from(control) < 0x20 => write!(f, "\\u{:04x}", u32::from(control))?,
            other => f.write_char(other)?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::Json;

    #[test]
    fn text_is_quoted_so_that_nothing_leaves_its_string() {
        let text = Json::Text("a\"b\\c\n\u{1}ü".to_owned());
        assert_eq!(text.to_string(), r#""a\"b\\c\u000a\u0001ü""#);
    }

    #[test]
    fn values_nest() {
        let inner = Json::object([("n", Json::Number(u64::MAX)), ("x", Json::Null)]);
        let value = Json::list([inner, Json::List(Vec::new())]);
        assert_eq!(
            value.to_string(),
            r#"[{"n": 18446744073709551615, "x": null}, []]"#
        );
    }
}
