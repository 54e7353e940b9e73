//! A Vulkan layer that makes chosen calls fail. x86-64 SysV only (generic 6-integer-argument trampolines).
//! VKFAULT="name:first:code[:count],..."  e.g. vkAllocateMemory:3:-2 (OUT_OF_DEVICE_MEMORY from the 4th call on),
//! vkQueueSubmit:2:-4:1 (DEVICE_LOST once, on the 3rd call). VKFAULT_LOG=1 prints each injected failure and call totals at exit.
//! VKFAULT_NEED_ARM=1: count calls only while the environment variable VKFAULT_ARMED exists (the test sets it after device creation).
//! Codes: -1 OUT_OF_HOST_MEMORY  -2 OUT_OF_DEVICE_MEMORY  -3 INITIALIZATION_FAILED  -4 DEVICE_LOST  -5 MEMORY_MAP_FAILED
#![allow(non_snake_case)]
use std::ffi::{c_char, c_void, CStr};
use std::sync::{
    atomic::{AtomicUsize, Ordering::SeqCst},
    OnceLock,
};
type P = *const c_void;
const NAMES: &[&str] = &[
    "vkAllocateMemory",
    "vkCreateBuffer",
    "vkQueueSubmit",
    "vkWaitSemaphores",
    "vkWaitSemaphoresKHR",
    "vkWaitForFences",
    "vkGetFenceStatus",
    "vkGetSemaphoreCounterValue",
    "vkGetSemaphoreCounterValueKHR",
    "vkCreateComputePipelines",
    "vkCreateShaderModule",
    "vkMapMemory",
    "vkCreateDescriptorPool",
    "vkAllocateDescriptorSets",
    "vkCreateCommandPool",
    "vkAllocateCommandBuffers",
    "vkBeginCommandBuffer",
    "vkEndCommandBuffer",
    "vkBindBufferMemory",
    "vkCreateDescriptorSetLayout",
    "vkCreatePipelineLayout",
    "vkCreateFence",
    "vkCreateSemaphore",
    "vkResetFences",
];
const N: usize = 24;
#[allow(clippy::declare_interior_mutable_const)]
const Z: AtomicUsize = AtomicUsize::new(0);
static NEXT: [AtomicUsize; N] = [Z; N];
static CALLS: [AtomicUsize; N] = [Z; N];
static NEXT_GIPA: AtomicUsize = AtomicUsize::new(0);
static NEXT_GDPA: AtomicUsize = AtomicUsize::new(0);
#[derive(Clone, Copy)]
struct Rule {
    first: usize,
    code: i32,
    count: usize,
}
fn rules() -> &'static [Option<Rule>; N] {
    static R: OnceLock<[Option<Rule>; N]> = OnceLock::new();
    R.get_or_init(|| {
        let mut r = [None; N];
        for s in std::env::var("VKFAULT").unwrap_or_default().split(',').filter(|s| !s.is_empty()) {
            let p: Vec<&str> = s.split(':').collect();
            if let Some(i) = NAMES.iter().position(|n| *n == p[0]) {
                r[i] = Some(Rule {
                    first: p[1].parse().unwrap(),
                    code: p[2].parse().unwrap(),
                    count: p.get(3).map_or(usize::MAX, |c| c.parse().unwrap()),
                })
            } else {
                eprintln!("vkfault: unknown {}", p[0])
            }
        }
        r
    })
}
fn log() -> bool {
    std::env::var_os("VKFAULT_LOG").is_some()
}
unsafe fn call(i: usize, a: [usize; 6]) -> i32 {
    let armed = std::env::var_os("VKFAULT_NEED_ARM").is_none() || std::env::var_os("VKFAULT_ARMED").is_some();
    if armed {
        let k = CALLS[i].fetch_add(1, SeqCst);
        if let Some(r) = rules()[i] {
            if k >= r.first && k - r.first < r.count {
                if log() {
                    eprintln!("vkfault: {} call #{k} -> {}", NAMES[i], r.code)
                }
                return r.code;
            }
        }
    }
    let f: extern "C" fn(usize, usize, usize, usize, usize, usize) -> i32 = std::mem::transmute(NEXT[i].load(SeqCst));
    f(a[0], a[1], a[2], a[3], a[4], a[5])
}
macro_rules! tramp { ($($n:literal $id:ident),*) => { $(unsafe extern "C" fn $id(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> i32 { call($n, [a, b, c, d, e, f]) })* const T: [unsafe extern "C" fn(usize, usize, usize, usize, usize, usize) -> i32; N] = [$($id),*]; } }
tramp!(0 t0, 1 t1, 2 t2, 3 t3, 4 t4, 5 t5, 6 t6, 7 t7, 8 t8, 9 t9, 10 t10, 11 t11, 12 t12, 13 t13, 14 t14, 15 t15, 16 t16, 17 t17, 18 t18, 19 t19, 20 t20, 21 t21, 22 t22, 23 t23);
type Gpa = unsafe extern "C" fn(P, *const c_char) -> P;
#[repr(C)]
struct Base {
    stype: i32,
    next: *const Base,
}
#[repr(C)]
struct Link {
    next: *mut Link,
    gipa: usize,
    gdpa_or_gpdpa: usize,
}
#[repr(C)]
struct LayerCI {
    stype: i32,
    next: P,
    function: i32,
    info: *mut Link,
}
unsafe fn link(mut p: *const Base, stype: i32) -> *mut LayerCI {
    while !p.is_null() {
        if (*p).stype == stype && (*(p as *const LayerCI)).function == 0 {
            return p as *mut LayerCI;
        }
        p = (*p).next
    }
    std::ptr::null_mut()
}
unsafe extern "C" fn create_instance(ci: *const Base, al: P, out: *mut P) -> i32 {
    let l = link((*ci).next, 47);
    if l.is_null() {
        return -3;
    }
    let gipa = (*(*l).info).gipa;
    NEXT_GIPA.store(gipa, SeqCst);
    (*l).info = (*(*l).info).next;
    let g: Gpa = std::mem::transmute(gipa);
    let f: unsafe extern "C" fn(*const Base, P, *mut P) -> i32 =
        std::mem::transmute(g(std::ptr::null(), c"vkCreateInstance".as_ptr()));
    f(ci, al, out)
}
unsafe extern "C" fn create_device(pd: P, ci: *const Base, al: P, out: *mut P) -> i32 {
    let l = link((*ci).next, 48);
    if l.is_null() {
        return -3;
    }
    // device link: {pNext, pfnNextGetInstanceProcAddr, pfnNextGetDeviceProcAddr}
    let (gipa, gdpa) = ((*(*l).info).gipa, (*(*l).info).gdpa_or_gpdpa);
    NEXT_GDPA.store(gdpa, SeqCst);
    (*l).info = (*(*l).info).next;
    let g: Gpa = std::mem::transmute(gipa);
    let f: unsafe extern "C" fn(P, *const Base, P, *mut P) -> i32 =
        std::mem::transmute(g(std::ptr::null(), c"vkCreateDevice".as_ptr()));
    f(pd, ci, al, out)
}
#[no_mangle]
pub unsafe extern "C" fn vkGetDeviceProcAddr(dev: P, name: *const c_char) -> P {
    let n = CStr::from_ptr(name).to_bytes();
    if n == b"vkGetDeviceProcAddr" {
        return vkGetDeviceProcAddr as P;
    }
    let g = NEXT_GDPA.load(SeqCst);
    if g == 0 {
        return std::ptr::null();
    }
    let g: Gpa = std::mem::transmute(g);
    let p = g(dev, name);
    if p.is_null() {
        return p;
    }
    if let Some(i) = NAMES.iter().position(|x| x.as_bytes() == n) {
        NEXT[i].store(p as usize, SeqCst);
        return T[i] as P;
    }
    p
}
#[no_mangle]
pub unsafe extern "C" fn vkGetInstanceProcAddr(inst: P, name: *const c_char) -> P {
    let n = CStr::from_ptr(name).to_bytes();
    match n {
        b"vkGetInstanceProcAddr" => return vkGetInstanceProcAddr as P,
        b"vkCreateInstance" => return create_instance as P,
        b"vkCreateDevice" => return create_device as P,
        b"vkGetDeviceProcAddr" => return vkGetDeviceProcAddr as P,
        _ => {}
    }
    let g = NEXT_GIPA.load(SeqCst);
    if g == 0 {
        return std::ptr::null();
    }
    let g: Gpa = std::mem::transmute(g);
    g(inst, name)
}
#[repr(C)]
pub struct Negotiate {
    stype: i32,
    next: P,
    version: u32,
    gipa: P,
    gdpa: P,
    gpdpa: P,
}
#[no_mangle]
pub unsafe extern "C" fn vkNegotiateLoaderLayerInterfaceVersion(v: *mut Negotiate) -> i32 {
    (*v).version = 2;
    (*v).gipa = vkGetInstanceProcAddr as P;
    (*v).gdpa = vkGetDeviceProcAddr as P;
    (*v).gpdpa = std::ptr::null();
    0
}
