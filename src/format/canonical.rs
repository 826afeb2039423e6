//! Canonical JSON (RFC 8785), integers only: one spelling for every value, so that a hash of the text names the value.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::format::FormatError;
use crate::model::limits::SEQ_MAX;

const WHAT: &str = "canonical JSON";

/// The canonical text of `value`.
///
/// # Errors
/// When the value holds a fraction, an integer over 2^53 or a key that is not ASCII.
pub fn to_canonical<T: Serialize>(value: &T) -> Result<String, FormatError> {
    // serde_json keeps the keys of a Value sorted by their bytes, which for ASCII keys is RFC 8785's order, and escapes
    // as RFC 8785 asks.
    let value = serde_json::to_value(value).map_err(|e| FormatError::invalid(WHAT, e))?;
    check(&value)?;
    Ok(value.to_string())
}

/// Reads `text` and refuses it when it is not the canonical spelling of what it says.
///
/// # Errors
/// When the text is not canonical, or does not fit `T`.
pub fn from_canonical<T: DeserializeOwned>(text: &str) -> Result<T, FormatError> {
    let value: Value = serde_json::from_str(text).map_err(|e| FormatError::invalid(WHAT, e))?;
    check(&value)?;
    let again = value.to_string();
    if again != text {
        return Err(FormatError::invalid(WHAT, "not in canonical form"));
    }
    serde_json::from_value(value).map_err(|e| FormatError::invalid(WHAT, e))
}

fn check(value: &Value) -> Result<(), FormatError> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Number(number) => match number.as_i64() {
            Some(n) if n.unsigned_abs() <= SEQ_MAX => Ok(()),
            _ => Err(FormatError::invalid(WHAT, format!("{number} is no integer within 2^53"))),
        },
        Value::Array(items) => items.iter().try_for_each(check),
        Value::Object(members) => members.iter().try_for_each(|(key, value)| {
            if key.is_ascii() { check(value) } else { Err(FormatError::invalid(WHAT, "a key is not ASCII")) }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_is_read() {
        let text = "{\"a\":1,\"b\":[true,null,\"x\\n\"]}";
        let value: Value = from_canonical(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(to_canonical(&value).as_deref(), Ok(text));
        for wrong in [
            "{\"b\":1,\"a\":2}",
            "{ \"a\":1}",
            "{\"a\":1.0}",
            "{\"a\":1e3}",
            "{\"a\":9007199254740993}",
            "{\"a\":1,\"a\":1}",
            "{\"\\u0061\":1}",
            "{\"é\":1}",
            "{\"a\":1}\n",
        ] {
            assert!(from_canonical::<Value>(wrong).is_err(), "{wrong}");
        }
    }
}
