use indicatif::{ProgressBar, ProgressStyle};

/// Whether to print a line for this epoch. Without a visible bar, about ten epochs are printed, the last among them.
pub fn tells(bar: &ProgressBar, epoch: usize, epochs: usize) -> bool {
    bar.is_hidden() && (epoch.is_multiple_of(epochs.div_ceil(10)) || epoch == epochs)
}

/// A bar of `len` steps, followed by `text`, a template of indicatif.
pub fn bar(len: u64, text: &str) -> ProgressBar {
    let bar = ProgressBar::new(len);
    let style = ProgressStyle::with_template(&format!("{{bar:30}} {text}"));
    bar.set_style(style.expect("a template without mistakes"));
    bar
}
