// y = tanh x;   dx = dy (1 - y^2), formed as dy (1 - y)(1 + y).
// Source: LeCun, Bottou, Orr and Mueller, Efficient BackProp (1998), section 4.4, doi:10.1007/3-540-49430-8_2.
// Cost: forward reads MN, writes MN; backward reads 2MN, writes MN.

fn output4(x: vec4<f32>) -> vec4<f32> {
    return precise_tanh4(x);
}

fn gradient4(y: vec4<f32>, dy: vec4<f32>) -> vec4<f32> {
    return dy * ((1.0 - y) * (1.0 + y));
}
