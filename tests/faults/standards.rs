//! Our age files by Debian's age, our signatures by ssh-keygen, and the reverse.

use std::fs;
use std::process::Command;

use farkeep::crypto::identity::Identity;
use farkeep::crypto::open::open;
use farkeep::crypto::seal::seal;
use farkeep::crypto::sign::{SigningKey, VerifyingKey};

use crate::rounds;
use crate::world::sshd::scratch;
use crate::world::tools::{must, must_bytes, ssh_keygen_verifies};
use crate::world::{Random, needs};

const STEP: u64 = 64 * 1024;
const CLASS: u64 = 16 << 20;

/// Where age's stream and our packs change, and sizes in between.
fn sizes(random: &mut Random) -> Vec<u64> {
    let borders = [0, 1, STEP - 1, STEP, STEP + 1, 2 * STEP, CLASS - 1, CLASS, CLASS + 1];
    let further = (0..rounds(500)).map(|_| random.below(4 * STEP)).collect::<Vec<_>>();
    borders.into_iter().chain(further).collect()
}

#[test]
fn what_we_seal_age_opens_and_what_age_seals_we_open() {
    needs!("age");
    let mut random = Random::new(18);
    let dir = scratch();
    let (identity, other) = (Identity::generate(), Identity::generate());
    let (key, sealed_file, plain_file) = (dir.path().join("key"), dir.path().join("sealed"), dir.path().join("plain"));
    fs::write(&key, identity.to_text().as_bytes()).unwrap();
    for size in sizes(&mut random) {
        let plain = random.bytes(size as usize);
        // In pieces, as packs are sealed, and to two recipients, as indexes are.
        let middle = random.below(size + 1) as usize;
        let sealed = seal(&[&plain[..middle], &plain[middle..]], &[other.recipient(), identity.recipient()]).unwrap();
        fs::write(&sealed_file, &sealed.bytes).unwrap();
        let opened = must_bytes(Command::new("age").arg("-d").arg("-i").arg(&key).arg(&sealed_file));
        assert!(opened == plain, "age opens {size} bytes into something else");
        assert_eq!(sealed.name.bytes, sealed.bytes.len() as u64);

        fs::write(&plain_file, &plain).unwrap();
        let theirs = must_bytes(Command::new("age").arg("-r").arg(identity.recipient().to_string()).arg(&plain_file));
        assert!(open(&theirs, std::slice::from_ref(&identity), size).unwrap() == plain, "{size} bytes of age's");
        assert!(open(&theirs, std::slice::from_ref(&other), size).is_err());
        if size > 0 {
            assert!(open(&theirs, std::slice::from_ref(&identity), size - 1).is_err(), "the limit does not hold");
            let mut cut = theirs.clone();
            cut.truncate(theirs.len() - 1);
            assert!(open(&cut, std::slice::from_ref(&identity), size).is_err(), "a cut file of {size} bytes opens");
        }
    }
}

#[test]
fn what_we_sign_ssh_keygen_verifies_and_the_reverse() {
    needs!("ssh-keygen");
    let mut random = Random::new(19);
    let dir = scratch();
    let theirs = dir.path().join("theirs");
    must(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "them", "-f"]).arg(&theirs));
    let their_key = VerifyingKey::from_openssh(&fs::read_to_string(dir.path().join("theirs.pub")).unwrap()).unwrap();
    let our_key = SigningKey::generate("us").unwrap();
    for round in 0..rounds(100) {
        let length = random.below(60_000) as usize;
        let line: String = (0..length).map(|_| char::from(b' ' + random.below(95) as u8)).collect::<String>() + "\n";
        let armor = our_key.sign("farkeep-record@v1", &line).unwrap();
        let verify = |line: &str, namespace: &str| {
            ssh_keygen_verifies(dir.path(), &our_key.verifier().to_openssh(), line, &armor, namespace)
        };
        assert!(verify(&line, "farkeep-record@v1"), "round {round}");
        assert!(!verify(&line, "farkeep-trust@v1") && !verify(&format!("{line}x"), "farkeep-record@v1"), "round {round}");

        let statement = dir.path().join(format!("line{round}"));
        fs::write(&statement, &line).unwrap();
        must(
            Command::new("ssh-keygen")
                .args(["-q", "-Y", "sign", "-n", "farkeep-record@v1", "-f"])
                .arg(&theirs)
                .arg(&statement),
        );
        let armor = fs::read_to_string(dir.path().join(format!("line{round}.sig"))).unwrap();
        assert!(their_key.verify("farkeep-record@v1", &line, &armor).is_ok(), "round {round}");
        assert!(their_key.verify("farkeep-trust@v1", &line, &armor).is_err(), "round {round}");
        assert!(their_key.verify("farkeep-record@v1", &line[1..], &armor).is_err(), "round {round}");
        assert!(our_key.verifier().verify("farkeep-record@v1", &line, &armor).is_err(), "round {round}");
    }
}
