use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use burn::tensor::wgpu::{WgpuOptions, WgpuSetup};

use crate::{Error, Result};

/// burn's devices and their kernels.
static KNOWN: Mutex<Vec<(Device, wgloss::Gpu)>> = Mutex::new(Vec::new());

/// Opens burn's default wgpu device for burn and for the losses of this crate.
///
/// burn hands out the queue of a device only where it is opened, so this stands before the first tensor on that device. What
/// `Device::default()` returns afterwards is the same device.
///
/// # Errors
/// [`Error::Burn`] if there is no adapter, or burn has opened the device already.
pub fn device() -> Result<Device> {
    open(Device::wgpu_options())
}

/// The same with options: which adapter, how much memory is kept, how many tasks make a submit.
///
/// # Errors
/// As [`device`].
pub fn open(options: WgpuOptions) -> Result<Device> {
    let (device, setup) = options.init_with_setup().map_err(Error::burn)?;
    register(&device, &setup)?;
    Ok(device)
}

/// Lets the losses run on a device that burn has, with the setup that it was opened with or made from: for programs that own their wgpu
/// device and gave it to burn by `Device::wgpu_options().setup(setup).init()`.
///
/// # Errors
/// [`Error::Loss`] if not even a small buffer can be made on it.
pub fn register(device: &Device, setup: &WgpuSetup) -> Result<()> {
    let gpu = wgloss::Gpu::from_wgpu(setup.device.clone(), setup.queue.clone())?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|(other, _)| other != device);
    known.push((device.clone(), gpu));
    Ok(())
}

/// The kernels of a device: to look at its limits, to give them other sizes, to free their working memory.
///
/// # Errors
/// [`Error::UnknownDevice`] if it was not opened by [`device`], [`open`] or [`register`].
pub fn gpu(device: &Device) -> Result<wgloss::Gpu> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known.iter().find(|(other, _)| other == device);
    found.map(|(_, gpu)| gpu.clone()).ok_or_else(|| Error::UnknownDevice { device: format!("{device:?}") })
}
