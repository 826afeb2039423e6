//! farkeep: parse, run, exit code.

/// Allocations from this size on are mapped by themselves, and given back whole as soon as they are freed.
///
/// glibc raises its own threshold to whatever was freed last, up to 32 MiB. Packs, blocks and frames then come out of the heaps
/// of a dozen threads, and what one thread frees no other can use: a push held 190 MiB at once that needs 116.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: libc::c_int = 1 << 20;

fn main() {
    #[cfg(target_env = "gnu")]
    map_large_allocations();
    std::process::exit(farkeep::cli::run());
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "there is no safe call for it; the library itself forbids unsafe code")]
fn map_large_allocations() {
    // SAFETY: it takes two numbers and no pointer, and no other thread runs yet.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES) };
}
