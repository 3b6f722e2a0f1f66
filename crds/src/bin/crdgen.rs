//! Writes the CustomResourceDefinitions of all kinds into the folder `crds/`: `cargo run -p crds --bin crdgen`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for manifest in crds::manifest::manifests()? {
        let path = folder.join(manifest.file);
        std::fs::write(&path, manifest.to_yaml()?)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
