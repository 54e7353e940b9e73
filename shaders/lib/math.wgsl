// Scalar functions whose error does not depend on the device. WGSL allows its built-ins an error of 3 + 2|x| ulp in
// exp, 2^-21 near 1 in log and 1e-5 in tanh. It also lets compilers assume that no NaN or infinity exists, so special
// values are recognized by their bits.

const LOWEST: f32 = -0x1.fffffep+127f;

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn nans(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4(0x7fffffffu)) > vec4(0x7f800000u);
}

fn is_infinite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
}

fn not_finite(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4(0x7fffffffu)) >= vec4(0x7f800000u);
}

// A `var`, because WGSL forbids constant expressions that are infinite or NaN.
fn from_bits(pattern: u32) -> f32 {
    var bits = pattern;
    return bitcast<f32>(bits);
}

fn infinity() -> f32 {
    return from_bits(0x7f800000u);
}

// -inf: a mask in logits. Columns past a row's end also load as -inf where they must add nothing to a log-sum-exp.
fn masked() -> f32 {
    return from_bits(0xff800000u);
}

fn not_a_number() -> f32 {
    return from_bits(0x7fc00000u);
}

// Returns x, hidden from the compiler: the parameter `zero` is 0, but no compiler knows it. A compiler that treats sums
// of f32 as exact would combine the operations before and after. Of e^x = 2^n e^r, Direct3D's (FXC) left only 2^n, and
// Mesa's added up both parts of ln 2. Metal's may do so by default, as -ffast-math allows; gcc with that option gave an
// error of 31 ulp.
fn opaque4(x: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) ^ vec4(params.zero));
}

fn max4(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

fn sum16(v: mat4x4<f32>) -> f32 {
    let four = (v[0] + v[1]) + (v[2] + v[3]);
    return (four.x + four.y) + (four.z + four.w);
}

fn product16(a: mat4x4<f32>, b: mat4x4<f32>) -> f32 {
    return sum16(mat4x4(a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]));
}

// e^x within 0.91 ulp where `fma` rounds once, 1.17 where it rounds twice. x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 is
// split so that n * LN2_HIGH is exact. e^r = 1 + r + r^2 p(r). The coefficients of p minimize the relative error,
// 3.1e-9.
const LOG2_E: f32 = 1.442695041;
const LN2_HIGH: f32 = 0.693359375;
const LN2_LOW: f32 = -2.12194440e-4;
const EXP_LOWEST: f32 = -88.0; // n = -127, for which e^x is 0

// Returns n + SHIFT, where n is the integer nearest to x log2 e. Its lowest eight bits are n + 127, the biased exponent
// of 2^n. `round` takes an NVIDIA card as long as eight additions.
const SHIFT: f32 = 12583039.0; // 1.5 * 2^23 + 127
fn shifted_power4(x: vec4<f32>) -> vec4<f32> {
    return opaque4(fma(x, vec4(LOG2_E), vec4(SHIFT)));
}

// e^(x - n ln 2) for n = shifted - SHIFT.
fn exp_fraction4(x: vec4<f32>, shifted: vec4<f32>) -> vec4<f32> {
    let n = shifted - SHIFT;
    let r = opaque4(x - n * LN2_HIGH) - n * LN2_LOW;
    var p = vec4(1.3814603e-3);
    p = fma(p, r, vec4(8.368716e-3));
    p = fma(p, r, vec4(4.166839e-2));
    p = fma(p, r, vec4(1.6666521e-1));
    p = fma(p, r, vec4(4.9999994e-1));
    p = fma(p, r, vec4(1.0));
    return fma(p, r, vec4(1.0));
}

// y * 2^n for -127 <= n < 128. The result is 0 for n = -127, and a device may return 0 for subnormal results. A
// conversion to i32 would be clamped first, which took half of the time.
fn times_power_of_two4(y: vec4<f32>, shifted: vec4<f32>) -> vec4<f32> {
    return y * bitcast<vec4<f32>>(bitcast<vec4<u32>>(shifted) << vec4(23u));
}

// For x between EXP_LOWEST and 88 only.
fn exp_in_range(x: vec4<f32>) -> vec4<f32> {
    let shifted = shifted_power4(x);
    return times_power_of_two4(exp_fraction4(x, shifted), shifted);
}

// e^x for x <= 88. A device may return 0 below e^-87.34, where subnormal numbers begin; from EXP_LOWEST down the result
// is 0.
fn precise_exp4(x: vec4<f32>) -> vec4<f32> {
    return exp_in_range(max(x, vec4(EXP_LOWEST)));
}

// Compilers drop the components that nothing reads.
fn precise_exp(x: f32) -> f32 {
    return precise_exp4(vec4(x)).x;
}

// e^x for any x: +inf where e^x exceeds f32, NaN for NaN. At 88.7 n is 128, one more than an exponent holds, so one
// factor 2 is applied at the end.
fn exp_of_any4(x: vec4<f32>) -> vec4<f32> {
    let inside = clamp(x, vec4(EXP_LOWEST), vec4(89.0));
    let shifted = shifted_power4(inside);
    let most = vec4(SHIFT + 127.0);
    let y = times_power_of_two4(exp_fraction4(inside, shifted), min(shifted, most));
    return select(select(select(y, 2.0 * y, shifted > most), vec4(infinity()), x > vec4(88.722839)), x, nans(x));
}

