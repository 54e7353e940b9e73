//! What a lost device, a foreign error or a shared one does.

use std::sync::{Arc, Mutex};

use wgloss::verify::Fill;
use wgloss::{Error, Gpu, Options, Reduction, Tensor, Tuning, cross_entropy, info_nce, softmax};

use crate::harness::*;
use crate::info_nce as nce;

const ROWS: usize = 5;
const COLS: usize = 40;

/// A computation that must be right or an error.
fn compute(gpu: &Gpu) -> Result<Vec<f32>, Error> {
    softmax::compute(gpu, &Fill::Small.matrix(ROWS, COLS, 1), COLS, Default::default())
}

fn is_of_device(error: &Error) -> bool {
    matches!(error, Error::DeviceLost { .. } | Error::Device { .. } | Error::OutOfMemory { .. })
}

#[test]
fn a_lost_device_gives_errors_only() {
    let Some(gpu) = open(None) else { return };
    let want = compute(&gpu).unwrap();
    let x = gpu.upload(&want).unwrap();
    let y = gpu.zeros::<f32>(want.len()).unwrap();
    let (x, y): (Tensor, Tensor) = (Tensor::matrix(&x, ROWS, COLS).unwrap(), Tensor::matrix(&y, ROWS, COLS).unwrap());
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    softmax::forward(&mut gpu.record(&mut encoder), x, y, Default::default()).unwrap();
    let commands = encoder.finish();
    gpu.device().destroy();
    gpu.queue().submit([commands]);
    let errors = [
        gpu.read(y).map(drop),
        gpu.wait(),
        pollster::block_on(gpu.wait_async()),
        gpu.check(),
        gpu.run(|recorder| softmax::forward(recorder, x, y, Default::default())),
        gpu.upload(&want).map(drop),
        gpu.zeros::<f32>(4).map(drop),
        gpu.write(x, &want),
        compute(&gpu).map(drop),
    ];
    let is_loss = |error: &Result<(), Error>| matches!(error, Err(Error::DeviceLost { .. }));
    assert!(errors.iter().all(is_loss), "{errors:?}");
    gpu.clear_fault();
    assert!(matches!(gpu.check(), Err(Error::DeviceLost { .. })), "a lost device stays lost");
    assert_eq!(compute(&open(None).unwrap()).unwrap(), want, "a new device in the same process");
}

#[test]
fn a_device_lost_before_any_call() {
    let Some(gpu) = open(None) else { return };
    gpu.device().destroy();
    let error = compute(&gpu).unwrap_err();
    assert!(is_of_device(&error), "{error:?}");
    let error = gpu.zeros::<f32>(4).map(drop).and_then(|()| gpu.wait()).unwrap_err();
    assert!(is_of_device(&error), "{error:?}");
}

#[test]
fn a_device_lost_between_run_and_read() {
    let Some(gpu) = open(None) else { return };
    let (x, y) = (input(&gpu, 1, 2, &[0.0f32; 2]), output(&gpu, 1, 2));
    gpu.run(|recorder| softmax::forward(recorder, x.view()?, y.view()?, Default::default())).unwrap();
    gpu.device().destroy();
    let error = gpu.read(y.view().unwrap()).unwrap_err();
    assert!(is_of_device(&error), "{error:?}");
}

#[test]
fn a_device_lost_while_threads_use_it() {
    let Some(gpu) = open(None) else { return };
    let want = compute(&gpu).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    match compute(&gpu) {
                        Ok(found) => assert_eq!(found, want),
                        Err(error) => return assert!(is_of_device(&error), "{error:?}"),
                    }
                }
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        gpu.device().destroy();
    });
}

