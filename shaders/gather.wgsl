// forward: y_i = table[ids_i], 0 where ids_i is not a row.   scatter: table[ids_i] = y_i.
// backward: dtable_r = the sum of dy_i over the i with ids_i = r. Equal ids are summed one after the other: the pairs
// (id, i) are sorted stably by id, by digits of four bits from the lowest to the highest. Then blocks of 64 places of
// the sorted ids are summed. The partial sums of a run of equal ids that spans several blocks are added up in order.
// Source: table of embeddings: Bengio et al. 2003; radix sort: Knuth, The Art of Computer Programming 3, 5.2.5.
// Cost: forward and scatter read and write each row once. Backward reads dy once and writes each row that occurs. The
// sort, per digit, reads and writes each id and i once and counts an id in 1 byte.

override COMPACT: u32 = 0u; // a sum is stored at the place where its run begins, not at the row of its id
override ADD: u32 = 0u;

// Ids per block, and counts per block (one for each value of a digit).
const BLOCK: u32 = 64u;
const DIGITS: u32 = 16u;

@compute @workgroup_size(WG)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    if span.first >= span.end {
        return;
    }
    let id = load_ids(span.i, 0u);
    let nowhere = id >= params.all_rows;
    let r = id - params.first_row;
    if select(r >= params.part_rows, params.first_row > 0u, nowhere) {
        return;
    }
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        let row = load_rows_in4(select(r, 0u, nowhere), j, span.end, 0.0);
        store_rows_out4(span.i, j, span.end, select(row, vec4(0.0), nowhere));
    }
}

@compute @workgroup_size(WG)
fn scatter(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    if span.first >= span.end {
        return;
    }
    let r = load_ids(span.i, 0u) - params.first_row;
    if r >= params.part_rows {
        return;
    }
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        store_rows_out4(r, j, span.end, load_rows_in4(span.i, j, span.end, 0.0));
    }
}

@compute @workgroup_size(WG)
fn clear(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let span = span_of(group, groups, lane);
    for (var j = span.first; j < span.end; j += 4u * LANES) {
        store_rows_out4(span.i, j, span.end, vec4(0.0));
    }
}

// The id, or `all_rows` for an id that is not a row of the table: these sort last.
fn key_of(place: u32) -> u32 {
    return min(load_ids(place, 0u), params.all_rows);
}

fn digit_of(key: u32) -> u32 {
    return (key >> params.shift) & (DIGITS - 1u);
}

// Sixteen counts of at most 255, one byte each; adds 1 to the count of `digit`.
fn one_more(counts: vec4<u32>, digit: u32) -> vec4<u32> {
    return counts + select(vec4(0u), vec4(1u << (8u * (digit & 3u))), vec4(digit >> 2u) == vec4(0u, 1u, 2u, 3u));
}

fn count_of(counts: vec4<u32>, digit: u32) -> u32 {
    let four = select(select(counts.x, counts.y, (digit >> 2u) == 1u), select(counts.z, counts.w, (digit >> 2u) == 3u), digit >= 8u);
    return (four >> (8u * (digit & 3u))) & 255u;
}

// counts[digit blocks + b] = how many ids of block b have the digit.
@compute @workgroup_size(WG)
fn count(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let b = item_of(group, groups, lane);
    if b >= params.rows {
        return;
    }
    var counts = vec4(0u);
    for (var place = b * BLOCK; place < min(params.places, (b + 1u) * BLOCK); place++) {
        counts = one_more(counts, digit_of(key_of(place)));
    }
    for (var digit = 0u; digit < DIGITS; digit++) {
        store_counts(digit * params.rows + b, 0u, count_of(counts, digit));
    }
}

// above[b] = the sum of the counts of block b.
@compute @workgroup_size(WG)
fn climb(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let b = item_of(group, groups, lane);
    if b >= params.rows {
        return;
    }
    var sum = 0u;
    for (var at = b * params.cols; at < min(params.places, (b + 1u) * params.cols); at++) {
        sum += load_counts_in(at, 0u);
    }
    store_above(b, 0u, sum);
}

// Each count becomes the sum of those before it; in block b this sum starts at above[b].
@compute @workgroup_size(WG)
fn descend(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let b = item_of(group, groups, lane);
    if b >= params.rows {
        return;
    }
    var sum = 0u;
    if b > 0u {
        sum = load_above_in(b, 0u);
    }
    for (var at = b * params.cols; at < min(params.places, (b + 1u) * params.cols); at++) {
        let own = load_counts(at, 0u);
        store_counts(at, 0u, sum);
        sum += own;
    }
}

