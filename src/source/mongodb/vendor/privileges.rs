//! Whether an account sees a whole deployment: a server lists to each account the databases that it may read, and a dump of
//! all that are listed ends well.

use bson::{Bson, Document};

/// Whether nothing is hidden from whom `status` (the answer to `connectionStatus` with `showPrivileges`) is about; none where
/// that is not told. A server that asks for no login hides nothing. What is listed and cannot be read fails mongodump aloud.
pub fn sees_all(status: &Document) -> Option<bool> {
    let Ok(about) = status.get_document("authInfo") else { return Some(true) };
    let listed = |key: &str| about.get_array(key).map(Vec::as_slice).unwrap_or_default();
    if listed("authenticatedUsers").is_empty() {
        return Some(true);
    }
    let told = listed("authenticatedUserPrivileges");
    let lists_all = told.iter().filter_map(Bson::as_document).any(|privilege| {
        let is_cluster =
            |resource: &Document| ["cluster", "anyResource"].iter().any(|key| resource.get_bool(key).unwrap_or(false));
        let actions = privilege.get_array("actions").map(Vec::as_slice).unwrap_or_default();
        privilege.get_document("resource").is_ok_and(is_cluster)
            && actions.iter().any(|may| ["listDatabases", "anyAction"].contains(&may.as_str().unwrap_or_default()))
    });
    (!told.is_empty()).then_some(lists_all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn an_account_of_one_database_does_not_see_all() {
        let status = |privileges: Vec<Document>| {
            let users = [doc! { "user": "backup", "db": "admin" }];
            doc! { "authInfo": { "authenticatedUsers": users, "authenticatedUserPrivileges": privileges } }
        };
        let privilege = |resource: Document, action: &str| doc! { "resource": resource, "actions": ["collStats", action] };
        let cluster = || privilege(doc! { "cluster": true }, "listDatabases");
        let of_one = || privilege(doc! { "db": "crvs", "collection": "" }, "find");
        assert_eq!(sees_all(&status(vec![cluster(), privilege(doc! { "db": "", "collection": "" }, "find")])), Some(true));
        assert_eq!(sees_all(&status(vec![cluster(), of_one()])), Some(true), "all are listed");
        assert_eq!(sees_all(&status(vec![privilege(doc! { "anyResource": true }, "anyAction")])), Some(true));
        assert_eq!(sees_all(&doc! { "authInfo": { "authenticatedUsers": [] } }), Some(true));
        assert_eq!(sees_all(&status(vec![of_one()])), Some(false));
        assert_eq!(sees_all(&status(vec![privilege(doc! { "db": "", "collection": "" }, "find")])), Some(false));
        assert_eq!(sees_all(&status(Vec::new())), None, "a user and no rights at all: the server does not tell them");
    }
}
