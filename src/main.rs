//! farkeep: parse, run, exit code.

fn main() {
    std::process::exit(farkeep::cli::run());
}