// e^x - 1 - x where |x| <= 1, by its series.
fn exp_tail4(x: vec4<f32>) -> vec4<f32> {
    var p = 1.0 + x * (1.0 / 11.0);
    p = 1.0 + x * 0.1 * p;
    p = 1.0 + x * (1.0 / 9.0) * p;
    p = 1.0 + x * 0.125 * p;
    p = 1.0 + x * (1.0 / 7.0) * p;
    p = 1.0 + x * (1.0 / 6.0) * p;
    p = 1.0 + x * 0.2 * p;
    p = 1.0 + x * 0.25 * p;
    p = 1.0 + x * (1.0 / 3.0) * p;
    return 0.5 * x * x * p;
}

fn exp_minus_one_minus4(x: vec4<f32>) -> vec4<f32> {
    let e = exp_of_any4(x);
    let far = select((e - 1.0) - x, e, e > vec4(3.4e38)); // not inf - inf
    return select(far, exp_tail4(x), abs(x) < vec4(1.0));
}

fn precise_expm1_4(x: vec4<f32>) -> vec4<f32> {
    return select(exp_of_any4(x) - 1.0, x + exp_tail4(x), abs(x) < vec4(1.0));
}

// ln(1 + r) for r between 0 and 1: 2 artanh(r/(2 + r)), whose argument is at most 1/3.
fn log1p_of_share4(r: vec4<f32>) -> vec4<f32> {
    let s = r / (2.0 + r);
    let z = s * s;
    var p = vec4(1.0 / 15.0);
    p = p * z + 1.0 / 13.0;
    p = p * z + 1.0 / 11.0;
    p = p * z + 1.0 / 9.0;
    p = p * z + 1.0 / 7.0;
    p = p * z + 0.2;
    p = p * z + 1.0 / 3.0;
    return select(2.0 * (s + s * z * p), r, r < vec4(1e-8)); // s of the smallest normal r may be flushed to 0
}

// ln(1 + r) within 2.5 ulp for r >= 0, NaN for NaN. ln f = 2 artanh((f - 1)/(f + 1)) with f in [sqrt(1/2), sqrt 2];
// where r is small, (f - 1)/(f + 1) = r/(2 + r) never forms 1 + r.
fn precise_log1p(r: f32) -> f32 {
    if is_nan(r) {
        return r;
    }
    let bits = bitcast<u32>(1.0 + r);
    let n = select(i32(bits - 0x3f3504f3u) >> 23u, 0, r < 0.4);
    let f = bitcast<f32>(bits - (u32(n) << 23u));
    let s = select((f - 1.0) / (f + 1.0), r / (2.0 + r), r < 0.4);
    let z = s * s;
    let tail = s * z * (0.6666666667 + z * (0.4 + z * (0.2857142857 + z * (0.2222222222 + z * 0.1818181818))));
    return select(f32(n) * LN2_HIGH + (2.0 * s + (tail + f32(n) * LN2_LOW)), r, r < 1e-8); // as above
}

// ln x within 2.5 ulp for normal positive numbers. Finite for 0 and subnormal numbers.
fn log_of_normal4(x: vec4<f32>) -> vec4<f32> {
    return log_times_power4(x, vec4(0.0));
}

// ln(x 2^-lifted).
fn log_times_power4(x: vec4<f32>, lifted: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<i32>>(x);
    let n = (bits - vec4(0x3f3504f3)) >> vec4(23u);
    let f = bitcast<vec4<f32>>(bits - (n << vec4(23u)));
    let s = (f - 1.0) / (f + 1.0);
    let z = s * s;
    let tail = s * z * (0.6666666667 + z * (0.4 + z * (0.2857142857 + z * (0.2222222222 + z * 0.1818181818))));
    let count = vec4<f32>(n) - lifted;
    return count * LN2_HIGH + (2.0 * s + (tail + count * LN2_LOW));
}

// ln x within 2.5 ulp; -inf for 0, NaN for NaN and negative numbers. Subnormal numbers, if the device has them, are
// first multiplied by 2^24.
fn precise_log4(x: vec4<f32>) -> vec4<f32> {
    let small = x < vec4(0x1p-126f);
    let log = log_times_power4(select(x, x * 16777216.0, small), select(vec4(0.0), vec4(24.0), small));
    let of_zero = select(log, vec4(masked()), x == vec4(0.0));
    return select(select(of_zero, x, not_finite(x)), vec4(not_a_number()), x < vec4(0.0));
}

// tanh x within 2 ulp, NaN for NaN. Coefficients below 5/8: Cephes tanhf.
fn precise_tanh4(x: vec4<f32>) -> vec4<f32> {
    let a = min(abs(x), vec4(20.0));
    let z = a * a;
    var p = vec4(-5.70498872745e-3);
    p = p * z + 2.06390887954e-2;
    p = p * z - 5.37397155531e-2;
    p = p * z + 1.33314422036e-1;
    p = p * z - 3.33332819422e-1;
    let large = 1.0 - 2.0 / (exp_in_range(2.0 * a) + 1.0);
    let y = select(large, p * z * a + a, a < vec4(0.625));
    return select(select(y, -y, x < vec4(0.0)), x, nans(x));
}
