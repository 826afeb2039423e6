//! Whether an account sees a whole deployment: a server lists to each account the databases that it may read, and a dump of
//! all that are listed ends well.

use bson::{Bson, Document};

/// Whether nothing is hidden from whom `status` (the answer to `connectionStatus` with `showPrivileges`) is about. A server
/// that asks for no login hides nothing.
pub fn sees_all(status: &Document) -> bool {
    let Ok(about) = status.get_document("authInfo") else { return true };
    let listed = |key: &str| about.get_array(key).map(Vec::as_slice).unwrap_or_default();
    if listed("authenticatedUsers").is_empty() {
        return true;
    }
    let may = |action: &str, is_meant: &dyn Fn(&Document) -> bool| {
        listed("authenticatedUserPrivileges").iter().filter_map(Bson::as_document).any(|privilege| {
            let is_meant =
                privilege.get_document("resource").is_ok_and(|r| r.get_bool("anyResource").unwrap_or(false) || is_meant(r));
            let actions = privilege.get_array("actions").map(Vec::as_slice).unwrap_or_default();
            is_meant && actions.iter().any(|may| [action, "anyAction"].contains(&may.as_str().unwrap_or_default()))
        })
    };
    let is_cluster = |resource: &Document| resource.get_bool("cluster").unwrap_or(false);
    // Nothing named is everything.
    let is_any = |resource: &Document| ["db", "collection"].iter().all(|key| resource.get_str(key).is_ok_and(str::is_empty));
    may("listDatabases", &is_cluster) && may("find", &is_any)
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
        assert!(sees_all(&status(vec![cluster(), privilege(doc! { "db": "", "collection": "" }, "find")])));
        assert!(sees_all(&status(vec![privilege(doc! { "anyResource": true }, "anyAction")])));
        assert!(sees_all(&doc! { "authInfo": { "authenticatedUsers": [] } }));
        assert!(!sees_all(&status(vec![privilege(doc! { "db": "crvs", "collection": "" }, "find")])));
        assert!(!sees_all(&status(vec![cluster(), privilege(doc! { "db": "crvs", "collection": "" }, "find")])));
        assert!(!sees_all(&status(vec![privilege(doc! { "db": "", "collection": "" }, "find")])));
        assert!(!sees_all(&status(Vec::new())));
    }
}