/// wgpu reports an error of the caller's own call to the handler of the device; data read after it may be wrong.
#[test]
fn a_foreign_error_reaches_the_next_read() {
    let Some(gpu) = open(None) else { return };
    let x = input(&gpu, 1, 2, &[1.0f32, 2.0]);
    let mapped_storage = wgpu::BufferDescriptor {
        label: None,
        size: 64,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    };
    let _ = gpu.device().create_buffer(&mapped_storage);
    let nothing = gpu.read(x.view().unwrap().row_range(0..0)).map(drop); // no work, and still not to be trusted
    for found in [nothing, gpu.read(x.view().unwrap()).map(drop), compute(&gpu).map(drop), gpu.check(), gpu.wait()] {
        assert!(matches!(found, Err(Error::Device { .. })), "{found:?}");
    }
    gpu.clear_fault();
    assert_eq!(read(&gpu, &x), [1.0, 2.0]);
}

/// Two devices that this crate did not open. Those of one wgpu instance know each other's buffers; two instances number
/// theirs alike, and wgpu panics or takes the wrong one.
fn foreign_devices() -> [(wgpu::Device, wgpu::Queue); 2] {
    pollster::block_on(async {
        let adapters = wgloss::adapters(wgpu::Backends::all()).await;
        let wish = std::env::var("WGLOSS_ADAPTER").unwrap_or_default().to_lowercase();
        let adapter = adapters.iter().find(|adapter| adapter.get_info().name.to_lowercase().contains(&wish)).unwrap();
        let one = adapter.request_device(&Default::default()).await.unwrap();
        [one, adapter.request_device(&Default::default()).await.unwrap()]
    })
}

/// One for drawing only is refused before anything divides by what it has none of.
#[test]
fn a_device_without_compute_is_refused() {
    if gpu().is_none() {
        return;
    }
    let (device, queue) = pollster::block_on(async {
        let adapters = wgloss::adapters(wgpu::Backends::all()).await;
        let required_limits = wgpu::Limits::downlevel_webgl2_defaults();
        adapters[0].request_device(&wgpu::DeviceDescriptor { required_limits, ..Default::default() }).await.unwrap()
    });
    let error = Gpu::from_wgpu(device, queue).unwrap_err();
    assert!(matches!(error, Error::Limit { needed: 1, limit: 0, .. }), "{error:?}");
}

/// What a device's handler hears.
fn heard_of(device: &wgpu::Device) -> Arc<Mutex<Vec<String>>> {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let ears = heard.clone();
    device.on_uncaptured_error(Arc::new(move |error| ears.lock().unwrap().push(error.to_string())));
    heard
}

#[test]
fn a_device_that_the_caller_brought_keeps_its_handlers() {
    let Some(shared) = gpu() else { return };
    let [(device, queue), (other_device, other_queue)] = foreign_devices();
    let heard = heard_of(&device);
    let gpu = Gpu::from_wgpu(device.clone(), queue).unwrap();
    assert_eq!(compute(&gpu).unwrap(), compute(&shared.with_tuning(*gpu.tuning())).unwrap());

    // The caller's error goes to the caller.
    let too_large = device.limits().max_buffer_size + 4;
    let usage = wgpu::BufferUsages::STORAGE;
    let _ = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: too_large,
        usage,
        mapped_at_creation: false,
    });
    assert_eq!(heard.lock().unwrap().len(), 1);
    assert_eq!(gpu.check(), Ok(()));

    // An error of this crate's own calls goes to whoever called it: here, a buffer of another device.
    let other = Gpu::from_wgpu(other_device, other_queue).unwrap();
    let (x, y) = (input(&other, 1, 2, &[0.0f32; 2]), output(&gpu, 1, 2));
    let error = gpu.run(|recorder| softmax::forward(recorder, x.view()?, y.view()?, Default::default())).unwrap_err();
    assert!(matches!(error, Error::Device { .. }), "{error:?}");
    assert_eq!(heard.lock().unwrap().len(), 1);
    assert!(untouched(&gpu, &y));
    assert!(compute(&gpu).is_ok(), "and is forgotten");

    device.destroy();
    let error = gpu.read(y.view().unwrap()).unwrap_err();
    assert!(is_of_device(&error), "{error:?}");
}

