//! Views, and copies to and from them.

use wgloss::verify::Fill;
use wgloss::{Error, Gpu, Storage, Tensor, softmax};
use wgpu::BufferUsages;

use crate::harness::*;

fn counted(len: usize) -> Vec<u32> {
    (0..len as u32).collect()
}

#[test]
fn views_read_what_they_cover() {
    let Some(gpu) = gpu() else { return };
    let buffer = gpu.upload(&counted(24)).unwrap();
    let all = Tensor::<u32>::matrix(&buffer, 4, 6).unwrap();
    assert_eq!((all.rows(), all.cols(), all.shape()), (4, 6, [4, 6]));
    assert_eq!(gpu.read(all).unwrap(), counted(24));
    assert_eq!(gpu.read(Tensor::<u32>::vector(&buffer, 3).unwrap()).unwrap(), [0, 1, 2]);
    assert_eq!(gpu.read(Tensor::<u32>::scalar(&buffer, 23).unwrap()).unwrap(), [23]);
    assert_eq!(gpu.read(Tensor::<u32>::strided(&buffer, 3, 2, 5, 7).unwrap()).unwrap(), [5, 6, 12, 13, 19, 20]);
    let part = all.row_range(1..3).col_range(2..4);
    assert_eq!(part.shape(), [2, 2]);
    assert_eq!(gpu.read(part).unwrap(), [8, 9, 14, 15]);
    assert_eq!(gpu.read(part.row_range(1..2)).unwrap(), [14, 15]);
}

#[test]
#[allow(clippy::reversed_empty_ranges, reason = "what they give is what is tested")]
fn ranges_are_cut_to_what_is_there() {
    let Some(gpu) = gpu() else { return };
    let buffer = gpu.upload(&counted(24)).unwrap();
    let all = Tensor::<u32>::matrix(&buffer, 4, 6).unwrap();
    assert_eq!(gpu.read(all.row_range(3..9).col_range(5..usize::MAX)).unwrap(), [23]);
    for empty in
        [all.row_range(4..9), all.row_range(7..9), all.row_range(2..1), all.col_range(3..3), all.col_range(9..7)]
    {
        assert_eq!(empty.rows() * empty.cols(), 0);
        assert_eq!(gpu.read(empty).unwrap(), [0u32; 0]);
    }
}

#[test]
fn writes_keep_to_the_view() {
    let Some(gpu) = gpu() else { return };
    let buffer = gpu.upload(&[0u32; 12]).unwrap();
    let all = Tensor::<u32>::matrix(&buffer, 3, 4).unwrap();
    gpu.write(all.row_range(1..3).col_range(1..3), &[1, 2, 3, 4]).unwrap();
    assert_eq!(gpu.read(all).unwrap(), [0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 4, 0]);
    gpu.write(all.row_range(0..2), &[7; 8]).unwrap();
    assert_eq!(gpu.read(all).unwrap(), [7, 7, 7, 7, 7, 7, 7, 7, 0, 3, 4, 0]);
    gpu.write(all.row_range(0..0), &[]).unwrap();
    assert_eq!(gpu.write(all, &[0; 11]).unwrap_err(), shape("write", "data", "12 elements", "11"));
    assert_eq!(gpu.read(all.row_range(0..1)).unwrap(), [7; 4]);
}

#[test]
fn nothing_at_all() {
    let Some(gpu) = gpu() else { return };
    let buffer = gpu.upload::<f32>(&[]).unwrap();
    for [rows, cols] in [[0, 0], [0, 5], [5, 0]] {
        let view: Tensor = Tensor::matrix(&buffer, rows, cols).unwrap();
        assert_eq!(gpu.read(view).unwrap(), [0f32; 0]);
        gpu.write(view, &[]).unwrap();
    }
}

#[test]
fn views_end_inside_the_buffer() {
    let Some(gpu) = gpu() else { return };
    let buffer = gpu.zeros::<f32>(24).unwrap();
    let of = |rows, cols, offset, stride| {
        Tensor::<f32>::strided(&buffer, rows, cols, offset, stride).map(|view| view.shape())
    };
    assert_eq!(of(4, 6, 0, 6), Ok([4, 6]));
    assert_eq!(of(3, 2, 8, 7), Ok([3, 2])); // the gap after the last row need not be there
    let needed =
        |rows, cols, offset, stride, needed| Err(Error::OutOfBounds { rows, cols, stride, offset, needed, size: 96 });
    assert_eq!(of(4, 6, 1, 6), needed(4, 6, 1, 6, 100));
    assert_eq!(of(3, 2, 9, 7), needed(3, 2, 9, 7, 100));
    assert_eq!(of(0, 6, 25, 6), needed(0, 6, 25, 6, 100));
    // Numbers of 16 bits end with a whole word, the half of which may be another's.
    let words = |cols| Tensor::stored(Storage::F16, &buffer, 1, cols, 47, cols).map(|view| view.shape());
    assert_eq!(words(1), Ok([1, 1]));
    let odd = wgpu::BufferDescriptor { label: None, size: 6, usage: buffer.usage(), mapped_at_creation: false };
    let odd = gpu.device().create_buffer(&odd);
    let error = Tensor::stored(Storage::F16, &odd, 1, 3, 0, 3).map(|view| view.shape());
    assert_eq!(error, Err(Error::OutOfBounds { rows: 1, cols: 3, stride: 3, offset: 0, needed: 8, size: 6 }));
    let most = u32::MAX as usize;
    assert_eq!(of(most, most, most, most), needed(most, most, most, most, u64::MAX));
    assert_eq!(of(1, 1, usize::MAX, 1), needed(1, 1, usize::MAX, 1, u64::MAX));
    for (what, [rows, cols, stride]) in
        [("rows", [1 << 32, 1, 1]), ("cols", [1, 1 << 32, 1]), ("stride", [2, 1, 1 << 32])]
    {
        assert_eq!(of(rows, cols, 0, stride), Err(shape("tensor", what, "below 2^32", "4294967296")));
    }
    assert_eq!(of(2, 3, 0, 2), Err(shape("tensor", "stride", "at least the 3 columns", "2")));
    assert_eq!(of(1, 3, 0, 2), Ok([1, 3])); // one row does not overlap itself
}

