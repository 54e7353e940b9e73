use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `len` steps with what `text`, a template of indicatif, says beside it.
pub fn bar(len: u64, text: &str) -> ProgressBar {
    let bar = ProgressBar::new(len);
    let style = ProgressStyle::with_template(&format!("{{bar:30}} {text}"));
    bar.set_style(style.expect("a template without mistakes"));
    bar
}