/// wgpu would take a buffer of another instance for whichever has its number here: all devices that are opened are of one.
#[test]
fn devices_opened_one_after_the_other() {
    if gpu().is_none() {
        return;
    }
    let of = || Gpu::open(&Options { adapter: std::env::var("WGLOSS_ADAPTER").ok(), ..Options::default() }).unwrap();
    let (own, other) = (of(), of());
    let (x, theirs) = (input(&own, 1, 2, &[7.0f32; 2]), input(&other, 1, 2, &[1.0f32, 2.0]));
    let y = output(&own, 1, 2);
    let softmax = |x: Tensor| own.run(|recorder| softmax::forward(recorder, x, y.view()?, Default::default()));
    for error in [
        softmax(theirs.view().unwrap()).unwrap_err(),
        own.read(theirs.view().unwrap()).unwrap_err(),
        own.write(theirs.view().unwrap(), &[3.0f32; 2]).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Device { .. }), "{error:?}");
    }
    assert_eq!(own.read(x.view().unwrap()).unwrap(), [7.0; 2]);
    assert_eq!(other.read(theirs.view().unwrap()).unwrap(), [1.0, 2.0]);
    softmax(x.view().unwrap()).unwrap();
}

/// wgpu says so when the encoder is finished, to whoever hears the errors of its device.
#[test]
fn an_encoder_of_another_device() {
    let Some(_) = gpu() else { return };
    let [(device, queue), (other_device, other_queue)] = foreign_devices();
    let heard = heard_of(&other_device);
    let gpu = Gpu::from_wgpu(device, queue).unwrap();
    let (x, y) = (input(&gpu, 1, 2, &[0.0f32; 2]), output(&gpu, 1, 2));
    let mut encoder = other_device.create_command_encoder(&Default::default());
    let recorded =
        softmax::forward(&mut gpu.record(&mut encoder), x.view().unwrap(), y.view().unwrap(), Default::default());
    let commands = encoder.finish();
    other_queue.submit([commands]);
    assert!(recorded.is_err() || !heard.lock().unwrap().is_empty(), "nobody heard of it");
    assert!(untouched(&gpu, &y));
    assert!(compute(&gpu).is_ok(), "and is forgotten");
}

#[test]
fn a_buffer_that_was_destroyed() {
    let Some(gpu) = open(None) else { return };
    let (x, y) = (gpu.upload(&[0.0f32; 2]).unwrap(), gpu.zeros::<f32>(2).unwrap());
    x.destroy();
    let (x, y): (Tensor, Tensor) = (Tensor::matrix(&x, 1, 2).unwrap(), Tensor::matrix(&y, 1, 2).unwrap());
    let error = gpu.run(|recorder| softmax::forward(recorder, x, y, Default::default())).unwrap_err();
    assert!(matches!(error, Error::Device { .. }), "{error:?}");
    let error = gpu.read(x).unwrap_err();
    assert!(matches!(error, Error::Device { .. }), "{error:?}");
    assert_eq!(gpu.read(y).unwrap(), [0.0, 0.0]);
}

#[test]
fn more_than_a_device_has() {
    let Some(shared) = gpu() else { return };
    let limit = shared.limits().max_buffer_size;
    let error = shared.zeros::<f32>((limit / 4 + 1) as usize).unwrap_err();
    assert!(
        matches!(error, Error::Limit { needed, limit: found, .. } if found == limit && needed > limit),
        "{error:?}"
    );
    let small =
        wgpu::Limits { max_buffer_size: 1 << 20, max_storage_buffer_binding_size: 1 << 20, ..Default::default() };
    let gpu = open(Some(small)).unwrap();
    let error = gpu.upload(&[0.0f32; (1 << 18) + 1]).unwrap_err();
    assert_eq!(
        error,
        Error::Limit { what: "wgloss.data: a buffer".into(), needed: (1 << 20) + 4, unit: "bytes", limit: 1 << 20 }
    );
    assert!(gpu.upload(&[0.0f32; 1 << 18]).is_ok());
    let beyond = wgpu::Limits { max_bind_groups: u32::MAX, ..Default::default() };
    let error = Gpu::open(&Options { limits: Some(beyond), ..Default::default() }).unwrap_err();
    assert!(matches!(error, Error::Device { .. }), "{error:?}");
}

