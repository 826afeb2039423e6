//! farkeep: parse, run, exit code.

/// One heap for all threads. With glibc's default, a heap for each of a dozen, what one frees no other can use: a push held
/// 190 MiB at once that needs 116.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 1;
/// Packs are mapped by themselves and given back whole; what is smaller, blocks and zstd's tables, comes out of the heap. Mapped
/// by itself it would cost a page fault for every 4 KiB, each time anew: half of the system's time of a push or a restore.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: libc::c_int = 12 << 20;
/// Free bytes at the heap's end that are kept for the next block.
#[cfg(target_env = "gnu")]
const KEPT_FREE_BYTES: libc::c_int = 64 << 20;

fn main() {
    #[cfg(target_env = "gnu")]
    keep_one_heap();
    std::process::exit(farkeep::cli::run());
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "there is no safe call for it; the library itself forbids unsafe code")]
fn keep_one_heap() {
    let settings =
        [(libc::M_ARENA_MAX, HEAPS), (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES), (libc::M_TRIM_THRESHOLD, KEPT_FREE_BYTES)];
    for (setting, value) in settings {
        // SAFETY: it takes two numbers and no pointer, and no other thread runs yet.
        unsafe { libc::mallopt(setting, value) };
    }
}
