use indicatif::{ProgressBar, ProgressStyle};

/// Whether an epoch is told in a line: where nobody watches a bar, ten lines tell as much.
pub fn tells(bar: &ProgressBar, epoch: usize, epochs: usize) -> bool {
    bar.is_hidden() && (epoch.is_multiple_of(epochs.div_ceil(10)) || epoch == epochs)
}

/// A bar of `len` steps with what `text`, a template of indicatif, says beside it.
pub fn bar(len: u64, text: &str) -> ProgressBar {
    let bar = ProgressBar::new(len);
    let style = ProgressStyle::with_template(&format!("{{bar:30}} {text}"));
    bar.set_style(style.expect("a template without mistakes"));
    bar
}
