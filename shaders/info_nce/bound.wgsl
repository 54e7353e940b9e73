// log_scale = min(log_scale, scale), where `scale` is its upper bound. NaN stays NaN.
@compute @workgroup_size(WG)
fn bound(@builtin(local_invocation_index) lane: u32) {
    if lane != 0u {
        return;
    }
    let exponent = load_log_scale(0u, 0u);
    store_bounded(0u, 0u, select(min(exponent, params.scale), exponent, is_nan(exponent)));
}
