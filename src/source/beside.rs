//! Names of databases beside the one that is restored: the new one while it is filled, the old one while it makes room.

use crate::crypto::hash::hash;

/// After the name of a database that is still being filled.
pub const NEW_SUFFIX: &str = "_farkeep_new";
/// After the name of the one that makes room.
pub const OLD_SUFFIX: &str = "_farkeep_old";
/// Of the hash that stands for what a long name lost: hexadecimal digits.
const HASH_LENGTH: usize = 12;

/// The name beside `database`: the same whenever it is asked for, so that what broke off is found again. A server takes names
/// up to `most`, as `size` counts their letters; one that is too long with its suffix is cut, and a hash of all of it tells it
/// from others that begin alike.
pub fn beside(database: &str, suffix: &str, most: usize, size: impl Fn(char) -> usize) -> String {
    let room = most - suffix.len();
    if database.chars().map(&size).sum::<usize>() <= room {
        return format!("{database}{suffix}");
    }
    let mut left = room - HASH_LENGTH - 1;
    let fits = |letter: &char| {
        let rest = left.checked_sub(size(*letter));
        left = rest.unwrap_or_default();
        rest.is_some()
    };
    let begin: String = database.chars().take_while(fits).collect();
    format!("{begin}_{}{suffix}", &hash(database.as_bytes()).to_string()[..HASH_LENGTH])
}
