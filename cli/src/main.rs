fn main() {
    let gpu = wgloss::Gpu::new().unwrap();
    println!("{:?}", gpu.info());
    for (op, suite) in wgloss::verify::SUITES {
        let t = std::time::Instant::now();
        match wgloss::verify::run(&gpu, suite) {
            Ok(r) => {
                println!(
                    "{op}: {} compared, ulp {:.1} rel {:.2e}, {} failures, {:?}",
                    r.compared,
                    r.worst_ulp,
                    r.worst_relative,
                    r.failures.len(),
                    t.elapsed()
                );
                for f in r.failures.iter().take(12) {
                    println!("   {f}");
                }
            }
            Err(e) => println!("{op}: {e}"),
        }
    }
}
