// The K keys with the largest <q_i, k_j>, best first; of equal scores the smaller j first. Keys with score NaN and keys
// in row i's list are left out.
// A lane scans one of `slices` slices of a query's columns and keeps its K best in order. Then the lists are merged in
// pairs.
// Cost: the product, written to and read from a workspace once; about K ln(M/K) insertions per list, each moving at
// most K entries.

const NONE: u32 = 0xffffffffu;

fn comes_before(score: f32, id: u32, other: f32, other_id: u32) -> bool {
    return score > other || (score == other && id < other_id);
}

// The position of entry p of a list: the lists of all lanes are interleaved.
fn at(item: u32, p: u32) -> u32 {
    return p * params.lists_all + item;
}

@compute @workgroup_size(WG)
fn insert(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = item_of(group, groups, lane);
    let i = item / params.cols;
    if i >= params.rows {
        return;
    }
    if params.fresh == 1u {
        for (var p = 0u; p < params.k; p++) {
            store_ids(at(item, p), 0u, NONE);
            store_scores(at(item, p), 0u, masked());
        }
    }
    let list = list_of(i);
    let last = params.k - 1u;
    var worst = load_scores(at(item, last), 0u);
    var worst_id = load_ids(at(item, last), 0u);
    for (var j = item - i * params.cols; j < params.width; j += params.cols) {
        let score = load_product(i, j);
        let id = params.first + j;
        if !comes_before(score, id, worst, worst_id) || is_listed(list, id) {
            continue;
        }
        var p = last;
        while p > 0u {
            let above = load_scores(at(item, p - 1u), 0u);
            let above_id = load_ids(at(item, p - 1u), 0u);
            if !comes_before(score, id, above, above_id) {
                break;
            }
            store_scores(at(item, p), 0u, above);
            store_ids(at(item, p), 0u, above_id);
            p--;
        }
        store_scores(at(item, p), 0u, score);
        store_ids(at(item, p), 0u, id);
        worst = load_scores(at(item, last), 0u);
        worst_id = load_ids(at(item, last), 0u);
    }
}

// Merges two lists of a query at a time into the K best; `slices` lists become `cols`. The last merge writes rows
// (`by_rows`).
@compute @workgroup_size(WG)
fn merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = item_of(group, groups, lane);
    let i = item / params.cols;
    if i >= params.rows {
        return;
    }
    let first = i * params.slices + item - i * params.cols;
    let second = first + params.cols;
    let has_second = item - i * params.cols + params.cols < params.slices;
    var p = vec2(0u);
    for (var to = 0u; to < params.k; to++) {
        var score = load_scores_in(at(first, p.x), 0u);
        var id = load_ids_in(at(first, p.x), 0u);
        var takes_first = true;
        if has_second {
            let other = load_scores_in(at(second, p.y), 0u);
            let other_id = load_ids_in(at(second, p.y), 0u);
            if comes_before(other, other_id, score, id) {
                score = other;
                id = other_id;
                takes_first = false;
            }
        }
        p += select(vec2(0u, 1u), vec2(1u, 0u), takes_first);
        if params.by_rows == 1u {
            store_scores(i, to, score);
            store_ids(i, to, id);
        } else {
            store_scores(to * params.rows * params.cols + item, 0u, score);
            store_ids(to * params.rows * params.cols + item, 0u, id);
        }
    }
}
