//! Options and indexes of a collection, as mongodump keeps them: canonical extended JSON with the order of keys kept, since
//! the order of an index's keys is its meaning.

use std::fmt::Write;

use bson::{Bson, Document};

/// What is known of a collection beside its documents.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// What it was created with.
    pub options: Document,
    /// Its indexes, the one on `_id` among them.
    pub indexes: Vec<Document>,
    /// Its identity on the server, in hex.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
}

impl Metadata {
    /// As the archive keeps it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut members = Document::new();
        if !self.options.is_empty() {
            members.insert("options", self.options.clone());
        }
        members.insert("indexes", self.indexes.clone());
        members.insert("uuid", self.uuid.as_str());
        members.insert("collectionName", self.name.as_str());
        members.insert("type", self.kind.as_str());
        let mut text = String::new();
        write_value(&Bson::Document(members), &mut text);
        text
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When it is no such description.
    pub fn from_json(text: &str) -> Result<Self, String> {
        // Every value is read as extended JSON, and documents keep their order.
        let members: Document = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let string = |key: &str| members.get_str(key).unwrap_or_default().to_owned();
        let options = match members.get("options") {
            Some(Bson::Document(options)) => options.clone(),
            None | Some(Bson::Null) => Document::new(),
            Some(_) => return Err("options are no document".into()),
        };
        let mut indexes = Vec::new();
        match members.get("indexes") {
            Some(Bson::Array(listed)) => {
                for index in listed {
                    indexes.push(index.as_document().cloned().ok_or("an index is no document")?);
                }
            }
            None | Some(Bson::Null) => {}
            Some(_) => return Err("indexes are no list".into()),
        }
        Ok(Self { options, indexes, uuid: string("uuid"), name: string("collectionName"), kind: string("type") })
    }
}

fn write_value(value: &Bson, out: &mut String) {
    match value {
        Bson::Document(document) => {
            out.push('{');
            for (place, (key, value)) in document.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_text(key, out);
                out.push(':');
                write_value(value, out);
            }
            out.push('}');
        }
        Bson::Array(values) => {
            out.push('[');
            for (place, value) in values.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_value(value, out);
            }
            out.push(']');
        }
        // The canonical form names the type of every number.
        Bson::Int32(number) => _ = write!(out, "{{\"$numberInt\":\"{number}\"}}"),
        Bson::Int64(number) => _ = write!(out, "{{\"$numberLong\":\"{number}\"}}"),
        Bson::Double(number) => _ = write!(out, "{{\"$numberDouble\":\"{}\"}}", double(*number)),
        // Its serde form is the same in the canonical and the relaxed notation.
        other => out.push_str(&serde_json::to_string(other).unwrap_or_else(|_| "null".into())),
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn double(number: f64) -> String {
    if number.is_nan() {
        "NaN".into()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        format!("{number:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn the_vendors_text_is_read_and_written_as_it_was() {
        let text = r#"{"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"uuid":"ab6a6bc21dbb47c4a6666dc1f94e4b4a","collectionName":"Location","type":"collection"}"#;
        let metadata = Metadata::from_json(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(metadata.indexes, [doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }]);
        assert_eq!(metadata.to_json(), text);
    }

    #[test]
    fn the_order_of_an_indexs_keys_and_every_type_stay() {
        let metadata = Metadata {
            options: doc! {
                "capped": true, "size": 1_048_576_i64, "ratio": 1.0, "none": Bson::Null, "since": bson::DateTime::from_millis(-5),
                "validator": { "$jsonSchema": { "required": ["z", "a"] } }, "far": f64::INFINITY,
            },
            indexes: vec![doc! { "v": 2, "key": { "z": 1, "a": -1, "m": "text" }, "name": "x", "expireAfterSeconds": 60.5 }],
            uuid: "00".into(),
            name: "Patient \"é\"".into(),
            kind: "collection".into(),
        };
        let text = metadata.to_json();
        assert!(text.find("\"z\":{").is_some_and(|z| text.find("\"a\":{").is_some_and(|a| z < a)), "{text}");
        assert_eq!(Metadata::from_json(&text).unwrap_or_else(|e| panic!("{e}: {text}")), metadata);
    }

    #[test]
    fn what_is_no_description_is_refused() {
        for text in ["", "[]", "{", r#"{"options":3}"#, r#"{"indexes":{}}"#, r#"{"indexes":[1]}"#] {
            assert!(Metadata::from_json(text).is_err(), "{text}");
        }
        assert_eq!(Metadata::from_json("{}"), Ok(Metadata::default()));
    }
}