@compute @workgroup_size(WG)
fn place(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let b = item_of(group, groups, lane);
    if b >= params.rows {
        return;
    }
    var counts = vec4(0u);
    for (var at = b * BLOCK; at < min(params.places, (b + 1u) * BLOCK); at++) {
        let key = key_of(at);
        let digit = digit_of(key);
        let to = load_counts_in(digit * params.rows + b, 0u) + count_of(counts, digit);
        counts = one_more(counts, digit);
        store_new_ids(to, 0u, key);
        var origin = at;
        if params.shift > 0u {
            origin = load_order(at, 0u);
        }
        store_new_order(to, 0u, origin);
    }
}

// For sorted ids. new_ids = the id where a run begins, else 2^32 - 1. new_order, at the original position of each id, =
// the place where its run begins, 2^32 - 1 for an id that is not a row of the table.
@compute @workgroup_size(WG)
fn begin(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = item_of(group, groups, lane);
    if at >= params.rows {
        return;
    }
    let key = load_ids(at, 0u);
    var head = 0u;
    var last = at;
    while head < last {
        let middle = head + (last - head) / 2u;
        if load_ids(middle, 0u) < key {
            head = middle + 1u;
        } else {
            last = middle;
        }
    }
    let is_row = key < params.all_rows;
    store_new_ids(at, 0u, select(0xffffffffu, key, is_row && head == at));
    store_new_order(load_order(at, 0u), 0u, select(0xffffffffu, head, is_row));
}

// Stores or adds the sum of a run, unless its id is not a row of this part of the table.
fn finish(key: u32, head: u32, j: u32, sum: vec4<f32>) {
    let r = select(key - params.first_row, head, COMPACT == 1u);
    if key >= params.all_rows || (COMPACT == 0u && r >= params.part_rows) {
        return;
    }
    var total = sum;
    if ADD == 1u {
        total += load_rows_out4(r, j, params.width, 0.0);
    }
    store_rows_out4(r, j, params.width, total);
}

// A lane sums four columns of a block. The sum of a run that began before the block goes to parts[2 b]; that of a run
// that began in the block and continues after it goes to parts[2 b + 1].
@compute @workgroup_size(WG)
fn sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = item_of(group, groups, lane);
    let b = item / params.cols;
    if b >= params.rows {
        return;
    }
    let j = 4u * (item - b * params.cols);
    let first = b * BLOCK;
    let end = min(params.places, first + BLOCK);
    var key = load_ids(first, 0u);
    if COMPACT == 0u && (load_ids(end - 1u, 0u) < params.first_row || key >= params.first_row + params.part_rows) {
        return;
    }
    var began = true;
    if first > 0u {
        began = load_ids(first - 1u, 0u) != key;
    }
    var head = first;
    var sum = vec4(0.0);
    for (var at = first; at < end; at++) {
        let next = load_ids(at, 0u);
        if next != key {
            if began {
                finish(key, head, j, sum);
            } else {
                store_parts4(2u * b, j, params.width, sum);
            }
            key = next;
            head = at;
            began = true;
            sum = vec4(0.0);
        }
        if COMPACT == 1u {
            let is_head = at == head && began && key < params.all_rows;
            if !is_head {
                store_rows_out4(at, j, params.width, vec4(0.0));
            }
            if j == 0u {
                store_new_ids(at, 0u, select(0xffffffffu, key, is_head));
            }
        }
        sum += load_rows_in4(load_order(at, 0u), j, params.width, 0.0);
    }
    var ends = true;
    if end < params.places {
        ends = load_ids(end, 0u) != key;
    }
    if began && ends {
        finish(key, head, j, sum);
    } else {
        store_parts4(2u * b + select(0u, 1u, began), j, params.width, sum);
    }
}

// Adds up the parts of a run that begins in block b and ends in a later block.
@compute @workgroup_size(WG)
fn merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = item_of(group, groups, lane);
    let b = item / params.cols;
    let end = (b + 1u) * BLOCK;
    if b >= params.rows || end >= params.places {
        return;
    }
    let j = 4u * (item - b * params.cols);
    let key = load_ids(end, 0u);
    var head = end;
    while head > b * BLOCK && load_ids(max(head, 1u) - 1u, 0u) == key {
        head--;
    }
    let began_before = head == b * BLOCK && head > 0u && load_ids(max(head, 1u) - 1u, 0u) == key;
    if head == end || began_before {
        return;
    }
    if COMPACT == 0u && key - params.first_row >= params.part_rows {
        return;
    }
    var sum = load_parts_in4(2u * b + 1u, j, params.width, 0.0);
    var goes_on = true;
    for (var next = b + 1u; goes_on; next++) {
        sum += load_parts_in4(2u * next, j, params.width, 0.0);
        goes_on = (next + 1u) * BLOCK < params.places;
        if goes_on {
            goes_on = load_ids((next + 1u) * BLOCK, 0u) == key;
        }
    }
    finish(key, head, j, sum);
}