#[test]
fn usages_that_are_missing_are_named() {
    let Some(gpu) = gpu() else { return };
    let make = |usage| {
        let descriptor = wgpu::BufferDescriptor { label: None, size: 64, usage, mapped_at_creation: false };
        gpu.device().create_buffer(&descriptor)
    };
    let lacks = |usage| Error::Usage { usage };
    let buffer = make(BufferUsages::COPY_SRC | BufferUsages::COPY_DST);
    assert_eq!(Tensor::<f32>::vector(&buffer, 4).unwrap_err(), lacks("STORAGE"));
    let buffer = make(BufferUsages::STORAGE);
    let view: Tensor = Tensor::vector(&buffer, 4).unwrap();
    assert_eq!(gpu.read(view).unwrap_err(), lacks("COPY_SRC"));
    assert_eq!(gpu.write(view, &[0.0; 4]).unwrap_err(), lacks("COPY_DST"));
    assert_eq!(gpu.check(), Ok(()), "refused before wgpu saw it");
}

/// Copies larger than the staging memory, as one span, as rows with gaps, and as one row.
#[test]
fn copies_in_parts() {
    let Some(gpu) = gpu() else { return };
    let len = (32 << 18) + 1001; // 32 MiB and a little
    let data = counted(len);
    let buffer = gpu.upload(&data).unwrap();
    assert!(gpu.read(Tensor::<u32>::matrix(&buffer, 1, len).unwrap()).unwrap() == data);
    assert!(gpu.read(Tensor::<u32>::vector(&buffer, len).unwrap()).unwrap() == data);
    let gaps = Tensor::<u32>::strided(&buffer, len / 1000, 999, 1, 1000).unwrap();
    let want: Vec<u32> = data.chunks_exact(1000).flat_map(|row| &row[1..]).copied().collect();
    assert!(gpu.read(gaps).unwrap() == want);
    // Two rows of which each is more than half of what one copy takes.
    let wide = Tensor::<u32>::strided(&buffer, 2, 3, 7, len / 2).unwrap();
    assert_eq!(
        gpu.read(wide).unwrap(),
        [7, 8, 9].into_iter().chain([7, 8, 9].map(|at| at + len as u32 / 2)).collect::<Vec<_>>()
    );
}

/// Softmax from one view of a buffer into another.
fn softmax_within(gpu: &Gpu, data: &[f32], from: View, to: View) -> Result<Vec<f32>, Error> {
    let buffer = gpu.upload(data).unwrap();
    let view =
        |View { rows, cols, offset, stride }| Tensor::<f32>::strided(&buffer, rows, cols, offset, stride).unwrap();
    gpu.run(|recorder| softmax::forward(recorder, view(from), view(to), Default::default()))?;
    Ok(gpu.read(Tensor::vector(&buffer, data.len()).unwrap()).unwrap())
}

#[derive(Clone, Copy)]
struct View {
    rows: usize,
    cols: usize,
    offset: usize,
    stride: usize,
}

#[test]
fn an_output_beside_its_input_in_one_buffer() {
    let Some(gpu) = gpu() else { return };
    let data = Fill::Small.matrix(20, 18, 1);
    let place = |offset, stride| View { rows: 6, cols: 18, offset, stride };
    let pairs = [
        (place(0, 18), place(108, 18)),      // one after the other
        (place(108, 18), place(0, 18)),      // and the other way round
        (place(0, 36), place(18, 36)),       // alternating rows
        (place(5, 36), place(5 + 18, 36)),   // beside each other in each row, off every alignment
        (place(25, 37), place(25 + 18, 37)), // the same with a gap, across the ends of rows
    ];
    for (from, to) in pairs {
        let found = softmax_within(gpu, &data, from, to).unwrap();
        let at = |view: View, index: usize| view.offset + index / view.cols * view.stride + index % view.cols;
        let x: Vec<f32> = (0..108).map(|index| data[at(from, index)]).collect();
        let y = softmax::compute(gpu, &x, 18, Default::default()).unwrap();
        let mut want = data.clone();
        y.iter().enumerate().for_each(|(index, &y)| want[at(to, index)] = y);
        assert_eq!(found, want);
    }
}

#[test]
fn an_output_over_its_input_is_refused() {
    let Some(gpu) = gpu() else { return };
    let data = Fill::Small.matrix(20, 18, 2);
    let place = |offset, stride| View { rows: 6, cols: 18, offset, stride };
    let pairs = [
        (place(0, 18), place(18, 18)),
        (place(0, 18), place(107, 18)), // the last element
        (place(107, 18), place(0, 18)),
        (place(0, 40), place(17, 40)),      // one column
        (place(0, 40), place(40 + 23, 40)), // a row's end in the next row's beginning
        (place(0, 40), place(18, 41)),      // different strides, taken to meet where their spans do
    ];
    for (from, to) in pairs {
        let found = softmax_within(gpu, &data, from, to);
        assert_eq!(found, Err(overlap("softmax", "y", "x")), "{} and {}", from.offset, to.offset);
    }
}