#[test]
fn no_such_adapter() {
    let Some(gpu) = gpu() else { return };
    for wish in ["a card that nobody makes", "999"] {
        let error = Gpu::open(&Options { adapter: Some(wish.into()), ..Default::default() }).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::NoAdapter { .. }), "{text}");
        assert!(text.contains(wish) && text.contains(&gpu.info().name), "{text}");
    }
    let nowhere = Options { backends: wgpu::Backends::empty(), ..Default::default() };
    assert_eq!(Gpu::open(&nowhere).unwrap_err().to_string(), "no adapter: asked for any, found this machine has none");
}

/// Each dispatch keeps its own parameters, over more than one page of them.
#[test]
fn many_parameters_in_one_encoder() {
    let Some(gpu) = gpu() else { return };
    let x = Fill::Small.matrix(1, 9, 2);
    let (held, count) = (input(gpu, 1, 9, &x), 300);
    let y = output(gpu, count, 9);
    let options = |index: usize| softmax::Options { temperature: 0.1 + index as f32, log: index % 2 == 1 };
    let record = gpu.run(|recorder| {
        (0..count).try_for_each(|index| {
            softmax::forward(recorder, held.view()?, y.view()?.row_range(index..index + 1), options(index))
        })
    });
    record.unwrap();
    let found = read(gpu, &y);
    for (index, found) in found.chunks(9).enumerate() {
        assert_eq!(found, wide(&softmax::compute(gpu, &x, 9, options(index)).unwrap()));
    }
}

/// Two recorders on two encoders, recorded by turns and submitted in the other order.
#[test]
fn encoders_may_be_interleaved() {
    let Some(gpu) = gpu() else { return };
    let x = Fill::Small.matrix(6, 40, 3);
    let held = input(gpu, 6, 40, &x);
    let ids = input(gpu, 6, 1, &[0u32, 1, 2, 3, 4, 5]);
    let losses = [output(gpu, 1, 1), output(gpu, 1, 1)];
    let lses = [output(gpu, 6, 2), output(gpu, 6, 2)];
    let mut encoders = [(); 2].map(|()| gpu.device().create_command_encoder(&Default::default()));
    let forms = [Reduction::Sum, Reduction::Mean];
    for index in [0, 1, 1, 0] {
        let options = cross_entropy::Options { reduction: forms[index], ..Default::default() };
        let (x, ids) = (held.view().unwrap(), ids.view().unwrap());
        let (loss, lse) = (losses[index].view().unwrap(), lses[index].view().unwrap());
        let (target, weights) = (cross_entropy::Target::Ids(ids), cross_entropy::Weights::default());
        let mut recorder = gpu.record(&mut encoders[index]);
        cross_entropy::forward(&mut recorder, x, target, weights, loss, lse, None, options).unwrap();
    }
    let [first, second] = encoders.map(wgpu::CommandEncoder::finish);
    gpu.queue().submit([second]);
    gpu.queue().submit([first]);
    let [sum, mean] = losses.each_ref().map(|loss| read(gpu, loss)[0]);
    assert!((sum / 6.0 - mean).abs() <= 1e-6 * mean && mean > 0.0, "{sum} {mean}");
}

#[test]
fn threads_share_a_device() {
    let Some(gpu) = gpu() else { return };
    let losses = |seed| {
        let x = Fill::Small.matrix(50, 40, seed);
        let ids: Vec<u32> = (0..50).map(|row| row % 40).collect();
        (0..20).map(|_| cross_entropy::compute(gpu, &x, 40, &ids, Default::default()).unwrap()).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|seed| scope.spawn(move || losses(seed))).collect();
        for (seed, thread) in threads.into_iter().enumerate() {
            assert!(thread.join().unwrap() == losses(seed as u64), "thread {seed}");
        }
    });
}

