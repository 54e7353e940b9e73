//! Writes the WGSL of every op as a device gets it, for compilers that report on the code without the card.
//!
//! ```sh
//! cargo run --example wgsl -- target/wgsl
//! ```

use std::path::PathBuf;

use clap::Parser;
use wgloss::Storage;
use wgloss::internals::{Build, Content, Format, kernels, source, takes_quads};

/// The WGSL of every op: FOLDER/<op>.wgsl, for rows that are aligned to four elements; lanes share what they have in workgroup memory.
#[derive(Parser)]
struct Arguments {
    folder: PathBuf,
    /// How the tensors are stored.
    #[arg(long, default_value = "f32", value_parser = ["f32", "f16", "bf16"])]
    storage: String,
    /// Lanes share what they have through subgroup operations.
    #[arg(long)]
    subgroups: bool,
}

fn main() -> std::io::Result<()> {
    let Arguments { folder, storage, subgroups } = Arguments::parse();
    let storage = match storage.as_str() {
        "f16" => Storage::F16,
        "bf16" => Storage::Bf16,
        _ => Storage::F32,
    };
    std::fs::create_dir_all(&folder)?;
    for kernel in kernels() {
        let shader = kernel.shader;
        let formats = shader.bindings.iter().enumerate().map(|(index, (.., content))| match content {
            Content::Numbers => Format { storage, quads: takes_quads(shader, index), ..Format::default() },
            Content::Words | Content::Counters => Format::default(),
        });
        let build = Build { formats: formats.collect(), by_subgroup: subgroups, subgroups, ..Build::default() };
        std::fs::write(folder.join(format!("{}.wgsl", shader.op)), source(shader, &build))?;
    }
    println!("{}", folder.display());
    Ok(())
}
