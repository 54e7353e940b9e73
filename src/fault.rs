//! The errors of a device. After an error wgpu goes on: every call returns Ok and reads give zeros. The first fault is
//! therefore kept, and every record and every read reports it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use crate::gpu::lock;
use crate::{Error, Result};

/// The first error. It stays.
#[derive(Debug, Default)]
pub(crate) struct First(Mutex<Option<Error>>);

impl First {
    /// Keeps an error, if it is the first.
    pub(crate) fn keep(&self, error: Error) {
        lock(&self.0).get_or_insert(error);
    }

    /// Keeps the loss of the device, in place of any earlier error.
    pub(crate) fn lost(&self, message: String) {
        *lock(&self.0) = Some(Error::DeviceLost { message });
    }
}

/// What went wrong with a device.
#[derive(Debug, Default)]
pub(crate) struct Fault {
    /// Shared with the device's handlers.
    pub(crate) first: Arc<First>,
    #[cfg(target_arch = "wasm32")]
    answers: web::Answers,
}

impl Fault {
    /// The first error, if there is one.
    pub(crate) fn check(&self) -> Result<()> {
        lock(&self.first.0).clone().map_or(Ok(()), Err)
    }

    /// Forgets an error. A lost device stays lost.
    pub(crate) fn clear(&self) {
        let mut first = lock(&self.first.0);
        if !matches!(*first, Some(Error::DeviceLost { .. })) {
            *first = None;
        }
    }

    /// Runs `calls`. An error that wgpu reports for them becomes the result, and so does a panic inside wgpu (when
    /// short of memory, wgpu unwraps errors that it should return). Error scopes are per thread and do not see a device
    /// loss. On the web the answers of the scopes come later; their errors are then kept as faults.
    pub(crate) fn guard<R>(&self, device: &wgpu::Device, calls: impl FnOnce() -> R) -> Result<R> {
        let scopes = [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal]
            .map(|filter| device.push_error_scope(filter));
        let result = catch_unwind(AssertUnwindSafe(calls));
        self.pop(scopes)?;
        result.map_err(|_| Error::Device { message: "wgpu panicked inside a call".into() })
    }

    /// The error that a scope caught, the innermost scope first.
    #[cfg(not(target_arch = "wasm32"))]
    fn pop(&self, [memory, validation, internal]: [wgpu::ErrorScopeGuard; 3]) -> Result<()> {
        for answer in [internal.pop(), validation.pop(), memory.pop()] {
            if let Some(error) = pollster::block_on(answer) {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// [`Fault::check`] after everything that wgpu has to report on earlier calls is known.
    pub(crate) async fn settled(&self) -> Result<()> {
        #[cfg(target_arch = "wasm32")]
        self.answers.wait(|error| self.first.keep(error.into())).await;
        self.check()
    }
}

/// A web page must not wait for the answer of an error scope. Answers are therefore polled at each later call, and
/// awaited before a result is returned.
#[cfg(target_arch = "wasm32")]
mod web {
    use core::future::Future;
    use core::pin::Pin;
    use core::task::{Context, Poll, Waker};
    use std::sync::Mutex;

    use super::{Fault, lock};
    use crate::Result;

    type Answer = Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>;

    /// The pending answers of popped scopes.
    #[derive(Default)]
    pub(super) struct Answers(Mutex<Vec<Answer>>);

    impl core::fmt::Debug for Answers {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            write!(f, "Answers({})", lock(&self.0).len())
        }
    }

    impl Answers {
        pub(super) async fn wait(&self, keep: impl Fn(wgpu::Error)) {
            let answers = core::mem::take(&mut *lock(&self.0));
            for answer in answers {
                answer.await.into_iter().for_each(&keep);
            }
        }
    }

    impl Fault {
        pub(super) fn pop(&self, [memory, validation, internal]: [wgpu::ErrorScopeGuard; 3]) -> Result<()> {
            let mut answers = lock(&self.answers.0);
            let popped: [Answer; 3] = [Box::pin(internal.pop()), Box::pin(validation.pop()), Box::pin(memory.pop())];
            answers.extend(popped);
            let mut context = Context::from_waker(Waker::noop());
            answers.retain_mut(|answer| match answer.as_mut().poll(&mut context) {
                Poll::Pending => true,
                Poll::Ready(error) => {
                    error.into_iter().for_each(|error| self.first.keep(error.into()));
                    false
                }
            });
            self.check()
        }
    }
}
