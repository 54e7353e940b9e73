//! Writes a page that verifies every op on the adapter of whoever opens it. The page is one file and needs no server.
//!
//! ```sh
//! cargo run --release -p wgloss-web    # target/wgloss.html
//! ```

#![cfg(not(target_arch = "wasm32"))]

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Parser;
use wasm_bindgen_cli_support::Bindgen;

const TARGET: &str = "wasm32-unknown-unknown";
const PAGE: &str = include_str!("page.html");

/// A page that verifies wgloss in a browser.
#[derive(Parser)]
struct Arguments {
    /// Where to write it; wgloss.html in cargo's target folder otherwise.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match write(&Arguments::parse()) {
        Ok(page) => {
            println!("{}", page.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(arguments: &Arguments) -> Result<PathBuf, Box<dyn Error>> {
    // This program is in <target>/<profile>. The code of the page is built next to it, with the same profile.
    let program = std::env::current_exe()?;
    let mut folders = program.ancestors().skip(1);
    let (Some(built), Some(target)) = (folders.next(), folders.next()) else {
        return Err(format!("{} should lie in cargo's target folder", program.display()).into());
    };
    let folder = built.file_name().unwrap_or_default();
    let profile = if folder == "debug" { "dev".as_ref() } else { folder };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--package", env!("CARGO_PKG_NAME"), "--lib", "--target", TARGET, "--profile"])
        .arg(profile)
        .arg("--target-dir")
        .arg(target)
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .status()?;
    if !status.success() {
        return Err(format!("cargo could not build for {TARGET}; `rustup target add {TARGET}` adds it").into());
    }
    let module = target.join(TARGET).join(folder).join("wgloss_web.wasm");
    let mut output = Bindgen::new().input_path(&module).no_modules(true)?.typescript(false).generate_output()?;
    let glue = output.js().replace("</script", "<\\/script");
    let module = BASE64.encode(output.wasm_mut().emit_wasm());
    let page = PAGE.replace("/* glue */", &glue).replace("/* module */", &module);
    let out = arguments.out.clone().unwrap_or_else(|| target.join("wgloss.html"));
    std::fs::write(&out, page).map_err(|error| format!("{}: {error}", out.display()))?;
    Ok(out)
}
