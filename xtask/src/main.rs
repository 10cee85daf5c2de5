//! `cargo run -p xtask -- generate`: writes every generated file anew.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for generated in xtask::protobuf::GENERATED {
        std::fs::write(
            root.join(generated.rust),
            xtask::protobuf::generate(&root, generated)?,
        )?;
    }
    Ok(())
}
