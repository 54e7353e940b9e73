// Sorted lists of ids, stored one after the other: list l is items[starts[l]] to items[starts[l + 1] - 1], ascending.
// Bindings: `starts`, `items`, `list`. Scalars: `lists`, the number of lists; `items_count`; `by_row`: row i has list
// list[i] instead of list 0. A list that does not exist is empty.

fn list_of(i: u32) -> vec2<u32> {
    var l = 0u;
    if params.by_row == 1u {
        l = load_list(i, 0u);
    }
    if l >= params.lists {
        return vec2(0u);
    }
    let end = min(load_starts(l + 1u, 0u), params.items_count);
    return vec2(min(load_starts(l, 0u), end), end);
}

// The position of `id` in the list, or where it would be inserted.
fn place_in(list: vec2<u32>, id: u32) -> u32 {
    var low = list.x;
    var high = list.y;
    while low < high {
        let middle = low + (high - low) / 2u;
        if load_items(middle, 0u) < id {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

fn is_listed(list: vec2<u32>, id: u32) -> bool {
    let place = place_in(list, id);
    return place < list.y && load_items(place, 0u) == id;
}