/// Steps after the first few take no memory of the device that they do not give back.
#[test]
fn memory_does_not_grow() {
    let Some(gpu) = open(None) else { return };
    let (q, k) = (Fill::Small.matrix(90, 12, 1), Fill::Small.matrix(90, 12, 2));
    let (q, k) = (input(&gpu, 90, 12, &q), input(&gpu, 90, 12, &k));
    let (loss, state, dq) = (output(&gpu, 1, 1), output(&gpu, 90, 4), output(&gpu, 90, 12));
    let mut held = Vec::new();
    for step in 0..300 {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let batch = info_nce::Batch::new(view(&q), view(&k));
        let gradients = info_nce::Gradients { dq: Some(view(&dq)), ..Default::default() };
        let mut recorder = gpu.record(&mut encoder);
        info_nce::forward(&mut recorder, batch, view(&loss), view(&state), gradients, Default::default()).unwrap();
        gpu.queue().submit([encoder.finish()]);
        if step % 100 == 99 {
            gpu.wait().unwrap();
            held.push(gpu.device().generate_allocator_report().map_or(0, |report| report.total_allocated_bytes));
        }
    }
    assert!(held[0] > 0 || gpu.info().backend != wgpu::Backend::Vulkan, "nothing was measured");
    assert!(held[2] <= held[0], "{held:?}");
}

/// Each test that docs/faults.md names is there.
#[test]
fn the_table_of_faults_names_tests() {
    let words = include_str!("../docs/faults.md").split('`').skip(1).step_by(2);
    let named: Vec<_> = words.filter_map(|word| word.split_once("::")).filter(|(module, _)| *module != "Gpu").collect();
    assert!(named.len() > 12, "{named:?}");
    for (module, test) in named {
        let path = format!("{}/tests/{module}.rs", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(source.contains(&format!("#[test]\nfn {test}()")), "no test {module}::{test}");
    }
}

#[test]
fn errors_say_where_what_was_expected_and_what_was_found() {
    let text = |error: Error| error.to_string();
    assert_eq!(text(shape("softmax", "y", "2 x 3", "3 x 2")), "softmax: y should be 2 x 3, found 3 x 2");
    assert_eq!(text(option("sgd", "rate", "a number", "NaN")), "sgd: rate should be a number, found NaN");
    assert_eq!(text(overlap("linear", "dx", "x")), "linear: output dx overlaps x in one buffer");
    let view = Error::OutOfBounds { rows: 4, cols: 6, stride: 7, offset: 1, needed: 112, size: 96 };
    let want = "a view of 4 x 6, stride 7, offset 1 (in elements) needs 112 bytes, the buffer has 96";
    assert_eq!(text(view), want);
    let limit = Error::Limit { what: "softmax: one row".into(), needed: 9, unit: "bytes", limit: 8 };
    assert_eq!(text(limit), "softmax: one row needs 9 bytes, this device allows 8");
    assert_eq!(text(Error::Usage { usage: "COPY_SRC" }), "the buffer lacks usage COPY_SRC");
}

/// Scratch grows under threads that share a device, and between the submits of long work come those of others.
#[test]
fn threads_find_what_one_finds() {
    let (Some(alone), Some(shared)) = (open(None), open(None)) else { return };
    let options = info_nce::Options { normalize: true, symmetric: true, ..Default::default() };
    let dim = 6;
    let found = |gpu: &Gpu| {
        [3, 40, 90, 170].map(|n| {
            let (q, k) = (Fill::Small.matrix(n, dim, 1), Fill::Small.matrix(n, dim, 2));
            nce::on_device(gpu, &nce::plain(&q, &k, dim), options)
        })
    };
    // Long to one half of the threads.
    let tunings = [*alone.tuning(), Tuning { work: 1, ..*alone.tuning() }];
    let want = tunings.map(|tuning| found(&alone.with_tuning(tuning)));
    std::thread::scope(|threads| {
        for index in 0..8 {
            let (gpu, want) = (shared.with_tuning(tunings[index % 2]), &want[index % 2]);
            threads.spawn(move || assert!(found(&gpu) == *want, "thread {index}"));
        }
    });
}
