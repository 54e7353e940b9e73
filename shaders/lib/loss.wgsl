// The common part of elementwise losses. The gradient of an element is `weight4` times the derivative of the element's
// loss.

// What `loss` receives: nothing, each element's loss, or the sum over each segment.
const ELEMENTS: u32 = 1u;
const SUMS: u32 = 2u;
override LOSS: u32 = 0u;
// How the upstream gradient `dy` varies: not at all, by row, or by element.
const BY_ROW: u32 = 1u;
const BY_ELEMENT: u32 = 2u;
override DY: u32 = 0u;
// GRADIENTS: one bit for each gradient that is wanted. ADD: whether gradients are added to their outputs.
override GRADIENTS: u32 = 0u;
override ADD: u32 = 0u;

// The gradient of the loss (`dy`) times the factor of the reduction.
fn weight4(i: u32, j: u32, end: u32) -> vec4<f32> {
    if DY == BY_ELEMENT {
        return params.factor * load_dy4(i, j, end, 0.0);
    }
    return vec4(params.factor * load_dy(select(0u, i, DY == BY_ROW), 0u));
}

// Stores four losses if each element's loss is wanted. Returns their sum.
fn keep_loss(i: u32, j: u32, end: u32, loss: vec4<f32>) -> f32 {
    if LOSS == ELEMENTS {
        store_loss4(i, j, end, loss);
    }
    let inside = select(vec4(0.0), loss, vec4(j) + vec4(0u, 1u, 2u, 3u) < vec4(end));
    return (inside.x + inside.y) + (inside.z + inside.w);
}

fn keep_sum(span: Span, lane: u32, sum: f32) {
    if LOSS != SUMS {
        return;
    }
    let total = reduce_sum(lane, sum);
    if span.lead {
        store_loss(span.i, span.segment, total);
    }
}

// a b, but 0 where a is 0, even if b is infinite. NaN where b is NaN.
fn times4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return select(a * b, vec4(0.0), (a == vec4(0.0)) & !nans(b));
}
